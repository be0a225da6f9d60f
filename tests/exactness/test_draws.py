"""The levels a batch is trained at: their probabilities, and losses that stay unbiased whatever these are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ancestral.models.diffusion import SAMPLINGS, Diffusion
from ancestral.models.diffusion.draws import BINS, KEPT, UNIFORM, LevelDraw, LevelDraws
from ancestral.models.diffusion.schedules import Schedule
from ancestral.objectives import Loss, OneLevel, Simple
from gaussian_ddpm import expected_terms, gaussian_ddpm
from toys import spd

pytestmark = pytest.mark.usefixtures("float64")

CPU = torch.device("cpu")


def ddpm(T: int, **options) -> tuple[Diffusion, Tensor]:
    mean = torch.tensor([0.4, -0.8])
    schedule = Schedule.log_linear(T, first=5.0, last=-5.0)
    return gaussian_ddpm(schedule, mean, spd(2, 2), off=0.8, **options), mean


def observe(draws: LevelDraws, draw: LevelDraw, costs: Tensor) -> None:
    draws.observe(draws.seen(draw, costs))


def trained(objective: OneLevel, chain: Diffusion, x: Tensor) -> Loss:
    """A loss, and what a training step makes of it."""
    loss = objective(chain, x)
    objective.observe(loss.seen)
    return loss


def at_cells(cells: Tensor, first: Tensor | None = None) -> LevelDraw:
    first = torch.zeros(len(cells), dtype=torch.bool) if first is None else first
    return LevelDraw(first, cells, cells / 1.0, None)


def test_importance_follows_the_root_mean_square_of_the_loss():
    draws = LevelDraws("importance", 4)
    torch.testing.assert_close(draws.probabilities(), torch.full((4,), 0.25))
    # The first level, which has no cell, and the sign of a loss do not count.
    observe(
        draws,
        at_cells(torch.tensor([0, 0, 1, 3, 0]), torch.tensor([False, False, False, False, True])),
        torch.tensor([3.0, -4.0, 1.0, 7.0, 100.0]),
    )
    observe(draws, at_cells(torch.tensor([2, 1])), torch.tensor([2.0, 5.0]))
    of_1 = math.sqrt((KEPT * 1.0 + 25.0) / (KEPT + 1.0))
    rms = torch.tensor([math.sqrt((9.0 + 16.0) / 2.0), of_1, 2.0, 7.0])
    expected = (1.0 - UNIFORM) * rms / rms.sum() + UNIFORM / 4
    torch.testing.assert_close(draws.probabilities(), expected)


def test_what_was_not_seen_is_as_likely_as_the_largest():
    draws = LevelDraws("importance", 3)
    observe(draws, at_cells(torch.tensor([0, 1])), torch.tensor([1.0, 4.0]))
    p = draws.probabilities()
    assert p[2] == p[1] > p[0]


def test_neighbouring_cells_share_their_history():
    draws = LevelDraws("importance", 10 * BINS)
    observe(draws, at_cells(torch.arange(10 * BINS)), (torch.arange(10 * BINS) // 10 + 1.0))
    expected = torch.arange(1.0, BINS + 1).repeat_interleave(10)
    expected = (1 - UNIFORM) * expected / expected.sum() + UNIFORM / (10 * BINS)
    torch.testing.assert_close(draws.probabilities(), expected)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("cells", "first"), [(1, 0.3), (7, 0.1), (999, 0.1)])
def test_cells_have_their_probabilities_and_weights_undo_them(sampling, cells, first):
    draws, n = LevelDraws(sampling, cells), 200_000
    p = torch.full((cells,), 1.0 / cells)
    if sampling == "importance":
        observe(draws, at_cells(torch.arange(cells)), 1.0 + 3.0 * torch.rand(cells))
        p = draws.probabilities()
        assert p.min() > UNIFORM / cells
    assert float(p.sum()) == pytest.approx(1.0)
    draw = draws(n, first=first, device=CPU)
    assert abs(float(draw.first.double().mean()) - first) < 5 * math.sqrt(first / n)
    others = draw.cell[~draw.first]
    share = torch.bincount(others, minlength=cells) / len(others)
    assert ((share - p).abs() < 5 * (p / len(others)).sqrt() + 1e-9).all()
    # Within its cell a place is uniform.
    within = draw.place[~draw.first] * cells - others
    assert within.min() > -1e-6
    assert within.max() < 1.0 + 1e-6
    assert abs(float(within.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / len(others))
    weight = torch.ones(n) if draw.weight is None else draw.weight
    torch.testing.assert_close(weight[~draw.first], 1.0 / (cells * p[others]))
    assert not draw.weighed(torch.ones(n))[draw.first].any()


def test_even_places_leave_no_cell_out_and_uniform_ones_do():
    counts = {
        name: torch.bincount(LevelDraws(name, 50)(100, first=0.0, device=CPU).cell, minlength=50)
        for name in SAMPLINGS
    }
    assert set(counts["even"].tolist()) == set(counts["importance"].tolist()) == {2}
    assert counts["uniform"].max() > 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("n", "T"), [(1, 5), (6, 16)])
@torch.no_grad()
def test_the_vlb_loss_is_minus_the_bound_for_each_way_to_draw(sampling, n, T):
    """Also while the history changes under it: each draw is weighed by the distribution it was from."""
    chain, mean = ddpm(T, variance="learned")
    objective = OneLevel(chain, sampling=sampling)
    x = torch.linspace(-4.0, 4.0, n)[:, None] + mean
    expected = -sum(expected_terms(chain, u, torch.zeros(2, 2)).total for u in x) / n
    draws = torch.stack([trained(objective, chain, x).value for _ in range(800)])
    assert abs(float(draws.mean()) - expected) < 4.5 * float(draws.std()) / math.sqrt(800)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@torch.no_grad()
def test_scores_of_a_loss_look_standard_normal(sampling):
    chain, mean = ddpm(12)
    objective = OneLevel(chain, sampling=sampling)
    x = torch.linspace(-2.0, 2.0, 8)[:, None] + mean
    expected = -sum(expected_terms(chain, u, torch.zeros(2, 2)).total for u in x) / len(x)
    groups = torch.stack([trained(objective, chain, x).value for _ in range(2000)]).unflatten(0, (100, 20))
    scores = (groups.mean(dim=1) - expected) / (groups.std(dim=1) / math.sqrt(20))
    # 20 values a group: Student's t, a little wider than normal.
    assert abs(float(scores.mean())) < 4 / math.sqrt(100)
    assert 0.8 < float(scores.std()) < 1.25


@pytest.mark.parametrize("sampling", SAMPLINGS)
@torch.no_grad()
def test_the_simple_loss_has_its_closed_form_for_each_way_to_draw(sampling):
    chain, mean = ddpm(9)
    objective = Simple(chain, sampling=sampling)
    x = torch.linspace(-3.0, 3.0, 5)[:, None] + mean
    each = [expected_terms(chain, u, torch.zeros(2, 2)).squared_noise_errors for u in x]
    draws = torch.stack([trained(objective, chain, x).value for _ in range(800)])
    expected = float(torch.stack(each).mean())
    assert abs(float(draws.mean()) - expected) < 4.5 * float(draws.std()) / math.sqrt(800)


@torch.no_grad()
def test_importance_varies_least_where_levels_cost_differently():
    """One example a batch, where even draws are uniform ones; the reconstruction is the same for all."""
    spread = {}
    for sampling in ("uniform", "importance"):
        mean = torch.tensor([0.4, -0.8])
        chain = gaussian_ddpm(Schedule.linear(40, first=0.001, last=0.3), mean, spd(2, 2))
        objective = OneLevel(chain, sampling=sampling)
        x = torch.tensor([[1.0, 0.3]])
        for _ in range(500):
            trained(objective, chain, x)
        terms = [trained(objective, chain, x).terms["matching"] for _ in range(2000)]
        spread[sampling] = float(torch.stack(terms).var())
    assert spread["importance"] < 0.7 * spread["uniform"]


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"sampling is 'evenly'.*Did you mean 'even'"):
        LevelDraws("evenly", 3)
