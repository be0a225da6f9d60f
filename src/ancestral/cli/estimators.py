"""How ``ancestral evaluate`` estimates a DDPM's bound, and what of its options fits together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ancestral._internal import checks
from ancestral.cli.options import AllLevels


@dataclass(frozen=True, kw_only=True)
class OdeOptions:
    """The likelihood of the probability-flow ODE (--estimator ode)."""

    rtol: float = 1e-4
    """Relative tolerance of the solver, dopri5."""
    atol: float = 1e-4
    """Absolute tolerance, in the network's units and in nats."""
    trace: Literal["auto", "exact", "hutchinson"] = "auto"
    """Of the Jacobian: exact (a backward pass for each dimension), by Hutchinson's random probes, or auto:
    exact for at most 20 dimensions."""
    probes: int = 4
    """hutchinson: probes for each solution, a backward pass each."""

    def __post_init__(self) -> None:
        checks.number("rtol", self.rtol, above=0.0)
        checks.number("atol", self.atol, above=0.0)
        checks.integer("probes", self.probes, low=1)


def check_estimator(options: Any) -> None:
    """Refuse options of one estimator with another."""
    name, levels = options.estimator, options.levels
    if name == "sweep" and levels not in (None, "all"):
        raise ValueError(f"levels is {levels} and the estimator is sweep, over all. Leave one of them out.")
    if name == "sampled" and levels == "all":
        raise ValueError("levels is all and the estimator is sampled. Give a number, or leave one out.")
    if options.draws is not None and (name in ("sweep", "ode") or levels == "all"):
        raise ValueError(
            f"draws is {options.draws} and no levels are drawn at random. Leave it out, or use --estimator "
            "sampled."
        )
    if name != "ode" and options.ode != OdeOptions():
        raise ValueError("an option --ode.… is given and the estimator is not ode; say --estimator ode.")
    if name == "ode" and levels is not None:
        raise ValueError(f"levels is {levels} and the estimator is ode, which has none. Leave one out.")
    if name == "ode" and options.bound != "elbo":
        raise ValueError(
            f"bound is {options.bound} and the estimator is ode: its paths have no weights. Leave one of "
            "them out."
        )


def check_levels(chain: Any, options: Any) -> dict[str, Any]:
    """The estimator's options as ``evaluate`` takes them. Rejects those that the chain does not have."""
    given: int | AllLevels | None = options.levels
    if options.estimator is not None and not chain.single_levels:
        raise ValueError(
            f"estimator is {options.estimator}, for a {type(chain).__name__}: only a DDPM's bound can be had "
            "in several ways. Leave it out."
        )
    if given == "all" and not chain.single_levels:
        raise ValueError(
            f"levels is all, for a {type(chain).__name__}: its ELBO is of whole paths, and only a DDPM's can "
            "be had from some levels. Leave it out."
        )
    sweep = options.estimator == "sweep" or given == "all"
    if chain.continuous and sweep:
        asked = "the estimator is sweep" if options.estimator == "sweep" else "levels is all"
        raise ValueError(
            f"{asked}, and the run is of continuous time, which has no levels to sweep over. Use --estimator "
            "sampled, with --levels N."
        )
    levels = given if isinstance(given, int) else None
    if options.estimator == "sampled" and levels is None:
        from ancestral.bounds import LEVELS

        levels = LEVELS
    if levels is None and options.draws is not None:
        from ancestral.bounds import SampledLevelsBound, default_bound

        if not isinstance(default_bound(chain), SampledLevelsBound):
            raise ValueError(
                f"draws is {options.draws} and all levels are swept over. Leave it out, or use --estimator "
                "sampled."
            )
    return {"levels": levels, "draws": options.draws, "sweep": sweep}


def measured_ode(chain: Any, x: Any, options: Any, progress: Callable[[int, int], None]) -> Any:
    """The ODE's likelihood, with these options."""
    from ancestral.evaluation.ode import evaluate_ode

    return evaluate_ode(
        chain, x, ode_bound(options), batch_size=options.batch_size, seed=options.seed, progress=progress
    )


def ode_bound(options: Any) -> Any:
    """The bound that the options --ode.… describe."""
    from ancestral.bounds import OdeBound, Solver

    ode: OdeOptions = options.ode
    return OdeBound(options.samples or 1, Solver(ode.rtol, ode.atol, ode.trace, ode.probes))


def ode_table(result: Any) -> list[str]:
    """Its figures for a person."""

    lines = [f"  log p_ODE(x) ≥  {result.bound:12.4f} nats"]
    if result.bits_per_dim is not None:
        lines.append(f"  bits/dim     ≤  {result.bits_per_dim:12.4f}")
    lines += [
        f"  reconstruction  {result.reconstruction:12.4f} nats, −log p(x|z_1)",
        f"  flow            {result.flow:12.4f} nats, −log p_ODE(z_1)",
        f"  dequantisation  {result.dequantisation:12.4f} nats, log q(z_1|x)",
    ]
    if result.stderr_trace is not None:
        lines.append(
            f"  of the trace    ± {result.stderr_trace:.4f} nats ({result.how.solver.probes} probes)"
        )
    calls = f"{result.network_calls_per_image:.0f} network calls per example"
    return [
        *lines,
        f"  cost            {calls}, {result.seconds:.1f} s",
        f"  {result.json()['likelihood_of']}",
    ]
