"""Data that do not match the model, handed to the Python functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import ancestral
from ancestral import distributions as ours
from ancestral.bounds import SampledLevelsBound
from ancestral.evaluation import scores
from ancestral.objectives import default_objective
from inputs.cases import Cases

CASES = Cases("Data that do not match the model")


class Own(ancestral.Chain):
    """A VAE whose p(x|z) is what ``make`` gives."""

    def __init__(self, make: Callable[[Tensor], Distribution], spec: ancestral.DataSpec) -> None:
        super().__init__(T=1, spec=spec)
        self.make = make
        self.encoder, self.decoder = nn.Linear(spec.dims, 20), nn.Linear(10, spec.dims)

    def q_top(self, h: Tensor) -> Distribution:
        return ours.gaussian(self.encoder(h.float().flatten(1)))

    def p_top(self, n: int) -> Distribution:
        return ours.standard_normal(n, (10,), self.decoder.bias)

    def p_step(self, state: Tensor, t: int) -> Distribution:
        return self.make(self.decoder(state).unflatten(1, self.spec.shape))


def _vae(data: ancestral.Dataset) -> ancestral.Chain:
    torch.manual_seed(0)
    return ancestral.build_chain(ancestral.VAEConfig(network="mlp"), data.spec, train=data.seen())


def _calls(chain: ancestral.Chain) -> list[Callable[[Any], Any]]:
    return [
        lambda x: ancestral.evaluate(chain, x),
        lambda x: ancestral.log_likelihood(chain, x, samples=2),
        chain.elbo,
        lambda x: scores(chain, x),
        lambda x: default_objective(chain)(chain, x),
    ]


def _rejected(chain: ancestral.Chain, x: Any, *words: str) -> None:
    for call in _calls(chain):
        with pytest.raises((ValueError, TypeError)) as error:
            call(x)
        for word in words:
            assert word in str(error.value)


@CASES.add(
    "digits of 17 grey levels as int64, whole floats and NumPy arrays",
    answer="the bits/dim of the uint8 tensor, to the last bit",
)
def other_types(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain, x = _vae(data), data.test.x[:64]
    expected = ancestral.evaluate(chain, x).bits_per_dim
    for same in (x.long(), x.float(), x.double(), x.numpy(), x.numpy().astype(">f8")):
        assert ancestral.evaluate(chain, same).bits_per_dim == expected


@CASES.add(
    "digits divided by 16, multiplied by 15, shifted, or with a half",
    answer="a ValueError with the range that is there and the range 0 to 16",
)
def other_units(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain, x = _vae(data), data.test.x[:64]
    _rejected(chain, x / 16.0, "from 0 to 1", "0 to 16")
    _rejected(chain, (x.float() * 15).to(torch.uint8), "from 0 to 240", "0 to 16")
    _rejected(chain, x / 8.0 - 1.0, "from -1 to 1", "0 to 16")
    _rejected(chain, x + 0.5, "from 0.5 to 16.5", "0 to 16")
    _rejected(chain, x.long() - 3, "from -3 to 13", "0 to 16")


@CASES.add(
    "images of 0 to 255, or divided by 255, for a model of 0 and 1",
    answer="a ValueError with both ranges",
)
def bytes_for_bits(folder: Path) -> None:
    data = ancestral.load_data("digits", binarize="threshold")
    chain, x = _vae(data), data.test.x[:64]
    _rejected(chain, x * 255, "from 0 to 255", "0 to 1")
    _rejected(chain, x * 0.4, "from 0 to 0.4", "0 to 1")


@CASES.add(
    "no channel, flat images, three channels, one row, channels last, a single image, no image",
    answer="a ValueError with the shape, the model's shape and how to convert it",
)
def other_shapes(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain, x = _vae(data), data.test.x[:64]
    _rejected(chain, x[:, 0], "(64, 8, 8)", "x[:, None]")
    _rejected(chain, x.flatten(1), "(64, 64)", "reshape(-1, 1, 8, 8)")
    _rejected(chain, x.expand(-1, 3, -1, -1), "(64, 3, 8, 8)", "(n, 1, 8, 8)")
    _rejected(chain, x[:, :, :1], "(64, 1, 1, 8)", "(n, 1, 8, 8)")
    _rejected(chain, x.permute(0, 2, 3, 1), "(64, 8, 8, 1)", "permute(0, 3, 1, 2)")
    _rejected(chain, x[0], "(1, 8, 8)", "x[None]")
    _rejected(chain, x[:0], "no examples")


@CASES.add(
    "NaN, infinities, complex numbers, booleans for 17 grey levels, objects, text, lists",
    answer="a ValueError or TypeError that names the kind",
)
def no_numbers(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain, x = _vae(data), data.test.x[:64]
    _rejected(chain, torch.where(x == 0, torch.nan, x.float()), "finite", "64 of 64")
    _rejected(chain, torch.where(x == 16, torch.inf, x.float()), "finite")
    _rejected(chain, x.to(torch.complex64), "complex64")
    _rejected(chain, x > 8, "booleans")
    _rejected(chain, x.numpy().astype(object), "object")
    _rejected(chain, x.numpy().astype(str), "<U")
    _rejected(chain, x.tolist(), "list")


@CASES.add(
    "a chain with a Bernoulli on digits of 17 grey levels",
    answer="a ValueError in `fit` and in every figure: Bernoulli, 0 and 1, 17 grey levels, binarise",
)
def bernoulli_on_grey(folder: Path) -> None:
    data = ancestral.load_data("digits")
    for make in (ours.Bernoulli, lambda m: Independent(Bernoulli(logits=m), 3)):
        chain = Own(make, data.spec)
        words = ("Bernoulli", "0 and 1", "17 grey levels", "binarise")
        _rejected(chain, data.test.x, *words)
        with pytest.raises(ValueError, match=r"\w") as error:
            ancestral.fit(chain, data, ancestral.TrainingConfig(steps=1))
        assert all(word in str(error.value) for word in words)
    bits = ancestral.load_data("digits", binarize="threshold")
    torch.manual_seed(0)
    own = Own(ours.Bernoulli, bits.spec)
    theirs = Own(lambda m: Independent(Bernoulli(logits=m), 3), bits.spec)
    theirs.load_state_dict(own.state_dict())
    found, again = (ancestral.evaluate(chain, bits.test.x).bits_per_dim for chain in (own, theirs))
    assert found is not None
    assert again is not None
    assert 0.9 < found.mean < 2.0
    assert abs(found.mean - again.mean) < 1e-4


@CASES.add(
    "a chain with a normal density on integers", answer="the ELBO in nats, and no bits/dim (null in JSON)"
)
def density_on_integers(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain = Own(lambda m: Independent(Normal(m, torch.ones_like(m)), 3), data.spec)
    found = ancestral.evaluate(chain, data.test.x)
    assert math.isfinite(found.elbo.mean)
    assert found.bits_per_dim is None
    assert found.json()["bits_per_dim"] is None
    assert "bits" not in str(found)


@CASES.add(
    "a distribution without Independent", answer="a ValueError with its batch_shape and the Independent"
)
def no_independent(folder: Path) -> None:
    data = ancestral.load_data("digits")
    chain = Own(lambda m: Normal(m, torch.ones_like(m)), data.spec)
    _rejected(chain, data.test.x[:5], "p(x|z_1)", "Normal", "(n, 1, 8, 8)", "Independent")


@CASES.add("log-probabilities of integers above 0", answer="a ValueError with the impossible code length")
def above_one(folder: Path) -> None:
    class Above(ours.DiscretizedLogistic):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + 400.0

    data = ancestral.load_data("digits", binarize="threshold")
    chain = Own(lambda m: Above(m, torch.ones_like(m), 2), data.spec)
    for call in (lambda: ancestral.evaluate(chain, data.test.x), lambda: scores(chain, data.test.x)):
        with pytest.raises(ValueError, match="bits/dim"):
            call()


@CASES.add("a single example", answer="its ELBO, with an unknown standard error: null in JSON, printed as –")
def one_example(folder: Path) -> None:
    data = ancestral.load_data("digits")
    found = ancestral.evaluate(_vae(data), data.test.x[:1], bound="iwae", samples=5)
    assert found.tighter is not None
    for estimate in (found.elbo, found.bits_per_dim, found.tighter.estimate):
        assert estimate is not None
        assert estimate.json()["stderr"] is None
        assert str(estimate).endswith("± –")
        assert f"{estimate:.4f}".endswith("± –")


@CASES.add("`print(evaluate(…))`", answer="a table of the figures with their units, without tensors")
def printed(folder: Path) -> None:
    data = ancestral.load_data("digits")
    text = str(ancestral.evaluate(_vae(data), data.test.x[:20]))
    assert "tensor" not in text
    for words in ("n = 20", "ELBO", "nats", "bits/dim", "reconstruction"):
        assert words in text


@CASES.add(
    "random levels for a DDPM of T = 1", answer="the network calls that are made: one for each replicate"
)
def calls_at_one_level(folder: Path) -> None:
    data = ancestral.load_data("digits")
    torch.manual_seed(0)
    config = ancestral.DDPMConfig(network="transformer", blocks=1, width=64, T=1)
    chain = ancestral.build_chain(config, data.spec, train=data.seen())
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    found = ancestral.evaluate(chain, data.test.x[:4], levels=7)  # looks at the chain, too
    handle = chain.network.register_forward_hook(count)  # type: ignore[union-attr]
    with torch.no_grad():
        SampledLevelsBound(7)(chain, data.test.x[:4])
    handle.remove()
    assert found.network_calls_per_image == calls == 2
