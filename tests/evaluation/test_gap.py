"""The amortisation gap and the family's: closed forms, the order of the bounds, picture and JSON."""

from __future__ import annotations

import itertools

import pytest
import torch
from PIL import Image
from torch import Tensor

from ancestral.bounds import Annealing, Estimate, FittedBound, Fitting
from ancestral.bounds.fitted import fitted_elbo
from ancestral.cli.bounds import _gap_lines
from ancestral.config import HVAEConfig, VAEConfig
from ancestral.core.spec import DataSpec
from ancestral.evaluation import bound_gaps, evaluate, save_gaps
from ancestral.experiments.build import build_chain
from ancestral.models.diffusion.schedules import Schedule
from bit_vae import BitVAE, by_quadrature
from gaussian_ddpm import gaussian_ddpm
from linear_gaussian import LinearVAE
from toys import Affine, Joint, TopDownGaussian, randn

pytestmark = pytest.mark.usefixtures("float64")

OFF = {"shift": 0.4, "width": 1.5}


def chain(**off: float) -> LinearVAE:
    """Its two latents move x nearly alike, so that the posterior's are far from independent."""
    return LinearVAE(torch.tensor([[0.8, 0.5], [0.5, 0.8], [0.3, 0.2]]), 0.6, **off)


def test_the_fitted_elbo_is_the_best_of_a_diagonal_family():
    """From a q that is off by far more than what the family costs, example by example."""
    vae = chain(**OFF)
    x = vae.law.sample((6,))
    fitting = Fitting(steps=400, samples=20, test_samples=20_000)
    best = vae.law.log_prob(x) - vae.family_gap
    found = fitted_elbo(vae, x, fitting=fitting)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, best, atol=0.03, rtol=0)
    assert vae.family_gap > 0.1
    assert vae.gap > vae.family_gap + 0.5
    # Few steps are a part of it.
    begun = fitted_elbo(vae, x, fitting=Fitting(steps=2, test_samples=20_000))
    assert (begun < best + 0.03).all()
    assert (begun > best - vae.gap).all()


@pytest.mark.parametrize("shift", [0.0, 20.0, 100.0])
def test_a_fit_does_not_end_early_from_a_very_wrong_encoder(shift):
    torch.manual_seed(0)
    chain = LinearVAE(randn(3, 2, seed=1), 0.5, shift=shift)
    x = chain.law.sample((20,))
    truth = chain.law.log_prob(x) - chain.family_gap
    bound = FittedBound(Fitting(steps=200, samples=5, test_samples=500))(chain, x)
    assert float((bound.nats - truth).mean()) == pytest.approx(0.0, abs=0.05)
    assert not bound.unconverged.any()


def test_a_fit_that_has_not_converged_says_so():
    torch.manual_seed(0)
    chain = LinearVAE(randn(3, 2, seed=1), 0.5, shift=1e9)
    x = chain.law.sample((4,))
    tighter = evaluate(chain, x, bound="iwae", samples=10).tighter
    gaps = bound_gaps(chain, x, tighter=tighter, fitting=Fitting(steps=4, samples=2, test_samples=10))
    assert gaps.unconverged == 4
    assert gaps.json()["fitting_unconverged"] == 4
    assert any("4 of 4" in row[0] for row in gaps.table())


def test_each_example_is_fitted_by_itself():
    """With others beside it, or in pieces of other sizes: as good a fit."""
    vae = chain(**OFF)
    x = vae.law.sample((9,))
    fitting = Fitting(steps=150, learning_rate=0.05, test_samples=3000)
    for rows in (10, 35, 1000):
        found = fitted_elbo(vae, x, fitting=fitting, rows=rows)
        torch.testing.assert_close(found, vae.law.log_prob(x) - vae.family_gap, atol=0.1, rtol=0)


def test_an_exact_q_stays_where_it_is():
    vae = LinearVAE(randn(3, 1, seed=1), 0.5)
    x = vae.law.sample((5,))
    found = fitted_elbo(vae, x, fitting=Fitting(steps=30, test_samples=40_000))
    torch.testing.assert_close(found, vae.law.log_prob(x), atol=0.03, rtol=0)


def ladder() -> HVAEConfig:
    return HVAEConfig(levels=2, latent_dims=(2, 1), width=8)


