"""Where the ELBO loses, on the same examples: two chains of bounds with the same ends,

    ELBO ≤ ELBO of the best q for each example ≤ log p(x),     ELBO ≤ IWAE-2 ≤ … ≤ IWAE-K ≤ log p(x).

What fitting q to each example gains is what amortisation costs, i.e. that one encoder serves all examples;
the rest, up to the tightest bound there is, is what the family of q costs, i.e. that p(z|x) is not in it
(Cremer et al. 2018). IWAE-k of a small k may lie below the fitted ELBO: then it says nothing of the family.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ancestral.bounds import Estimate, FittedBound, Fitting
from ancestral.bounds.fitted import FittedBounded, check_can_fit
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.data import Examples, Split
from ancestral.evaluation.evaluation import Tighter, evaluate
from ancestral.evaluation.loop import Progress, bounded_of, entered
from ancestral.evaluation.pictures import save_figure

WEIGHED = 500
"""Importance samples an example that stand beside annealed Markov chains."""
FITTED = "ELBO, q fitted"
"""The name of that rung."""
_FITTED = 8
"""Keeps the seed of fitting q apart from others."""


@dataclass(frozen=True)
class Rung:
    """One bound on log p(x), as a mean over examples."""

    name: str
    bound: Estimate
    above_elbo: Estimate
    """By how much it is above the ELBO on the same examples; its error is far smaller than the bound's
    own."""

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {"name": self.name, **self.bound.json(), "above_elbo": self.above_elbo.json()}


@dataclass(frozen=True)
class Gaps:
    """Bounds on log p(x) from the loosest to the tightest, and the two parts of the ELBO's gap, in nats."""

    n: int
    rungs: list[Rung]
    """The ELBO first; the ELBO with q fitted to each example, importance-weighted bounds and annealed ones,
    in the order of their means."""
    amortisation: Estimate
    """What fitting q to each example gains: the encoder's share of the gap."""
    approximation: Estimate
    """What is left to the tightest other bound: the family's share, at least, as that is a bound still. Below
    0 where no bound is above the fitted ELBO: then it says nothing, and more samples are needed."""
    fitting: Fitting
    unconverged: int = 0
    """The number of examples to which q was not fitted to the end: the fitted ELBO is a bound, and too low."""

    @staticmethod
    def of(fitted: Tensor, tighter: list[Tighter], *, fitting: Fitting, unconverged: int = 0) -> Gaps:
        """From the fitted ELBO, (n,), and tighter bounds on the same examples, importance-weighted first."""
        first, elbo = tighter[0].curve, tighter[0].curve.values[:, 0]
        columns = {FITTED: fitted}
        columns |= {f"IWAE-{k}": first.values[:, i] for i, k in enumerate(first.counts) if k > 1}
        columns |= {f"AIS-{one.samples}": one.curve.best for one in tighter[1:]}
        ordered = sorted(columns.items(), key=lambda named: float(named[1].mean()))
        rungs = [
            Rung(name, Estimate.of(column), Estimate.of(column - elbo))
            for name, column in [("ELBO", elbo), *ordered]
        ]
        best = [column for name, column in ordered if name != FITTED][-1]
        amortised, left = Estimate.of(fitted - elbo), Estimate.of(best - fitted)
        return Gaps(len(elbo), rungs, amortised, left, fitting, unconverged)

    @property
    def whole(self) -> float:
        """From the ELBO to the tightest bound, nats."""
        return self.rungs[-1].above_elbo.mean

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "n": self.n,
            "bounds": [rung.json() for rung in self.rungs],
            "amortisation": self.amortisation.json(),
            "approximation": self.approximation.json(),
            "fitting_steps": self.fitting.steps,
            "fitting_unconverged": self.unconverged,
        }

    def table(self) -> list[list[str]]:
        """Rows of text, the first of them the heads."""
        found = self.json()
        rows = [
            [rung_words(found, rung.name), f"{rung.bound:.4f}", f"{rung.above_elbo:.4f}"]
            for rung in self.rungs
        ]
        return [["bound", "nats", "above the ELBO"], *rows]


