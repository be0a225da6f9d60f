"""Samples are functions of the seed: which of them, in which batches and beside which others changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ancestral._internal.randomness import Noise, RowNoise
from ancestral.config import LikelihoodConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import Denoiser, NoiseLevel
from ancestral.sampling import (
    Ancestral,
    Ddim,
    DpmSolver,
    FewSteps,
    Heun,
    Sampler,
    draw,
    engine,
    preview,
    quick_sampler,
    solvers,
    trajectory,
)
from few_steps import chain_of
from tiny import MODELS, built, images
from toys import randn

KINDS = MODELS | {
    "mixture": VAEConfig(network="mlp", hidden=(16,), likelihood=LikelihoodConfig("logistic-mixture")),
}
SAMPLERS: dict[str, Sampler] = {
    "all levels": Ancestral(),
    "five levels": Ancestral(5),
    "ddim": Ddim(4),
    "ddim with noise": Ddim(4, eta=0.7),
    "dpm++2m-sde": DpmSolver(4, stochastic=True),
    "heun": Heun(4),
}
CASES = [
    *(
        (kind, SAMPLERS["all levels"])
        for kind in ("vae-mlp", "vae-conv", "mixture", "ladder", "bottom-up", "own")
    ),
    *(("ddpm", sampler) for sampler in SAMPLERS.values()),
    ("transformer", SAMPLERS["heun"]),
]


def named(of: str | Sampler) -> str:
    return of if isinstance(of, str) else f"{of.name} {of.steps}"


each_case = pytest.mark.parametrize(("kind", "sampler"), CASES, ids=named)


class Own(Chain):
    """Two levels of torch's own normal distributions, which draw from the global generators."""

    def __init__(self) -> None:
        super().__init__(2, DataSpec((5,)))
        self.down, self.decode = nn.Linear(3, 3), nn.Linear(3, 5)

    def q_top(self, h):
        raise AssertionError

    def p_top(self, n):
        return Independent(Normal(torch.zeros(n, 3), torch.ones(n, 3)), 1)

    def p_step(self, state, t):
        return Independent(Normal((self.decode if t == 1 else self.down)(state), torch.ones(())), 1)


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    """One of each kind, with weights of which none is 0."""
    torch.manual_seed(0)
    found: dict[str, Chain] = {kind: built(model, images()) for kind, model in KINDS.items()}
    found["own"] = Own()
    for chain in found.values():
        with torch.no_grad():
            for parameter in chain.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return found


# Which samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["draw", "mean"])
@each_case
def test_the_first_n_are_the_same_to_the_bit_whatever_n_is(kind, sampler, final, chains):
    """Within a micro-batch, over several of them, and one alone."""
    how = {"sampler": sampler, "final": final, "seed": 7, "batch_size": 4}
    whole = draw(chains[kind], 11, **how)
    assert len({x.numpy().tobytes() for x in whole}) == 11
    for n in (1, 3, 4, 5, 8, 10):
        found = draw(chains[kind], n, **how)
        assert found.dtype == whole.dtype
        assert torch.equal(found, whole[:n])


@pytest.mark.parametrize("kind", ["vae-conv", "ladder", "ddpm"])
def test_with_the_size_of_a_micro_batch_left_out(kind, chains):
    chain, most = chains[kind], engine.MICRO_BATCH["cpu"]
    how = {"sampler": quick_sampler(chain, 4), "final": "mean", "seed": 1}
    whole = draw(chain, most + 3, **how)
    for n in (1, most - 1, most, most + 1):
        assert torch.equal(draw(chain, n, **how), whole[:n])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_either_precision(precision, chains):
    how = {"sampler": Ddim(4), "seed": 2, "batch_size": 3, "final": "mean", "precision": precision}
    assert torch.equal(draw(chains["ddpm"], 1, **how), draw(chains["ddpm"], 5, **how)[:1])