@pytest.mark.parametrize(
    "config",
    [
        VAEConfig(latent_dims=2, hidden=(8,)),
        HVAEConfig(levels=2, posterior="bottom-up", latent_dims=(2, 1), hidden=(8,)),
        ladder(),
    ],
    ids=["vae", "bottom-up", "ladder"],
)
def test_every_family_with_an_encoder_can_be_fitted(config):
    torch.manual_seed(1)
    data = torch.randint(0, 4, (50, 2), dtype=torch.uint8)
    model = build_chain(config, DataSpec((2,), 4), train=data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = [parameter.clone() for parameter in model.parameters()]
    x = data[:20]
    result = evaluate(model, x, bound="iwae", samples=2000)
    fitting = Fitting(steps=150, test_samples=500)
    gaps = bound_gaps(model, x, tighter=result.tighter, fitting=fitting)
    assert gaps.amortisation.mean > 3 * gaps.amortisation.stderr > 0
    assert gaps.approximation.mean > -3 * gaps.approximation.stderr
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.requires_grad
        assert parameter.grad is None
    assert model.training


@pytest.mark.parametrize("bound", ["iwae", "ais"])
def test_the_gaps_are_the_closed_forms(bound):
    vae = chain(**OFF)
    x = vae.law.sample((300,))
    options = {"samples": 2000} if bound == "iwae" else {"samples": 4, "annealing": Annealing(60, 4)}
    result = evaluate(vae, x, bound=bound, **options)
    fitting = Fitting(steps=200, learning_rate=0.05, test_samples=400)
    gaps = bound_gaps(vae, x, tighter=result.tighter, fitting=fitting)
    near = 0.05 if bound == "iwae" else 0.1
    assert gaps.amortisation.mean == pytest.approx(vae.gap - vae.family_gap, abs=near)
    assert gaps.approximation.mean == pytest.approx(vae.family_gap, abs=near)
    assert gaps.whole == pytest.approx(gaps.amortisation.mean + gaps.approximation.mean)
    assert gaps.n == 300
    names = [rung.name for rung in gaps.rungs]
    assert names[0] == "ELBO"
    assert {"ELBO, q fitted", "IWAE-2", "IWAE-2000" if bound == "iwae" else "AIS-4"} <= set(names)
    # Of two weights' bound this q's own is the looser by far, and the order is that of the means.
    assert names.index("IWAE-2") < names.index("ELBO, q fitted") < len(names) - 1
    means = [rung.bound.mean for rung in gaps.rungs]
    assert means == sorted(means)
    # Every bound is below the closed form, and the weighted ones rise.
    exact = float(vae.law.log_prob(x).mean())
    assert all(rung.bound.mean < exact + 0.1 for rung in gaps.rungs)
    by_name = {rung.name: rung.bound.mean for rung in gaps.rungs}
    weighed = [by_name[f"IWAE-{k}"] for k in sorted(int(n[5:]) for n in names if n.startswith("IWAE"))]
    assert all(low < high + 1e-3 for low, high in itertools.pairwise([gaps.rungs[0].bound.mean, *weighed]))
    # What is above the ELBO on the same examples is far better known than either.
    last = gaps.rungs[-1]
    assert last.above_elbo.mean == pytest.approx(last.bound.mean - gaps.rungs[0].bound.mean)
    assert last.above_elbo.stderr < 0.5 * last.bound.stderr
    assert gaps.rungs[0].above_elbo == Estimate(0.0, 0.0)


def test_a_bound_below_the_fitted_elbo_says_nothing_of_the_family(tmp_path):
    """Two weights of a q that is far off are no match for a q that is fitted."""
    vae = chain(**OFF)
    x = vae.law.sample((100,))
    result = evaluate(vae, x, bound="iwae", samples=2)
    gaps = bound_gaps(vae, x, tighter=result.tighter, fitting=Fitting(steps=200, learning_rate=0.05))
    assert gaps.approximation.mean < 0
    assert [rung.name for rung in gaps.rungs] == ["ELBO", "IWAE-2", "ELBO, q fitted"]
    assert gaps.whole == pytest.approx(gaps.amortisation.mean)
    save_gaps(tmp_path / "bounds.png", gaps)
    assert "take more --samples" in _gap_lines(gaps)[1]


def test_a_bound_of_the_first_examples_is_that_of_these():
    vae = chain(**OFF)
    found = evaluate(vae, vae.law.sample((30,)), bound="iwae", samples=20).tighter
    some = found.first(7)
    assert torch.equal(some.curve.best, found.curve.best[:7])
    assert (some.bound, some.samples) == (found.bound, found.samples)
    rise = found.curve.best - found.curve.values[:, 0]
    assert found.above_one == Estimate.of(rise)
    assert found.json()["above_one_sample"] == Estimate.of(rise).json()


def test_bits_by_quadrature():
    model = BitVAE()
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)
    exact = float(by_quadrature(model, x).mean())
    result = evaluate(model, x, bound="iwae", samples=20_000)
    fitting = Fitting(steps=300, learning_rate=0.05, test_samples=20_000)
    # A q of width 0.9 whatever x is: there only its mean can be fitted.
    gaps = bound_gaps(model, x, tighter=result.tighter, fitting=fitting)
    (fitted,) = (rung.bound.mean for rung in gaps.rungs if rung.name == "ELBO, q fitted")
    assert gaps.rungs[0].bound.mean < fitted < exact
    assert gaps.rungs[-1].bound.mean == pytest.approx(exact, abs=0.02)
    assert gaps.whole == pytest.approx(exact - gaps.rungs[0].bound.mean, abs=0.02)
    assert fitted == pytest.approx(float(best_means(model, x).mean()), abs=0.02)


