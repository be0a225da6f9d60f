"""The samples of a trained chain, measured: which sampler drew them, and how far they are from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.diffusion import DDPM
from ancestral.evaluation.bounds import evaluation_mode
from ancestral.evaluation.quality import LEAST, Quality, Ruler, drawn

STEPS = 50
"""The levels a DDPM's samples take by default: as in ``DDPM.preview``, for the cost's sake."""


def check_count(quality: int) -> None:
    """Refuse a number of samples to measure, as an option gives it, that is neither 0 (none) nor enough."""
    if isinstance(quality, bool) or not isinstance(quality, int) or (quality != 0 and quality < LEAST):
        raise ValueError(f"quality is {quality}; it must be 0, for none, or at least {LEAST} samples.")


@dataclass(frozen=True)
class MeasuredSamples:
    """A distance with the sampler it is of."""

    sampler: str
    """In words: how many of the levels were walked, and how the walk ended."""
    network_calls: int
    """Generative steps p(z_{t−1}|z_t) computed for one sample."""
    final: str
    """Whether the last step is the mean of p(x|z_1) or a draw from it."""
    quality: Quality

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "sampler": self.sampler,
            "network_calls_per_sample": self.network_calls,
            "final": self.final,
            **self.quality.json(),
        }


def levels_taken(chain: Chain, steps: int | None) -> int:
    """How many levels one sample takes: all, or for a DDPM ``steps`` of them (at most 50 when left out).

    ``ValueError`` for steps above T, or for another chain, which has no fewer than all.
    """
    if isinstance(chain, DDPM):
        taken = min(chain.T, STEPS) if steps is None else steps
        checks.integer("steps", taken, low=1, high=chain.T)
        return taken
    if steps is not None:
        raise ValueError(f"steps is {steps}, for a ddpm, and this is a {type(chain).__name__}. Leave it out.")
    return chain.T


@torch.no_grad()
def measure_samples(
    chain: Chain,
    ruler: Ruler,
    *,
    steps: int | None = None,
    final: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
) -> MeasuredSamples:
    """The distance of ancestral samples of ``chain``, as many as the ruler has examples.

    A DDPM takes ``steps`` of its levels (``levels_taken``), and the distance is then that sampler's and not
    that of all T. ``final`` is as in ``Chain.sample``: "mean" is what ``ancestral sample`` draws unless told
    otherwise, and with equal seed, steps and batch size these are the same samples; "draw" gives samples of
    the model that the ELBO is of. The caller's random state is left as it was.
    """
    taken = levels_taken(chain, steps)

    def sample(n: int) -> Tensor:
        if isinstance(chain, DDPM):
            return chain.sample(n, final=final, steps=taken)
        return chain.sample(n, final=final)

    device = next(chain.parameters()).device
    with evaluation_mode(chain):
        samples = drawn(sample, ruler.n, device=device, seed=seed, batch_size=batch_size)
    words = "ancestral, all levels" if taken == chain.T else f"ancestral, {taken} of {chain.T} levels"
    return MeasuredSamples(words, taken, final, ruler.measure(samples))
