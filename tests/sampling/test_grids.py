"""The levels that are visited: which ones, and that they suit any schedule."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ancestral._internal.randomness import GeneratorNoise
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion, NoiseLevel
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling
from ancestral.sampling import Ddim, DpmSolver, Heun, grids
from ancestral.sampling.samplers import End, FewSteps

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": Schedule.linear,
    "cosine": Schedule.cosine,
    "sigmoid": Schedule.sigmoid,
    "log-linear": lambda T: Schedule.log_linear(T, first=11.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("T", "steps"), [(1000, n) for n in (1, 2, 3, 20, 999, 1000)] + [(30, 29), (30, 12)])
def test_levels_are_different_fall_and_end_at_1(name, T, steps):
    schedule = SCHEDULES[name](T)
    grid = grids.even_in_snr(schedule, steps)
    levels = [int(one.t) for one in grid]
    assert levels == [one.t for one in grid]
    assert len(levels) == steps
    assert all(above > below for above, below in pairwise(levels))
    assert levels[0] <= T
    assert levels[-1] == 1 or steps == 1
    assert [one.log_alpha_bar for one in grid] == schedule.log_alpha_bar[levels].tolist()
    if steps == T:
        assert levels == list(range(T, 0, -1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_starts_where_there_is_some_signal(name):
    schedule = SCHEDULES[name](1000)
    top = int(grids.even_in_snr(schedule, 20)[0].t)
    assert schedule.log_snr[top - 1] >= -10
    assert top == 1000 or schedule.log_snr[top] < -10
    assert (top < 1000) == (float(schedule.log_snr[-1]) < -10)


def log_snr(grid: list[NoiseLevel]) -> Tensor:
    return torch.tensor([one.log_snr for one in grid], dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_are_even_in_the_fourth_root_of_the_snr(name):
    grid = grids.even_in_snr(SCHEDULES[name](100_000), 20)
    place = 1.0 / (1.0 + (-log_snr(grid) / 4.0).exp())
    torch.testing.assert_close(place.diff(), place.diff().mean().expand(19), rtol=0.02, atol=0)


def test_the_karras_grid_has_their_ends_and_their_rule():
    schedule = Schedule.linear(1000)
    grid = grids.karras(schedule, 11)
    assert [grid[0].t, grid[-1].t] == pytest.approx([1000.0, 1.0], rel=1e-9, abs=0)
    root = (-log_snr(grid) / 14.0).exp()
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(10), rtol=1e-9, atol=0)


class Digits(nn.Module):
    """The best û there is for 300 digits with a little Gaussian noise: a mixture's conditional mean."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.x = torch.from_numpy(load_digits().data[:300] / 8.0 - 1.0)
        self.schedule = schedule

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        bar = self.schedule.alpha_bar[round(float(time[0]) * self.schedule.T)]
        within, width = 0.4**2, 1.0 - bar + bar * 0.4**2
        near = torch.softmax(-torch.cdist(z, bar.sqrt() * self.x).square() / (2.0 * width), dim=1)
        gain = bar.sqrt() * within / width
        return gain * z + (1.0 - bar.sqrt() * gain) * (near @ self.x)


def even_in_log_snr(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    rising = schedule.log_snr.flip(0).numpy()
    targets = np.linspace(rising[0], rising[-1], steps)
    return grids.whole(schedule, [schedule.T - int(abs(rising - target).argmin()) for target in targets])


SAMPLERS: dict[str, type[FewSteps]] = {"ddim": Ddim, "dpm++2m": DpmSolver, "heun": Heun}


def end(chain: Diffusion, kind: str, levels: list[NoiseLevel]) -> Tensor:
    """û where a sampler on these levels ends, always from the same noise."""

    class OnLevels(SAMPLERS[kind]):  # type: ignore[misc]
        def grid(self, chain: Diffusion) -> list[NoiseLevel]:
            return levels

    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    *_, (_, last) = OnLevels().states(chain, 64, noise)
    assert isinstance(last, End)
    assert last.prediction is not None
    return last.prediction


@pytest.mark.parametrize("name", SAMPLERS)
@torch.no_grad()
def test_ours_is_good_for_every_schedule_and_the_best_over_all(name):
    """How far 12 steps end from where very many do, over the spread of the data: the worst over schedules."""
    worst: dict[str, float] = {}
    for make in SCHEDULES.values():
        schedule = make(1000)
        chain = Diffusion(
            Digits(schedule),
            schedule,
            scaling=Scaling(DataSpec((64,))),
            parametrization=PARAMETRIZATIONS["data"],
        ).double()
        exact = end(chain, "dpm++2m", grids.even_in_snr(schedule, 250))
        for spacing in (grids.even_in_snr, grids.linspace, grids.karras, even_in_log_snr):
            # This network knows whole levels only, and no sampler stays where it is.
            different = dict.fromkeys(round(one.t) for one in spacing(schedule, 12))
            grid = grids.whole(schedule, list(different))
            error = float((end(chain, name, grid) - exact).square().mean().sqrt() / chain.network.x.std())
            worst[spacing.__name__] = max(worst.get(spacing.__name__, 0.0), error)
    assert worst["even_in_snr"] == min(worst.values()), worst
    assert worst["even_in_snr"] < 0.2
