"""Fourier features: their formula, where they stand, and what they are precise to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ancestral.config import DDPMConfig
from ancestral.core.spec import DataSpec
from ancestral.experiments.build import build_chain
from ancestral.networks import Fourier, TimeMLP, Transformer, UNet
from ancestral.networks.fourier import widened


class Asked(nn.Module):
    """Remembers what it was asked."""

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        self.z, self.time = z, time
        return z


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_features_are_their_formula(shape):
    z = torch.randn(shape, dtype=torch.float64)
    asked, time = Asked(), torch.rand(2)
    Fourier(asked, (-1, 3))(z, time)
    assert asked.time is time
    assert asked.z.shape[1] == widened(3, (-1, 3)) == 15
    for c in range(3):
        turns = [math.pi * z[:, c] / 2.0, 8.0 * math.pi * z[:, c]]
        expected = [z[:, c], turns[0].sin(), turns[0].cos(), turns[1].sin(), turns[1].cos()]
        for i, values in enumerate(expected):
            torch.testing.assert_close(asked.z[:, 3 * i + c], values, atol=1e-12, rtol=0)


def test_they_are_taken_in_single_precision_at_least():
    asked, z = Asked(), torch.linspace(-1.0, 1.0, 2001)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        Fourier(asked, (12,))(z, z[:, 0])
    exact = (2.0**12 * math.pi * z.double()).sin()
    assert (asked.z[:, 1:2] - exact).abs().max() < 1e-3
    Fourier(asked, (7,))(z.bfloat16(), z[:, 0])
    assert asked.z.dtype == torch.float32


def test_neighbouring_levels_of_8_bits_are_far_apart_in_them():
    asked = Asked()
    levels = (torch.arange(256) / 127.5 - 1.0)[:, None]
    Fourier(asked, (7,))(levels, levels[:, 0])
    assert (asked.z[1:, 1:] - asked.z[:-1, 1:]).norm(dim=1).min() > 1.0


@pytest.mark.parametrize(
    ("options", "shape", "kind"),
    [
        ({"channels": (4,)}, (3, 8, 8), UNet),
        ({"network": "transformer", "width": 16, "blocks": 1}, (3, 8, 8), Transformer),
        ({"width": 6}, (5,), TimeMLP),
    ],
)
def test_every_network_has_them(options, shape, kind, perturb, unreached):
    chain = build_chain(DDPMConfig(T=5, fourier=(2, 3), **options), DataSpec(shape, levels=17))
    network = perturb(chain.network)
    assert isinstance(network, Fourier)
    assert isinstance(network.network, kind)
    z, time = torch.randn(4, *shape), torch.rand(4)
    assert not unreached(network, lambda: network(z, time))


def test_what_cannot_be_is_refused():
    for exponents, message in (((), "no exponents"), ((13,), "from -4 to 12"), ((0.5,), "whole number")):
        with pytest.raises(ValueError, match=message):
            Fourier(nn.Identity(), exponents)
