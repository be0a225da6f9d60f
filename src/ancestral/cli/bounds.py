"""What ``ancestral evaluate`` tells of the bounds on log p(x) beside the ELBO."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ancestral._internal import checks
from ancestral.cli.progress import example_progress


@dataclass(frozen=True, kw_only=True)
class BoundOptions:
    """Which bound on log p(x), and what is told of it."""

    bound: Literal["elbo", "iwae", "ais"] = "elbo"
    """The ELBO alone; or beside it log p(x) from importance weights, or from annealed importance sampling
    (vae and hvae)."""
    samples: int | None = None
    """Samples for each example: for elbo the paths (or sweeps) averaged, by default 1; for iwae the paths
    weighed, by default 5000 (a ddpm has no default: each takes T network calls); for ais the Markov chains,
    by default 1; with --estimator ode the draws of z_1, each with a separate solution, by default 1."""
    ais_temperatures: int = 1000
    """ais: the steps from the prior to the posterior."""
    ais_leapfrog: int = 10
    """ais: the leapfrog steps at each of them."""
    ais_simulated: int = 0
    """ais: examples drawn from the model, on which log p(x) is bounded from both sides; 0 for none."""
    bounds_picture: Path | None = None
    """iwae and ais: a .png of the bounds from the ELBO up, with the ELBO of a q that is fitted to each
    example: how much of its gap is amortisation, and how much the family of q."""
    fit_steps: int = 500
    """--bounds-picture: the steps of that fit."""

    def check_bounds(self) -> None:
        """Refuse options that do not fit one another, before any work."""
        if self.samples is not None:
            checks.integer("samples", self.samples, low=1)
        checks.integer("ais_temperatures", self.ais_temperatures, low=1)
        checks.integer("ais_leapfrog", self.ais_leapfrog, low=1)
        checks.integer("ais_simulated", self.ais_simulated, low=0)
        checks.integer("fit_steps", self.fit_steps, low=1)
        of_ais = (self.ais_temperatures, self.ais_leapfrog, self.ais_simulated) != (1000, 10, 0)
        if of_ais and self.bound != "ais":
            raise ValueError(
                f"an option --ais-… is given and bound is {self.bound}; say --bound ais as well."
            )
        if self.bounds_picture is None:
            if self.fit_steps != 500:
                raise ValueError(
                    "--fit-steps is given and no picture; say --bounds-picture FILE.png as well."
                )
            return
        checks.suffix("--bounds-picture", self.bounds_picture, (".png",))
        if self.bound == "elbo" or (self.bound, self.samples) == ("iwae", 1):
            raise ValueError(
                "--bounds-picture shows the ELBO below tighter bounds; say --bound iwae with 2 samples or "
                "more, or --bound ais."
            )


def annealing(options: BoundOptions) -> Any:
    """How Markov chains are led."""
    from ancestral.bounds import Annealing

    return Annealing(options.ais_temperatures, options.ais_leapfrog)


def check_chain(chain: Any, x: Any, options: BoundOptions) -> None:
    """Refuse bounds that a chain does not have, before any work."""
    from ancestral.bounds.fitted import check_can_fit
    from ancestral.evaluation.evaluation import tighter_bound

    tighter_bound(chain, options.bound, samples=options.samples, annealing=annealing(options))
    if options.bounds_picture is not None:
        check_can_fit(chain, x[:1].to("cpu"))


def more_of_bounds(
    chain: Any, x: Any, result: Any, *, options: BoundOptions, rest: dict[str, int]
) -> tuple[dict[str, Any], list[str]]:
    """What is found beside ``evaluate``'s ``result``, and the same for a person.

    ``rest`` are the batch size and the seed.
    """
    from ancestral.bounds import Fitting
    from ancestral.evaluation import bidirectional, bound_gaps, save_gaps

    found: dict[str, Any] = {}
    lines: list[str] = []
    if options.ais_simulated:
        with example_progress("simulating") as progress:
            both = bidirectional(
                chain,
                options.ais_simulated,
                chains=result.tighter.samples,
                options=result.tighter.annealing,
                progress=progress,
                **rest,
            )
        found["bidirectional"] = both.json()
        lines += _both_lines(both)
    if options.bounds_picture is not None:
        with example_progress("fitting q") as progress:
            gaps = bound_gaps(
                chain,
                x,
                tighter=result.tighter,
                fitting=Fitting(steps=options.fit_steps),
                progress=progress,
                **rest,
            )
        save_gaps(options.bounds_picture, gaps)
        print(f"written: {options.bounds_picture}", file=sys.stderr)
        found["gaps"] = gaps.json()
        lines += [*columns(gaps.table()), *_gap_lines(gaps)]
    elif result.tighter is not None:
        lines += columns(_curve_table(result.tighter))
    return found, lines


def columns(table: list[list[str]]) -> list[str]:
    """Rows of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _curve_table(tighter: Any) -> list[list[str]]:
    estimates = tighter.curve.estimates()
    rows = [[f"{tighter.bound}-{k}", f"{one:.4f}"] for k, one in estimates.items()]
    return [["bound", "nats"], *rows]


def _both_lines(both: Any) -> list[str]:
    return [
        f"  simulated       {both.lower:12.4f} <= mean log p(x) <= {both.upper:.4f} nats (n = {both.n})",
        f"  gap of ais      {both.gap:12.4f} nats at most, on these",
    ]


def _gap_lines(gaps: Any) -> list[str]:
    def line(name: str, gap: Any, more: str) -> str:
        return f"  {name:<15} {gap:12.4f} nats of the ELBO's gap{more}"

    encoder = line("amortisation", gaps.amortisation, "")
    above = gaps.approximation.mean > 0
    family = ", at least" if above else ": the fitted ELBO is above all bounds; take more --samples"
    return [encoder, line("family of q", gaps.approximation, family)]
