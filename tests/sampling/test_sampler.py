"""What a user calls: options and their refusals, units, batches, and what happens between network calls."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ancestral
from ancestral._internal.randomness import Noise, RowNoise
from ancestral.config import DDPMConfig
from ancestral.core import walk
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion
from ancestral.models.diffusion.schedules import Schedule, strided
from ancestral.parts.scaling import Scaling
from ancestral.sampling import SAMPLERS, Ancestral, Sampler, draw, trajectory
from ancestral.sampling.samplers import End
from few_steps import Network, chain_of
from tiny import MODELS, built, images, vectors

FEW = SAMPLERS[1:]


def states(chain: Diffusion, sampler: Sampler, n: int, seed: int = 3) -> list[tuple[int, torch.Tensor | End]]:
    """The walk of the n samples that ``draw`` gives for this seed and micro-batches of n."""
    return list(sampler.states(chain, n, RowNoise(seed, 0, n)))


@pytest.mark.parametrize("spacing", [None, "diffusers"])
@pytest.mark.parametrize("name", FEW)
def test_calls_are_known_before(name, spacing):
    chain, sampler = chain_of(), Sampler.named(name, 9, spacing=spacing)
    assert sampler.calls(chain) == (17 if name == "heun" else 9)
    draw(chain, 5, sampler=sampler, batch_size=5)
    assert len(chain.network.asked) == sampler.calls(chain)
    # Each is one call on the whole batch, at a time in (0, 1], and times fall.
    assert {n for n, _ in chain.network.asked} == {5}
    times = [time for _, time in chain.network.asked]
    assert all(0 < time <= 1 for time in times)
    assert times == sorted(times, reverse=True)


def test_calls_of_the_ancestral_sampler():
    chain = chain_of()
    for sampler in (Ancestral(), Ancestral(7)):
        chain.network.asked.clear()
        draw(chain, 2, sampler=sampler)
        assert sampler.calls(chain) == len(chain.network.asked) == (sampler.steps or 30)


@pytest.mark.parametrize("name", FEW)
def test_without_steps_they_are_few(name):
    assert Sampler.named(name).calls(chain_of()) == (59 if name == "heun" else 30)
    long = Diffusion(Network(), Schedule.linear(1000), scaling=Scaling(DataSpec((2,))))
    assert Sampler.named(name).calls(long) == (99 if name == "heun" else 50)


def test_the_ancestral_sampler_is_the_chains_own():
    chain = chain_of(variance="learned")
    found = draw(chain, 3, sampler=Ancestral(), seed=1, batch_size=3, precision="fp32")
    noise = walk.noise(RowNoise(1, 0, 3))
    with torch.no_grad():
        _, last = walk.generated(chain, 3, noise)
        assert torch.equal(found, walk.final_value(last, "draw", noise))


@torch.no_grad()
def test_with_fewer_steps_it_is_the_model_on_some_of_its_levels():
    chain = chain_of(variance="learned")
    found = draw(chain, 3, sampler=Ancestral(4), seed=1, batch_size=3, precision="fp32")
    noise, denoise = RowNoise(1, 0, 3), chain.denoiser()
    z = noise.sample(chain.p_top(3))
    levels = strided(30, 4)
    assert (len(levels), levels[0]) == (4, 30)
    for t, s in pairwise(levels):
        z = noise.sample(denoise.step(denoise(z, denoise.level(t)), z, t, s))
    t = levels[-1]
    assert torch.equal(found, noise.sample(denoise.last(denoise(z, denoise.level(t)), z, t)))


@pytest.mark.parametrize("model", MODELS)
def test_every_chain_can_be_drawn_from_in_batches(model):
    chain = built(MODELS[model], images())
    found = draw(chain, 7, batch_size=3)
    assert (found.shape, found.dtype) == ((7, 1, 8, 8), torch.uint8)
    found = draw(chain, 5, final="mean", batch_size=3, precision="fp32", seed=4)
    parts = []
    with torch.no_grad():
        for first in (0, 3):
            _, last = walk.generated(chain.eval(), 3, walk.noise(RowNoise(4, first, 3)))
            parts.append(last.mean)
    assert torch.equal(found, torch.cat(parts)[:5])


@pytest.mark.parametrize("name", FEW)
def test_batches_bound_what_the_network_sees(name):
    chain = chain_of()
    found = draw(chain, 8, sampler=Sampler.named(name, 3), batch_size=3)
    assert found.shape == (8, 2, 3, 3)
    assert len({x.numpy().tobytes() for x in found}) == 8
    calls = Sampler.named(name, 3).calls(chain)
    assert [n for n, _ in chain.network.asked] == [3] * (3 * calls)


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_integers_come_out_in_their_range(name):
    chain = chain_of()
    chain.network.inner.weight.mul_(30)
    sampler = Sampler.named(name, 6)
    drawn = draw(chain, 40, sampler=sampler, final="draw")
    assert drawn.dtype == torch.uint8
    assert int(drawn.max()) <= 16
    mean = draw(chain, 40, sampler=sampler, final="mean", precision="fp32", seed=3, batch_size=40)
    *_, (t, z), (level, last) = states(chain, sampler, 40)
    assert (t, level) == (1, 0)
    assert isinstance(last, End)
    # It is û, cut to the range, which it does leave here.
    inside = 8.0 * chain.predict(z, 1).data + 8.0
    assert inside.min() < 0
    assert inside.max() > 16
    torch.testing.assert_close(mean, inside.clamp(0.0, 16.0))


@torch.no_grad()
def test_a_draw_is_of_the_chains_last_distribution():
    chain = chain_of(levels=None, variance="learned")
    sampler = Sampler.named("dpm++2m", 6)
    *_, (level, z), _ = states(chain, sampler, 4)
    assert level == 1
    last = chain.p_step(z, 1)
    how = {"sampler": sampler, "precision": "fp32", "seed": 3, "batch_size": 4}
    draws = [draw(chain, 4, **how) for _ in range(2)]
    assert torch.equal(*draws)
    score = (draws[0] - last.mean) / last.variance.sqrt()
    assert 0.7 < float(score.std()) < 1.3
    torch.testing.assert_close(draw(chain, 4, final="mean", **how), last.mean)


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-sde"])
@torch.no_grad()
def test_a_draw_from_a_higher_level_is_of_the_step_down_from_it(name):
    """Where diffusers' levels end above level 1, p(x|z_t) is as wide as the strided ancestral sampler's."""
    chain = chain_of(levels=None)
    *_, (level, z), (_, last) = states(chain, Sampler.named(name, 6, spacing="diffusers"), 3)
    assert level == 6
    # The mean is û, and the variance that of the step from level 6 to the data (where β̃ would be 0).
    found = last.distribution
    data, variance = chain.predict(z, 6).data, 1.0 - chain.schedule.alpha_bar[6]
    torch.testing.assert_close((found.mean, found.variance), (data, variance.float().expand_as(z)))
    denoise = chain.denoiser()
    expected = denoise.last(denoise(z, denoise.level(6)), z, 6)
    torch.testing.assert_close((found.mean, found.variance), (expected.mean, expected.variance))


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_real_data_are_in_their_own_units(name):
    data = vectors()
    chain = built(DDPMConfig(T=20, width=8), data)
    x = draw(chain, 400, sampler=Sampler.named(name, 10), final="mean")
    # An untrained network says velocity 0, so û = √ᾱ z stays near the noise: the data's mean and spread.
    assert (x.mean(dim=0) - data.train.x.mean(dim=0)).abs().max() < 0.5 * data.train.x.std(dim=0).max()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("final", ["mean", "draw"])
def test_a_trajectory_ends_at_the_sample(name, final):
    chain, sampler = chain_of(levels=None), Sampler.named(name, 9)
    found = trajectory(chain, 3, sampler=sampler, final=final, frames=4, seed=0)
    assert len(found.levels) == len(found.states) == 4
    assert found.levels[-1] == 0
    assert all(above > below for above, below in pairwise(found.levels))
    assert {state.shape for state in found.states} == {(3, 2, 3, 3)}
    torch.testing.assert_close(found.states[0], RowNoise(0, 0, 3).normal((3, 2, 3, 3), found.states[0]))
    assert torch.equal(draw(chain, 3, sampler=sampler, final=final, seed=0), found.states[-1])
    assert trajectory(chain, 2, sampler=sampler, frames=1).levels == [0]
    assert len(trajectory(chain, 2, sampler=sampler, frames=99).levels) == 10


@pytest.mark.parametrize("prediction", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_single_precision_is_enough(name, prediction):
    """The state is in the chain's precision, and what is worked out beforehand is not the worse for it."""
    chain = chain_of(prediction=prediction, levels=None)
    ends = []
    for kind in (torch.float32, torch.float64):
        *_, (_, last) = Sampler.named(name, 8).states(chain.to(kind), 4, Ones())
        ends.append(last.prediction)
    assert [end.dtype for end in ends] == [torch.float32, torch.float64]
    torch.testing.assert_close(ends[0].double(), ends[1], rtol=1e-3, atol=1e-3)


