"""What a user calls: options and their refusals, units, batches, and what happens between network calls."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ancestral
from ancestral.config import DDPMConfig
from ancestral.diffusion import DDPM, PREDICTIONS, Prediction
from ancestral.samplers import SAMPLERS, Sampler, draw, solvers, trajectory
from ancestral.scaling import Scaling
from ancestral.schedules import Schedule
from ancestral.spec import DataSpec
from few_steps import Network, chain_of
from tiny import MODELS, built, images, vectors

FEW = SAMPLERS[1:]


@pytest.mark.parametrize("spacing", [None, "diffusers"])
@pytest.mark.parametrize("name", FEW)
def test_calls_are_known_before(name, spacing):
    chain, sampler = chain_of(), Sampler(name, 9, spacing=spacing)
    assert sampler.calls(chain) == (17 if name == "heun" else 9)
    draw(chain, 5, sampler=sampler)
    assert len(chain.network.asked) == sampler.calls(chain)
    # Each is one call on the whole batch, at a time in (0, 1], and times fall.
    assert {n for n, _ in chain.network.asked} == {5}
    times = [time for _, time in chain.network.asked]
    assert all(0 < time <= 1 for time in times)
    assert times == sorted(times, reverse=True)


def test_calls_of_the_ancestral_sampler():
    chain = chain_of()
    for sampler in (Sampler(), Sampler(steps=7)):
        chain.network.asked.clear()
        draw(chain, 2, sampler=sampler)
        assert sampler.calls(chain) == len(chain.network.asked) == (sampler.steps or 30)


@pytest.mark.parametrize("name", FEW)
def test_without_steps_they_are_few(name):
    assert Sampler(name).calls(chain_of()) == (59 if name == "heun" else 30)
    long = DDPM(
        Network(), schedule=Schedule.linear(1000), scaling=Scaling(DataSpec((2,))), spec=DataSpec((2,))
    )
    assert Sampler(name).calls(long) == (99 if name == "heun" else 50)


def test_the_ancestral_sampler_is_the_chains_own():
    chain = chain_of(variance="learned")
    for steps in (None, 4):
        torch.manual_seed(1)
        found = draw(chain, 3, sampler=Sampler(steps=steps), precision="fp32")
        torch.manual_seed(1)
        assert torch.equal(found, chain.sample(3, steps=steps))


@pytest.mark.parametrize("model", MODELS)
def test_every_chain_can_be_drawn_from_in_batches(model):
    chain = built(MODELS[model], images())
    found = draw(chain, 7, batch_size=3)
    assert (found.shape, found.dtype) == ((7, 1, 8, 8), torch.uint8)
    torch.manual_seed(4)
    found = draw(chain, 5, final="mean", batch_size=3, precision="fp32")
    torch.manual_seed(4)
    assert torch.equal(found, torch.cat([chain.sample(n, final="mean") for n in (3, 2)]))


@pytest.mark.parametrize("name", FEW)
def test_batches_bound_what_the_network_sees(name):
    chain = chain_of()
    found = draw(chain, 8, sampler=Sampler(name, 3), batch_size=3)
    assert found.shape == (8, 2, 3, 3)
    assert len({x.numpy().tobytes() for x in found}) == 8
    calls = Sampler(name, 3).calls(chain)
    assert [n for n, _ in chain.network.asked] == [3] * calls + [3] * calls + [2] * calls


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_integers_come_out_in_their_range(name):
    chain = chain_of()
    chain.network.inner.weight.mul_(30)
    sampler = Sampler(name, 6)
    drawn = draw(chain, 40, sampler=sampler, final="draw")
    assert drawn.dtype == torch.uint8
    assert int(drawn.max()) <= 16
    torch.manual_seed(3)
    mean = draw(chain, 40, sampler=sampler, final="mean", precision="fp32")
    torch.manual_seed(3)
    *_, (level, last) = sampler.generate(chain, 40)
    assert level == 0
    assert isinstance(last, Prediction)
    # It is û, cut to the range, which it does leave here.
    inside = 8.0 * last.data + 8.0
    assert inside.min() < 0
    assert inside.max() > 16
    torch.testing.assert_close(mean, inside.clamp(0.0, 16.0))


@torch.no_grad()
def test_a_draw_is_of_the_chains_last_law():
    chain = chain_of(levels=None, variance="learned")
    sampler = Sampler("dpm++2m", 6)
    torch.manual_seed(3)
    *_, (level, z), _ = sampler.generate(chain, 4)
    assert level == 1
    law = chain.p_step(z, 1)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(draw(chain, 4, sampler=sampler, precision="fp32"))
    assert torch.equal(*draws)
    score = (draws[0] - law.mean) / law.variance.sqrt()
    assert 0.7 < float(score.std()) < 1.3
    torch.manual_seed(3)
    mean = draw(chain, 4, sampler=sampler, final="mean", precision="fp32")
    torch.testing.assert_close(mean, law.mean)


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-sde"])
@torch.no_grad()
def test_a_draw_from_a_higher_level_is_of_the_step_down_from_it(name):
    """Where diffusers' levels end above level 1, p(x|z_t) is as wide as the strided ancestral sampler's."""
    chain = chain_of(levels=None)
    sampler = Sampler(name, 6, spacing="diffusers")
    *_, (level, z), (_, last) = sampler.generate(chain, 3)
    assert level == 6
    expected = chain.reverse(z, 6, 0)
    found = chain.data_law(last)
    torch.testing.assert_close((found.mean, found.variance), (expected.mean, expected.variance))


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_real_data_are_in_their_own_units(name):
    data = vectors()
    chain = built(DDPMConfig(T=20, width=8), data)
    x = draw(chain, 400, sampler=Sampler(name, 10), final="mean")
    # An untrained network says velocity 0, so û = √ᾱ z stays near the noise: the data's mean and spread.
    assert (x.mean(dim=0) - data.train.x.mean(dim=0)).abs().max() < 0.5 * data.train.x.std(dim=0).max()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("final", ["mean", "draw"])
def test_a_trajectory_ends_at_the_sample(name, final):
    chain, sampler = chain_of(levels=None), Sampler(name, 9)
    torch.manual_seed(0)
    levels, states = trajectory(chain, 3, sampler=sampler, final=final, frames=4)
    assert len(levels) == len(states) == 4
    assert levels[-1] == 0
    assert all(above > below for above, below in pairwise(levels))
    assert {state.shape for state in states} == {(3, 2, 3, 3)}
    torch.manual_seed(0)
    z = torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(states[0], z)
    torch.manual_seed(0)
    found = draw(chain, 3, sampler=sampler, final=final, precision="fp32")
    assert torch.equal(found, states[-1])
    assert trajectory(chain, 2, sampler=sampler, frames=1)[0] == [0]
    assert len(trajectory(chain, 2, sampler=sampler, frames=99)[0]) == 10


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_single_precision_is_enough(name, prediction):
    """The state is in the chain's precision, and what is worked out beforehand is not the worse for it."""
    chain = chain_of(prediction=prediction, levels=None)
    ends = []
    for kind in (torch.float32, torch.float64):
        chain = chain.to(kind)
        sampler = Sampler(name, 8)
        grid, z = sampler._grid(chain), torch.ones(4, 2, 3, 3, dtype=kind)
        *_, last = solvers.walk(chain, grid, sampler._weights(grid), z, ahead=name == "heun")
        ends.append(last)
    assert [end.dtype for end in ends] == [torch.float32, torch.float64]
    if "sde" not in name:
        torch.testing.assert_close(ends[0].double(), ends[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_under_autocast_only_the_network_is_in_half_precision(name):
    chain, sampler, seen = chain_of(), Sampler(name, 6), []
    torch.manual_seed(2)
    plain = draw(chain, 4, sampler=sampler, final="mean", precision="fp32")
    chain.network.inner.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = [state for _, state in sampler.generate(chain, 4)]
        assert {state.dtype for state in states[:-1]} == {torch.float32}
    torch.manual_seed(2)
    half = draw(chain, 4, sampler=sampler, final="mean", precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
    assert (half - plain).abs().mean() < 0.2


class Traffic(TorchDispatchMode):
    """Counts what would make the host wait for a device, and what would be sent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if any(part in name for part in ("_local_scalar_dense", "_to_copy", "nonzero", "copy_")):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_nothing_waits_between_network_calls(name):
    chain, sampler = chain_of(), Sampler(name, 8)
    chain.network.forward = lambda z, time: torch.tanh(z + time.reshape(-1, 1, 1, 1))
    states = sampler.generate(chain, 4)
    next(states)
    with Traffic() as traffic:
        for _ in range(7):
            next(states)
    assert traffic.waits == []
    with Traffic() as traffic:
        float(torch.ones(()))
    assert traffic.waits


def test_the_public_names():
    assert ancestral.Sampler is Sampler
    assert ancestral.draw is draw
