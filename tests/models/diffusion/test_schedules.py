"""Noise schedules: their definitions, and their closed forms against brute force."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ancestral.models.diffusion.schedules import Schedule, log_snr, posterior, strided

pytestmark = pytest.mark.usefixtures("float64")

SCHEDULES = {
    "linear": lambda: Schedule.linear(30),
    "cosine": lambda: Schedule.cosine(30),
    "sigmoid": lambda: Schedule.sigmoid(30),
    "log-linear": lambda: Schedule.log_linear(30),
    "custom": lambda: Schedule(torch.tensor([0.3, 0.01, 0.9, 0.5])),
}
each_schedule = pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES.keys())


@each_schedule
def test_the_marginal_is_the_composition_of_single_steps(build):
    """z_t = √(1 − β) z_{t−1} + √β ε, step by step: what becomes of the weight of x and of the variance."""
    schedule = build()
    weight, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist(), start=1):
        weight, variance = math.sqrt(1.0 - beta) * weight, (1.0 - beta) * variance + beta
        assert math.sqrt(schedule.alpha_bar[t]) == pytest.approx(weight, rel=1e-10)
        assert -math.expm1(schedule.log_alpha_bar[t]) == pytest.approx(variance, rel=1e-10)
        assert float(schedule.log_snr[t - 1]) == pytest.approx(math.log(weight**2 / variance), rel=1e-9)
    assert schedule.alpha_bar[0] == 1.0
    assert schedule.terminal_snr == pytest.approx(weight**2 / variance, rel=1e-9)
    assert len(schedule.betas) == schedule.T == t


def normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    return torch.exp(-0.5 * (x - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)


@pytest.mark.parametrize(("s", "t"), [(1, 2), (2, 3), (3, 4), (1, 3), (1, 4), (2, 4)])
def test_the_posterior_is_bayes_rule_on_a_grid(s, t):
    """q(x_s|x_t, x_0) ∝ q(x_t|x_s) q(x_s|x_0), each composed of single steps, integrated numerically."""
    betas = [0.3, 0.1, 0.6, 0.5]
    schedule = Schedule(torch.tensor(betas))

    def composed(first: int, last: int) -> tuple[float, float]:
        weight, variance = 1.0, 0.0
        for beta in betas[first:last]:
            weight, variance = math.sqrt(1.0 - beta) * weight, (1.0 - beta) * variance + beta
        return weight, variance

    grid = torch.linspace(-15.0, 15.0, 200_001)
    law = posterior(schedule.log_alpha_bar[s], schedule.log_alpha_bar[t])
    for x0, xt in ((0.7, -1.2), (-2.0, 0.4)):
        (up, up_var), (on, on_var) = composed(0, s), composed(s, t)
        density = normal(grid, up * x0, up_var) * normal(torch.tensor(xt), on * grid, on_var)
        density /= torch.trapezoid(density, grid)
        mean = torch.trapezoid(density * grid, grid)
        variance = torch.trapezoid(density * (grid - mean) ** 2, grid)
        torch.testing.assert_close(law.c0 * x0 + law.ct * xt, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(law.variance, variance, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            density, normal(grid, float(law.c0 * x0 + law.ct * xt), float(law.variance)), rtol=1e-7, atol=1e-9
        )
    assert float(law.step_variance) == pytest.approx(composed(s, t)[1], rel=1e-12)


@each_schedule
def test_the_posterior_at_the_ends(build):
    bar = build().log_alpha_bar
    last = posterior(bar[:-1], bar[1:])
    point = posterior(bar[0], bar[1])
    assert (float(point.c0), float(point.ct), float(point.variance)) == (pytest.approx(1.0), 0.0, 0.0)
    assert (last.variance[1:] > 0).all()
    assert (last.variance <= last.step_variance).all()
    # Averaged over q(x_t|x_0) the posterior is q(x_s|x_0): means and variances compose.
    signal = (0.5 * bar).exp()
    torch.testing.assert_close(last.c0 + last.ct * signal[1:], signal[:-1], rtol=1e-10, atol=0)
    torch.testing.assert_close(
        last.variance + last.ct**2 * -torch.expm1(bar[1:]), -torch.expm1(bar[:-1]), rtol=1e-9, atol=1e-15
    )


def test_linear_is_ho_et_al():
    schedule = Schedule.linear(1000)
    expected = torch.tensor([1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)])
    torch.testing.assert_close(schedule.betas, expected, rtol=1e-12, atol=0)
    # "L_T = D_KL(q(x_T|x_0) ‖ N(0, I)) ≈ 10⁻⁵ bits per dimension", §4: ½ ᾱ_T x² / ln 2 with x² < 1.
    assert schedule.terminal_snr == pytest.approx(4.04e-5, rel=0.01)
    assert "terminal SNR 4.04e-05" in repr(schedule)


def test_linear_keeps_its_shape_for_other_numbers_of_levels():
    fine, coarse = Schedule.linear(1000), Schedule.linear(250)
    torch.testing.assert_close(coarse.betas[[0, -1]], 4.0 * fine.betas[[0, -1]], rtol=1e-12, atol=0)
    torch.testing.assert_close(fine.alpha_bar[::4], coarse.alpha_bar, rtol=0, atol=0.005)
    steps = Schedule.linear(7, first=0.1, last=0.7).betas
    torch.testing.assert_close(steps, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("T", "offset"), [(1000, 0.008), (10, 0.008), (10, 0.1), (10, 0.0)])
def test_cosine_is_nichol_and_dhariwal(T, offset):
    schedule = Schedule.cosine(T, offset=offset)

    def f(t: int) -> float:
        return math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2

    for t in range(1, T):
        assert float(schedule.betas[t - 1]) == pytest.approx(min(1 - f(t) / f(t - 1), 0.999), rel=1e-7)
        assert float(schedule.alpha_bar[t]) == pytest.approx(f(t) / f(0), rel=1e-7)
    assert float(schedule.betas[-1]) == pytest.approx(0.999)
    assert schedule.terminal_snr == pytest.approx(1e-3 * f(T - 1) / f(0), rel=1e-2)


def test_sigmoid_is_jabri_et_al():
    schedule = Schedule.sigmoid(40, start=-3.0, end=3.0)

    def gamma(u: float) -> float:
        """Alg. 1 of the paper, with tau = 1: 1 at u = 0 and 0 at u = 1."""

        def sigmoid(v: float) -> float:
            return 1.0 / (1.0 + math.exp(-v))

        return (sigmoid(3.0) - sigmoid(6.0 * u - 3.0)) / (sigmoid(3.0) - sigmoid(-3.0))

    expected = [gamma(t / 40) for t in range(40)]
    assert schedule.alpha_bar[:-1].tolist() == pytest.approx(expected, rel=1e-9)
    assert float(schedule.betas[-1]) == pytest.approx(0.999)
    assert schedule.alpha_bar[20] == pytest.approx(0.5)
    skewed = Schedule.sigmoid(40, start=0.0, end=3.0)
    assert skewed.alpha_bar[20] < 0.5


def test_log_linear_has_log_snr_in_equal_steps():
    schedule = Schedule.log_linear(37, first=8.0, last=-5.0)
    expected = torch.tensor([8.0 - 13.0 * i / 36 for i in range(37)])
    torch.testing.assert_close(schedule.log_snr, expected, rtol=0, atol=1e-9)
    assert schedule.terminal_snr == pytest.approx(math.exp(-5.0))


def test_log_snr_keeps_its_precision_at_both_ends():
    for snr in (-30.0, -1.0, 0.0, 5.0, 30.0):
        log_alpha_bar = torch.nn.functional.logsigmoid(torch.tensor(snr))
        assert float(log_snr(log_alpha_bar)) == pytest.approx(snr, abs=1e-9)
    tiny = Schedule(torch.tensor([1e-12, 1e-12]))
    assert tiny.betas.tolist() == pytest.approx([1e-12, 1e-12], rel=1e-10)
    law = posterior(tiny.log_alpha_bar[1], tiny.log_alpha_bar[2])
    assert float(law.variance) == pytest.approx(0.5e-12, rel=1e-9)
    assert float(law.c0) == pytest.approx(0.5, rel=1e-9)


@each_schedule
def test_every_schedule_falls(build):
    schedule = build()
    assert (schedule.betas > 0).all()
    assert (schedule.betas < 1).all()
    assert (schedule.log_snr.diff() < 0).all()
    assert schedule.log_alpha_bar.dtype == torch.float64


def test_betas_outside_the_open_unit_interval_are_refused():
    for betas, at in (([0.1, 0.0], 2), ([1.0, 0.2], 1), ([0.1, 0.2, -0.3], 3), ([0.1, math.nan], 2)):
        with pytest.raises(ValueError, match=rf"beta_{at} is .*must be in \(0, 1\)"):
            Schedule(torch.tensor(betas))
    with pytest.raises(ValueError, match=r"beta_\d+ is .*For few steps take smaller ends"):
        Schedule.linear(20)  # 20 / T = 1
    with pytest.raises(ValueError, match=r"betas have shape \(0,\)"):
        Schedule(torch.tensor([]))
    with pytest.raises(ValueError, match=r"betas have shape \(2, 2\)"):
        Schedule(torch.full((2, 2), 0.1))


def test_other_mistakes_are_refused():
    for build in (Schedule.linear, Schedule.cosine, Schedule.sigmoid, Schedule.log_linear):
        with pytest.raises(ValueError, match="T is 0; it must be at least 1"):
            build(0)
        with pytest.raises(ValueError, match="whole number"):
            build(10.0)
    with pytest.raises(ValueError, match="start must be below end"):
        Schedule.sigmoid(10, start=3.0, end=-3.0)
    with pytest.raises(ValueError, match="log-SNR must fall"):
        Schedule.log_linear(10, first=-9.0, last=9.0)
    with pytest.raises(ValueError, match="offset is -1"):
        Schedule.cosine(10, offset=-1.0)


@pytest.mark.parametrize("build", [Schedule.cosine, Schedule.sigmoid, Schedule.log_linear])
@pytest.mark.parametrize("T", [1, 2, 3])
def test_few_levels_are_possible(build, T):
    schedule = build(T)
    assert schedule.T == T
    assert math.isfinite(schedule.terminal_snr)


@pytest.mark.parametrize("T", [1, 2, 3, 10, 999, 1000])
def test_strided_levels(T):
    for steps in {1, 2, 3, 7, T // 3, T - 1, T} & set(range(1, T + 1)):
        levels = strided(T, steps)
        assert len(levels) == steps
        assert levels[0] == T
        gaps = [above - below for above, below in pairwise(levels)]
        assert all(gap >= 1 for gap in gaps)
        if steps > 1:
            assert levels[-1] == 1
            assert max(gaps) - min(gaps) <= 1
    assert strided(T, T) == list(range(T, 0, -1))


def test_strided_refuses_what_there_is_not():
    for steps in (0, 11, 2.0):
        with pytest.raises(ValueError, match=r"steps is .*from 1 to 10"):
            strided(10, steps)