@pytest.mark.parametrize(("kind", "sampler"), [case for case in CASES if case[0] != "own"], ids=named)
def test_the_size_of_micro_batches_changes_roundings_only(kind, sampler, chains):
    chain, how = chains[kind], {"sampler": sampler, "seed": 5, "precision": "fp32"}
    means, draws = [
        [draw(chain, 9, final=final, batch_size=size, **how) for size in (1, 4, 9, 32)]
        for final in ("mean", "draw")
    ]
    for found in means[1:]:
        # Of 17 levels: 1e-5 of the range.
        torch.testing.assert_close(found, means[0], rtol=1e-5, atol=1.6e-4)
    for found in draws[1:]:
        # A rounding that lies on the edge of a grey level changes the level.
        assert float((found != draws[0]).double().mean()) < 0.002


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("final", ["draw", "mean"])
def test_real_numbers_are_the_same_to_1e_5_in_any_batches(sampler, final):
    chain = chain_of(levels=None)
    one, *others = [
        draw(chain, 7, sampler=sampler, final=final, seed=5, precision="fp32", batch_size=size)
        for size in (7, 1, 3)
    ]
    for found in others:
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-5)


def test_torchs_own_distributions_depend_on_where_a_micro_batch_begins(chains):
    """All else holds for them: the first n, the seed, and the caller's random numbers."""
    one, other = (draw(chains["own"], 6, seed=1, batch_size=size) for size in (6, 3))
    assert torch.isfinite(one).all()
    assert not torch.equal(one, other)
    assert torch.equal(draw(chains["own"], 6, seed=1, batch_size=3), other)