def bound_gaps(
    chain: Chain,
    x: Examples | Given,
    *,
    tighter: Tighter,
    fitting: Fitting = Fitting(),  # noqa: B008
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gaps:
    """The bounds on all of x, (n, *shape), given a tighter one that ``evaluate`` found on the same x.

    An annealed one gets importance-weighted ones of ``WEIGHED`` samples put before it, and ``progress`` goes
    over the examples twice. The caller's random state is left as it was. ``ValueError`` for a bound of other
    examples or of one path, and where q has nothing to fit.
    """
    if len(tighter.curve.best) != len(x) or (tighter.bound, tighter.samples) == ("iwae", 1):
        raise ValueError(
            f"the bound given is {tighter.bound} of {len(tighter.curve.best)} examples and {tighter.samples} "
            f"sample(s), for {len(x)} examples; it must be of the same ones, and iwae of at least 2 samples."
        )
    some = entered(chain, x)
    assert not isinstance(some, Split)
    check_can_fit(chain, some[:1].to(next(chain.parameters()).device))
    bounds = [tighter]
    if tighter.bound == "ais":
        rest: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
        weighed = evaluate(chain, some, bound="iwae", samples=WEIGHED, **rest)
        assert weighed.tighter is not None
        bounds.insert(0, weighed.tighter)
    (fitted,) = bounded_of(
        chain,
        some,
        [FittedBound(fitting)],
        batch_size=batch_size,
        seed=seed,
        purpose=(_FITTED,),
        progress=progress,
    )
    assert isinstance(fitted.found, FittedBounded)
    unconverged = int(fitted.found.unconverged.sum())
    return Gaps.of(fitted.found.nats, bounds, fitting=fitting, unconverged=unconverged)


def rung_words(found: dict[str, Any], name: str) -> str:
    """A bound of ``Gaps.json`` for a person: its name, and whether q was fitted to the end."""
    unconverged = found.get("fitting_unconverged", 0)
    if name != FITTED or not unconverged:
        return name
    return f"{name} (not converged for {unconverged} of {found['n']})"


def save_gaps(path: Path, gaps: Gaps) -> None:
    """Write ``draw_gaps`` of the bounds as a PNG. Written whole or not at all."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(7.2, gaps_height(gaps.json())), layout="constrained")
    draw_gaps(sheet, gaps.json())
    save_figure(path, sheet)


def gaps_height(found: dict[str, Any]) -> float:
    """How high a figure of these bounds is to be, in inches."""
    return 1.6 + 0.32 * len(found["bounds"])


def draw_gaps(figure: Any, found: dict[str, Any]) -> None:
    """The bounds of ``Gaps.json`` on one axis, from the loosest at the bottom to the tightest at the top.

    Bars are 95 % intervals of what is above the ELBO on the same examples; the examples' own spread, which is
    common to all, is told once.
    """
    axes = figure.add_subplot()
    rungs = found["bounds"]
    means, places = [rung["mean"] for rung in rungs], range(len(rungs))
    wide = [1.96 * (rung["above_elbo"]["stderr"] or 0.0) for rung in rungs]
    axes.errorbar(means, places, xerr=wide, fmt="o", color="black", markersize=4, capsize=2)
    elbo, middle = means[0], means[0] + found["amortisation"]["mean"]
    told = f"amortisation: {_words(found['amortisation'])}"
    axes.axvspan(elbo, middle, color="tab:orange", alpha=0.25, label=told)
    if found["approximation"]["mean"] > 0:
        told = f"family of q: {_words(found['approximation'])} or more"
        axes.axvspan(middle, means[-1], color="tab:blue", alpha=0.2, label=told)
    axes.axvline(means[-1], color="black", linewidth=0.8, linestyle="--", label="log p(x) is here or above")
    axes.set_yticks(places, [rung_words(found, rung["name"]) for rung in rungs])
    axes.set_xlabel(f"nats per example; ELBO {_words(rungs[0])} over n = {found['n']}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=8)


def _words(found: dict[str, Any]) -> str:
    return f"{Estimate.from_json(found):.4f}"