def best_means(model: BitVAE, x: Tensor) -> Tensor:
    """The ELBO of each x at its best mean of q, by Gauss–Hermite quadrature and Newton-free descent."""
    import numpy as np

    nodes, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(24))
    grid = torch.cartesian_prod(nodes, nodes)
    mass = torch.outer(weights, weights).flatten() / weights.sum() ** 2
    mean = model.features(x).detach().requires_grad_(True)
    optimiser = torch.optim.LBFGS([mean], max_iter=200, line_search_fn="strong_wolfe")

    def elbo() -> Tensor:
        z = (mean[:, None] + 0.9 * grid).flatten(0, 1)
        log_p = model.p_step(z, 1).log_prob(x.repeat_interleave(len(grid), dim=0)).unflatten(0, (len(x), -1))
        kl = 0.5 * (mean.square() + 0.81 - 1.0).sum(dim=1) - 2 * torch.tensor(0.9).log()
        return (log_p * mass).sum(dim=1) - kl

    def closure() -> Tensor:
        optimiser.zero_grad()
        cost = -elbo().sum()
        cost.backward()
        return cost

    optimiser.step(closure)
    model.zero_grad()
    return elbo().detach()


def test_picture_table_and_json(tmp_path):
    vae = chain(**OFF)
    x = vae.law.sample((40,))
    result = evaluate(vae, x, bound="iwae", samples=50)
    seen: list[tuple[int, int]] = []
    options = {"fitting": Fitting(steps=20), "batch_size": 15, "seed": 4}
    torch.manual_seed(9)
    before = torch.get_rng_state()
    gaps = bound_gaps(vae, x, tighter=result.tighter, progress=lambda *state: seen.append(state), **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert bound_gaps(vae, x, tighter=result.tighter, **options).json() == gaps.json()
    # Reported as fitting goes on, within each block as well.
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert {20, 40} < set(done)
    assert {total for _, total in seen} == {40}
    found = gaps.json()
    assert set(found) == {
        "n",
        "bounds",
        "amortisation",
        "approximation",
        "fitting_steps",
        "fitting_unconverged",
    }
    assert [one["name"] for one in found["bounds"]] == [rung.name for rung in gaps.rungs]
    assert set(found["bounds"][0]) == {"name", "mean", "stderr", "above_elbo"}
    table = gaps.table()
    assert len(table) == 1 + len(gaps.rungs)
    assert table[1][0] == "ELBO"
    assert f"{gaps.rungs[2].bound.mean:.4f} ±" in table[3][1]
    save_gaps(tmp_path / "new" / "bounds.png", gaps)
    with Image.open(tmp_path / "new" / "bounds.png") as image:
        assert image.format == "PNG"
        assert image.width > 500


def test_mistakes():
    mean = torch.zeros(2)
    ddpm = gaussian_ddpm(Schedule.linear(4, first=0.1, last=0.6), mean, torch.eye(2))
    with pytest.raises(ValueError, match=r"q of a Diffusion is fixed.*nothing to fit"):
        fitted_elbo(ddpm, torch.zeros(3, 2))
    joint = Joint(1, torch.zeros(1), torch.eye(1)).extend(
        0, [1], Affine(torch.ones(3, 1), torch.zeros(3), torch.eye(3))
    )
    toy = TopDownGaussian(joint, 1)
    with pytest.raises(ValueError, match=r"TopDownGaussian reads the data as they are.*in features\(x\)"):
        fitted_elbo(toy, torch.zeros(3, 3))
    vae, x = chain(), torch.zeros(3, 3)
    with pytest.raises(ValueError, match="rows is 0"):
        fitted_elbo(vae, x, rows=0)
    for name, value in (("steps", 0), ("learning_rate", 0), ("samples", 0), ("test_samples", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Fitting(**{name: value})
    single = evaluate(vae, x, bound="iwae", samples=1).tighter
    with pytest.raises(ValueError, match=r"iwae of 3 examples and 1 sample\(s\), for 3 examples"):
        bound_gaps(vae, x, tighter=single)
    several = evaluate(vae, x, bound="iwae", samples=2).tighter
    with pytest.raises(ValueError, match=r"of 3 examples and 2 sample.*for 2 examples; it must be"):
        bound_gaps(vae, x[:2], tighter=several)
