"""A small diffusion on images of 2×3×3 whose network remembers what it was asked, for tests of samplers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion, variance_of
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling


class Network(nn.Module):
    """Some function of z and t that remembers what it was asked; two outputs where a variance is learned."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2 * outputs, 3, padding=1)
        self.asked: list[tuple[int, float]] = []

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        self.asked.append((len(z), float(time[0])))
        return torch.tanh(self.inner(z) + time.reshape(-1, 1, 1, 1))


def chain_of(
    *, prediction: str = "velocity", variance: str = "posterior", levels: int | None = 17
) -> Diffusion:
    return Diffusion(
        Network(2 if variance == "learned" else 1),
        Schedule.cosine(30),
        scaling=Scaling(DataSpec((2, 3, 3), levels=levels)),
        parametrization=PARAMETRIZATIONS[prediction],
        variance=variance_of(variance),
    )