@each_case
def test_the_seed_decides_and_nothing_else(kind, sampler, chains):
    chain = chains[kind].train()
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = draw(chain, 4, sampler=sampler, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert chain.training
    torch.manual_seed(12)
    assert torch.equal(draw(chain, 4, sampler=sampler, seed=3), first)
    assert not torch.equal(draw(chain, 4, sampler=sampler, seed=4), first)
    states = trajectory(chain, 4, sampler=sampler, seed=3, frames=3).states
    assert torch.equal(states[-1], first)


def test_without_a_seed_it_is_drawn_from_the_global_generator(chains):
    chain = chains["vae-mlp"]
    torch.manual_seed(1)
    first, second = draw(chain, 3), draw(chain, 3)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(draw(chain, 3), first)
    assert torch.equal(draw(chain, 3), second)


def test_a_preview_is_of_the_quick_sampler(chains):
    for kind in ("vae-mlp", "ddpm"):
        chain = chains[kind]
        expected = draw(chain, 3, sampler=quick_sampler(chain), final="mean", seed=6)
        assert torch.equal(preview(chain, 3, seed=6), expected)


# Rows of noise ---------------------------------------------------------------------------------------


def numbers(seed: int, first: int, n: int) -> list[Tensor]:
    """What a sampler might ask for, in this order."""
    noise, like = RowNoise(seed, first, n), torch.zeros(())
    return [
        noise.normal((n, 3), like),
        noise.uniform((n, 2, 20), like),
        noise.normal((n, 5, 4, 4), like.double()),
        noise.normal((n,), like),
    ]


def test_a_rows_noise_is_a_function_of_the_seed_and_the_row():
    whole = numbers(3, 0, 9)
    assert [part.dtype for part in whole] == [torch.float32, torch.float32, torch.float64, torch.float32]
    for rows in ([8, 2, 5, 0], [7], range(9)):
        for i in rows:
            for found, part in zip(numbers(3, i, 1), whole, strict=True):
                assert torch.equal(found[0], part[i])
    for found, part in zip(numbers(3, 2, 4), whole, strict=True):
        assert torch.equal(found, part[2:6])


def test_rows_and_seeds_give_unrelated_numbers():
    """Mean, spread and the products of neighbours, over 2000 rows and over 2000 seeds, within five errors."""
    like, shape = torch.zeros((), dtype=torch.float64), (1, 16)
    rows = RowNoise(0, 0, 2000).normal((2000, 16), like)
    seeds = torch.cat([RowNoise(seed, 0, 1).normal(shape, like) for seed in range(2000)])
    for found in (rows, seeds):
        five = 5.0 / found.numel() ** 0.5
        assert found.mean().abs() < five
        assert (found.square().mean() - 1.0).abs() < 1.5 * five
        assert (found[1:] * found[:-1]).mean().abs() < five
    assert len(torch.unique(torch.cat([rows, seeds[1:]]))) == 3999 * 16
    assert float(RowNoise(0, 0, 500).uniform((500, 16), like).mean()) == pytest.approx(0.5, abs=0.02)


class Recorded(Noise):
    """A noise that remembers the shapes it was asked for."""

    def __init__(self, inner: Noise) -> None:
        self.inner, self.shapes = inner, []

    def normal(self, shape, like):
        self.shapes.append(tuple(shape))
        return self.inner.normal(shape, like)

    def uniform(self, shape, like):
        self.shapes.append(tuple(shape))
        return self.inner.uniform(shape, like)

    def seed(self):
        raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_our_distributions_draw_row_by_row(kind, chains):
    noise = Recorded(RowNoise(0, 0, 3))
    *_, (_, end) = Ancestral().states(chains[kind], 3, noise)
    end.value("draw", noise)
    assert noise.shapes
    assert {shape[0] for shape in noise.shapes} == {3}


# Conditions -------------------------------------------------------------------------------------------


class Classes(nn.Module):
    """A network that is told a class."""

    def __init__(self) -> None:
        super().__init__()
        self.of_class = nn.Parameter(randn(4, 2, 1, 1, seed=1).float())

    def forward(self, z: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        return torch.tanh(z * time.reshape(-1, 1, 1, 1) + self.of_class[condition])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_conditions_go_with_their_rows(sampler):
    chain = chain_of(levels=None)
    chain.network = Classes()
    condition = torch.tensor([0, 3, 1, 1, 2, 0, 3])
    how = {"sampler": sampler, "seed": 4, "final": "mean", "batch_size": 3}
    whole = draw(chain, 7, condition=condition, **how)
    for n in (1, 3, 5):
        assert torch.equal(draw(chain, n, condition=condition[:n], **how), whole[:n])
    for label in range(4):
        alone = draw(chain, 7, condition=torch.full((7,), label), **how)
        for i in range(7):
            same = torch.allclose(alone[i], whole[i], rtol=1e-5, atol=1e-5)
            assert same == (label == int(condition[i]))


@pytest.mark.parametrize("count", [3, 8])
def test_a_condition_for_each_sample(count):
    chain = chain_of()
    chain.network = Classes()
    with pytest.raises(ValueError, match=f"{count} conditions for 7 samples"):
        draw(chain, 7, sampler=Ddim(2), condition=torch.zeros(count, dtype=torch.long))


# A sampler of one's own ------------------------------------------------------------------------------


class Euler(FewSteps):
    """The first-order step of the ODE, written out."""

    name = "euler"

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        weights = solvers.first_order(t, s, 0.0)
        return weights.z * z + weights.data * denoise(z, t).data


class Churned(FewSteps):
    """A step of the ODE with some of its noise drawn anew."""

    name = "churned"

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        weights = solvers.first_order(t, s, 0.5)
        return weights.z * z + weights.data * denoise(z, t).data + weights.noise * noise.normal(z.shape, z)


@pytest.mark.parametrize("final", ["draw", "mean"])
@pytest.mark.parametrize(("own", "ours"), [(Euler(6), Ddim(6)), (Churned(6), Ddim(6, eta=0.5))])
def test_a_sampler_of_ones_own(own, ours, final):
    chain = chain_of()
    how = {"final": final, "seed": 2, "batch_size": 4, "precision": "fp32"}
    found = draw(chain, 6, sampler=own, **how)
    assert len(chain.network.asked) == 2 * own.calls(chain) == 12
    torch.testing.assert_close(found, draw(chain, 6, sampler=ours, **how), rtol=1e-5, atol=1e-5)
    assert torch.equal(draw(chain, 1, sampler=own, **how), found[:1])
    levels = trajectory(chain, 2, sampler=own, frames=99).levels
    assert len(levels) == 7
    assert all(above > below for above, below in pairwise(levels))
    with pytest.raises(ValueError, match=f"sampler {own.name} for a VAE"):
        draw(built(MODELS["vae-mlp"], images()), 2, sampler=own)
    with pytest.raises(ValueError, match="steps is 31; it must be from 1 to 30"):
        draw(chain, 2, sampler=type(own)(31))
    assert type(own)().taken(chain) == 30