class Ones(Noise):
    """The number 1, whatever is asked for."""

    def normal(self, shape, like):
        return like.new_ones(tuple(shape))

    def uniform(self, shape, like):
        raise AssertionError

    def seed(self):
        raise AssertionError


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_under_autocast_only_the_network_is_in_half_precision(name):
    chain, sampler, seen = chain_of(), Sampler.named(name, 6), []
    how = {"sampler": sampler, "final": "mean", "seed": 2}
    plain = draw(chain, 4, precision="fp32", **how)
    chain.network.inner.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        *visited, (_, last) = states(chain, sampler, 4)
    assert {state.dtype for _, state in visited} == {torch.float32}
    assert last.prediction.dtype == torch.float32
    half = draw(chain, 4, precision="bf16", **how)
    assert set(seen) == {torch.bfloat16}
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
    assert (half - plain).abs().mean() < 0.2


class Traffic(TorchDispatchMode):
    """Counts what is sent to the device "meta", which stands for a GPU. What waits for it is an error there."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        there = isinstance(out, torch.Tensor) and out.device.type == "meta"
        if there and any(tensor.device.type != "meta" for tensor in tensors):
            self.sent.append(func.__name__)
        return out


class OnDevice(Noise):
    """Numbers that are made on the device."""

    def normal(self, shape, like):
        return torch.randn(shape, dtype=like.dtype, device=like.device)

    def uniform(self, shape, like):
        return torch.rand(shape, dtype=like.dtype, device=like.device)

    def seed(self):
        raise AssertionError


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_nothing_waits_between_network_calls(name):
    chain, sampler = chain_of(), Sampler.named(name, 8)
    chain.network.forward = lambda z, time: torch.tanh(z + time.reshape(-1, 1, 1, 1))
    chain.prior.to("meta")
    states = sampler.states(chain, 4, OnDevice())
    with Traffic() as traffic:
        for _ in range(8):
            _, z = next(states)
            assert z.device.type == "meta"
    assert traffic.sent == []
    with Traffic() as traffic:
        torch.ones(()).to("meta")
        with pytest.raises(RuntimeError, match="meta"):
            float(z.sum())
    assert traffic.sent


def test_the_public_names():
    assert ancestral.Sampler is Sampler
    assert ancestral.draw is draw
