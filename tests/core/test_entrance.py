"""Examples and distributions are checked where they enter, and at every entrance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    Poisson,
)

import ancestral
from ancestral import distributions as ours
from ancestral.bounds import PathBound, code_length
from ancestral.bounds.ais import Annealing, annealed
from ancestral.bounds.estimate import Estimate
from ancestral.bounds.fitted import Fitting, fitted_elbo
from ancestral.core import entrance
from ancestral.core.elbo import Elbo
from ancestral.core.spec import DataSpec
from ancestral.data import Split
from ancestral.evaluation import interpolate, posterior_grids, reconstruct, scores
from ancestral.evaluation.latents import encode
from ancestral.evaluation.loop import bounded
from ancestral.objectives import default_objective

SPEC = DataSpec((1, 4, 4), 17)
SIXTEEN = torch.arange(16 * 16).remainder(17).to(torch.uint8).reshape(16, 1, 4, 4)

WRONG: dict[str, Callable[[Tensor], Any]] = {
    "in [0, 1]": lambda x: x / 16.0,
    "0 to 240": lambda x: (x.float() * 15).to(torch.uint8),
    "0 to 240 as floats": lambda x: x.float() * 15,
    "in [-1, 1]": lambda x: x / 8.0 - 1.0,
    "with a half": lambda x: x + 0.5,
    "one fraction": lambda x: torch.where(torch.arange(16).reshape(1, 4, 4) == 3, 0.5, x.float()),
    "minus 3": lambda x: x.long() - 3,
    "one above the grey levels": lambda x: torch.where(x == 16, 17, x.int()),
    "no channel": lambda x: x[:, 0],
    "flat": lambda x: x.flatten(1),
    "3 channels": lambda x: x.expand(-1, 3, -1, -1),
    "one row": lambda x: x[:, :, :1],
    "one pixel": lambda x: x[:, :, :1, :1],
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "one image": lambda x: x[0],
    "another axis": lambda x: x[None],
    "NaN": lambda x: torch.where(x == 0, torch.nan, x.float()),
    "infinity": lambda x: torch.where(x == 0, torch.inf, x.float()),
    "none": lambda x: x[:0],
    "complex": lambda x: x.to(torch.complex64),
    "booleans": lambda x: x > 8,
    "sparse": lambda x: x.to_sparse(),
    "an array of fractions": lambda x: x.numpy() / 16.0,
    "an array of objects": lambda x: x.numpy().astype(object),
    "an array of text": lambda x: x.numpy().astype(str),
    "an array of dates": lambda x: x.numpy().astype("datetime64[D]"),
    "a masked array": lambda x: np.ma.masked_equal(x.numpy(), 3),
    "a list": lambda x: x.tolist(),
    "nothing": lambda x: None,
}
SAME: dict[str, Callable[[Tensor], Any]] = {
    "int64": Tensor.long,
    "floats": Tensor.float,
    "doubles": Tensor.double,
    "halves": Tensor.half,
    "uint16": lambda x: x.to(torch.uint16),
    "NumPy": Tensor.numpy,
    "NumPy, big-endian floats": lambda x: x.numpy().astype(">f4"),
    "NumPy, long doubles": lambda x: x.numpy().astype(np.longdouble),
    "NumPy, turned twice": lambda x: x.flip(0).contiguous().numpy()[::-1],
    "a split": Split,
}
ENTRANCES: dict[str, Callable[[ancestral.Chain, Any], Any]] = {
    "evaluate": lambda chain, x: (
        ancestral.evaluate(chain, x, levels=2 if chain.continuous else None).elbo.mean
    ),
    "elbo": lambda chain, x: chain.elbo(x).total,
    "log_weight": lambda chain, x: chain.log_weight(x),
    "log_likelihood": lambda chain, x: ancestral.log_likelihood(chain, x, samples=2),
    "scores": lambda chain, x: scores(chain, x, levels=2 if chain.continuous else None).nats,
    "loss": lambda chain, x: default_objective(chain)(chain, x).value,
    "bound": lambda chain, x: PathBound()(chain, x).nats,
    "bounded": lambda chain, x: bounded(chain, x, [PathBound()])[0].found.nats,
    "reconstruct": lambda chain, x: reconstruct(chain, x, levels=[1], steps=3).x[0],
    "encode": lambda chain, x: list(encode(chain, x).values())[-1],
    "interpolate": lambda chain, x: interpolate(chain, x, x, points=2, steps=3),
}
CONFIGS = {
    "vae": ancestral.VAEConfig(network="mlp", latent_dims=2),
    "ladder": ancestral.HVAEConfig(levels=2, width=8),
    "markov": ancestral.HVAEConfig(network="mlp", levels=2, posterior="bottom-up"),
    "ddpm": ancestral.DDPMConfig(network="transformer", blocks=1, width=64, T=4),
    "continuous": ancestral.DDPMConfig(network="transformer", blocks=1, width=64, T="continuous"),
}


class Own(ancestral.Chain):
    """A VAE that says nothing of its p(x|z), which is what ``make`` gives."""

    def __init__(self, make: Callable[[Tensor], Distribution], spec: DataSpec = SPEC, out: int = 1) -> None:
        super().__init__(T=1, spec=spec)
        self.make = make
        self.encoder, self.decoder = nn.Linear(spec.dims, 4), nn.Linear(2, out * spec.dims)

    def q_top(self, h: Tensor) -> Distribution:
        return ours.gaussian(self.encoder(h.float().flatten(1)))

    def p_top(self, n: int) -> Distribution:
        return ours.standard_normal(n, (2,), self.decoder.bias)

    def p_step(self, state: Tensor, t: int) -> Distribution:
        return self.make(self.decoder(state).unflatten(1, (-1, *self.spec.shape)).squeeze(1))


def normal(m: Tensor) -> Distribution:
    return Independent(Normal(m, torch.ones_like(m)), m.ndim - 1)


def over_levels(m: Tensor) -> Distribution:
    return ours.DiscretizedLogistic(m, torch.ones_like(m), 17)


@pytest.fixture(scope="module", params=[*CONFIGS, "own"])
def chain(request: pytest.FixtureRequest) -> ancestral.Chain:
    torch.manual_seed(0)
    if request.param == "own":
        return Own(over_levels)
    return ancestral.build_chain(CONFIGS[request.param], SPEC, train=SIXTEEN)


def entrances(chain: ancestral.Chain) -> dict[str, Callable[[ancestral.Chain, Any], Any]]:
    left_out = ("log_likelihood", "log_weight", "bound", "bounded") if chain.continuous else ()
    return {name: call for name, call in ENTRANCES.items() if name not in left_out}


def test_no_entrance_takes_examples_that_do_not_match(chain):
    for given, wrong in WRONG.items():
        x = wrong(SIXTEEN)
        for name, call in entrances(chain).items():
            with pytest.raises((ValueError, TypeError)) as error:
                call(chain, x)
            assert type(error.value) in (ValueError, TypeError), (given, name)
            assert str(error.value).endswith((".", "]", "].")), (given, name, error.value)


def test_the_type_of_whole_numbers_and_of_the_array_changes_no_bit(chain):
    for name, call in entrances(chain).items():
        torch.manual_seed(3)
        expected = call(chain, SIXTEEN)
        for given, same in SAME.items():
            if given == "a split" and name not in ("evaluate", "scores", "bounded"):
                continue
            torch.manual_seed(3)
            found = call(chain, same(SIXTEEN))
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected)), (name, given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("in [0, 1]", ["from 0 to 1", "17 grey levels", "0 to 16"]),
        ("0 to 240", ["from 0 to 240", "0 to 16"]),
        ("minus 3", ["from -3 to 13"]),
        ("NaN", ["finite", "of 16 examples"]),
        ("one image", ["(1, 4, 4)", "x[None]"]),
        ("no channel", ["(16, 4, 4)", "x[:, None]"]),
        ("flat", ["(16, 16)", "reshape(-1, 1, 4, 4)"]),
        ("channels last", ["(16, 4, 4, 1)", "permute(0, 3, 1, 2)"]),
        ("complex", ["complex64"]),
        ("a list", ["list", "tensor", "NumPy"]),
    ],
)
def test_the_error_says_what_was_given_and_what_to_do(given, words):
    with pytest.raises((ValueError, TypeError)) as error:
        entrance.checked(SPEC, WRONG[given](SIXTEEN))
    for word in words:
        assert word in str(error.value)


def test_real_vectors_may_be_of_any_finite_numbers():
    spec = DataSpec((3,))
    whole = torch.arange(6).reshape(2, 3)
    assert entrance.checked(spec, whole).dtype == torch.float32
    assert entrance.checked(spec, whole.double().numpy(), dtype=torch.float32).dtype == torch.float32
    for wrong in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="1 of 2"):
            entrance.checked(spec, torch.tensor([[0.0, 1.0, 2.0], [0.0, wrong, 2.0]]))
    with pytest.raises(ValueError, match="1 of 2"):
        entrance.checked(spec, np.array([[0.0, 1.0, 2.0], [0.0, 1e300, 2.0]]), dtype=torch.float32)
    for shape in ((3,), (2, 2), (2, 1), (2, 3, 1), (0, 3)):
        with pytest.raises(ValueError, match="3"):
            entrance.checked(spec, torch.zeros(shape))


def test_booleans_are_bits():
    spec = DataSpec((2,), 2)
    assert entrance.checked(spec, torch.tensor([[True, False]])).tolist() == [[1, 0]]


def test_more_than_256_grey_levels_are_wider_integers():
    spec = DataSpec((1,), 300)
    assert entrance.checked(spec, np.array([[299]], np.uint16)).tolist() == [[299]]
    with pytest.raises(ValueError, match="300"):
        entrance.checked(spec, np.array([[300]], np.uint64))


def test_whole_example_functions_check_too(tmp_path):
    torch.manual_seed(0)
    vae = ancestral.build_chain(CONFIGS["vae"], SPEC, train=SIXTEEN)
    for x in (SIXTEEN / 16.0, SIXTEEN[0], SIXTEEN[:0]):
        with pytest.raises(ValueError, match=r"\w"):
            annealed(vae, x, options=Annealing(temperatures=2, leapfrog=1))
        with pytest.raises(ValueError, match=r"\w"):
            fitted_elbo(vae, x, fitting=Fitting(steps=1, samples=1, test_samples=1))
        with pytest.raises(ValueError, match=r"\w"):
            posterior_grids(vae, x, cells=9)
        with pytest.raises(ValueError, match=r"\w"):
            ancestral.build_chain(CONFIGS["vae"], SPEC, train=x)


# A chain's distributions ------------------------------------------------------------------------------

INTEGERS = {
    "our logistic": (over_levels, 1, True),
    "torch's categorical": (lambda m: Independent(Categorical(logits=m.movedim(1, -1)), 3), 17, True),
    "a Poisson": (lambda m: Independent(Poisson(m.sigmoid()), 3), 1, True),
    "a normal": (normal, 1, False),
    "a mixture of normals": (
        lambda m: Independent(
            MixtureSameFamily(
                Categorical(logits=torch.zeros(*m.shape, 2)),
                Normal(m[..., None].expand(*m.shape, 2), 1.0),
            ),
            3,
        ),
        1,
        False,
    ),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_a_density_has_no_bits_without_being_told(name):
    make, out, mass = INTEGERS[name]
    torch.manual_seed(0)
    chain = Own(make, out=out)
    assert chain.discrete is mass
    found = ancestral.evaluate(chain, SIXTEEN)
    assert (found.bits_per_dim is not None) is mass
    assert (scores(chain, SIXTEEN).bits_per_dim is not None) is mass
    assert (found.json()["bits_per_dim"] is not None) is mass
    if not mass:
        with pytest.raises(ValueError, match=r"\w"):
            _ = chain.elbo(SIXTEEN).bits_per_dim


UNSUPPORTED = {
    "our Bernoulli": (ours.Bernoulli, "Bernoulli"),
    "torch's Bernoulli": (lambda m: Independent(Bernoulli(logits=m), 3), "Bernoulli"),
    "a Beta": (lambda m: Independent(Beta(m.sigmoid(), m.sigmoid()), 3), "Beta"),
    "other grey levels": (
        lambda m: ours.DiscretizedLogistic(m, torch.ones_like(m), 8),
        "DiscretizedLogistic",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_values_outside_the_support_are_an_error_everywhere(name):
    make, named = UNSUPPORTED[name]
    chain = Own(make)
    for call in ENTRANCES.values():
        with pytest.raises(ValueError, match=r"\w") as error:
            call(chain, SIXTEEN)
        assert named in str(error.value)
        assert "17" in str(error.value)
    assert "binarize" in str(error.value)
    with pytest.raises(ValueError, match=named):
        ancestral.fit(chain, data_of(SIXTEEN, SPEC), ancestral.TrainingConfig(steps=1, batch_size=8))


def data_of(x: Tensor, spec: DataSpec) -> ancestral.Dataset:
    return ancestral.Dataset("x", spec, Split(x), None, Split(x), "given", source_levels=spec.levels)


def test_real_numbers_are_checked_against_the_support():
    spec = DataSpec((2,))
    chain = Own(lambda m: Independent(LogNormal(m, torch.ones_like(m)), 1), spec)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert math.isfinite(ancestral.evaluate(chain, x).elbo.mean)
    with pytest.raises(ValueError, match="LogNormal"):
        ancestral.evaluate(chain, -x)
    one_hot = Own(lambda m: OneHotCategorical(logits=m), DataSpec((2,), 2))
    assert ancestral.evaluate(one_hot, torch.eye(2)).bits_per_dim is not None
    with pytest.raises(ValueError, match="OneHotCategorical"):
        ancestral.evaluate(one_hot, torch.ones(2, 2))


def test_a_missing_independent_is_named():
    chain = Own(lambda m: Normal(m, torch.ones_like(m)))
    for n in (1, 2, 16):
        with pytest.raises(ValueError, match=r"\w") as error:
            ancestral.evaluate(chain, SIXTEEN[:n])
        for word in ("p(x|z_1)", "Normal", "(n, 1, 4, 4)", "Independent", ", 3)"):
            assert word in str(error.value)

    class BareQ(Own):
        def q_top(self, h: Tensor) -> Distribution:
            m = self.encoder(h.float().flatten(1))[:, :2]
            return Normal(m, torch.ones_like(m))

    bare = BareQ(over_levels)
    with pytest.raises(ValueError, match=r"q\(z_1"):
        bare.elbo(SIXTEEN)


def test_parameters_of_another_shape_are_not_broadcast():
    chain = Own(lambda m: normal(m[..., :1]))
    with pytest.raises(ValueError, match=r"\(1, 4, 1\)"):
        ancestral.evaluate(chain, SIXTEEN)


def test_a_chain_that_says_it_is_discrete_must_be():
    class Says(Own):
        discrete = True  # type: ignore[assignment]

    with pytest.raises(ValueError, match="Normal"):
        ancestral.evaluate(Says(normal), SIXTEEN)


def test_a_code_length_below_zero_is_an_error():
    class Above(ours.DiscretizedLogistic):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + 1000.0

    bits = (SIXTEEN > 8).to(torch.uint8)
    chain = Own(lambda m: Above(m, torch.ones_like(m), 2), DataSpec((1, 4, 4), 2))
    for call in (
        lambda: ancestral.evaluate(chain, bits),
        lambda: ancestral.evaluate(chain, bits[:1]),
        lambda: scores(chain, bits),
        lambda: ancestral.log_likelihood(chain, bits, samples=2),
        lambda: chain.elbo(bits).bits_per_dim,
    ):
        with pytest.raises(ValueError, match="bits/dim"):
            call()


def test_four_standard_errors_are_an_accident():
    chain = Own(over_levels)
    assert code_length(chain, Estimate(3.9, 1.0)) is not None
    with pytest.raises(ValueError, match="below 0"):
        code_length(chain, Estimate(4.1, 1.0))
    zero = torch.zeros(3)
    assert Elbo(zero, zero[:, None], zero, 16, True).bits_per_dim.tolist() == [0.0, 0.0, 0.0]


def test_looking_at_a_chain_leaves_no_trace():
    class Normed(Own):
        def __init__(self) -> None:
            super().__init__(over_levels)
            self.norm = nn.BatchNorm1d(16)
            self.frozen = nn.Dropout(0.5).eval()

        def features(self, x: Tensor) -> Tensor:
            return self.frozen(self.norm(x.float().flatten(1)))

    chain = Normed().train()
    chain.frozen.eval()
    before, state = chain.norm.running_mean.clone(), torch.get_rng_state()
    entrance.check_chain(chain, SIXTEEN)
    assert torch.equal(chain.norm.running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert chain.norm.training
    assert not chain.frozen.training


def test_fit_checks_examples_in_memory():
    with pytest.raises(ValueError, match="training part"):
        ancestral.fit(
            Own(over_levels), data_of(SIXTEEN / 16.0, SPEC), ancestral.TrainingConfig(steps=1, batch_size=8)
        )
