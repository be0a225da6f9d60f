"""Lower bounds on log p(x), as objects: a bound is checked against a chain and bounds a batch of examples.

``default_bound`` is the only function that chooses among them for a chain.
"""

from ancestral.bounds.ais import AisBound, Annealing
from ancestral.bounds.base import Bound, Bounded
from ancestral.bounds.code import code_length
from ancestral.bounds.estimate import Estimate
from ancestral.bounds.fitted import FittedBound, Fitting
from ancestral.bounds.flow import Solver
from ancestral.bounds.iwae import Curve, IwaeBound, WeightedBounded, log_likelihood
from ancestral.bounds.levels import DRAWS, LEVELS, SampledLevelsBound
from ancestral.bounds.ode import OdeBound
from ancestral.bounds.path import ElboBounded, PathBound, SweepBound
from ancestral.core.chain import Chain

__all__ = [
    "DRAWS",
    "LEVELS",
    "AisBound",
    "Annealing",
    "Bound",
    "Bounded",
    "Curve",
    "ElboBounded",
    "Estimate",
    "FittedBound",
    "Fitting",
    "IwaeBound",
    "OdeBound",
    "PathBound",
    "SampledLevelsBound",
    "Solver",
    "SweepBound",
    "WeightedBounded",
    "code_length",
    "default_bound",
    "elbo_bound",
    "log_likelihood",
]

MOST_SWEPT = 100
"""Levels up to which the default is a sweep over all."""


def default_bound(chain: Chain) -> Bound:
    """The ELBO as a chain is evaluated by default.

    From one path; for a chain with closed-form q(z_t|x) from a sweep over all levels, or from ``LEVELS``
    random ones where there are more than ``MOST_SWEPT`` or time is continuous.
    """
    if not chain.single_levels:
        return PathBound()
    return SampledLevelsBound() if chain.continuous or chain.T > MOST_SWEPT else SweepBound()


def elbo_bound(
    chain: Chain,
    *,
    samples: int | None = None,
    levels: int | None = None,
    draws: str | None = None,
    sweep: bool = False,
) -> Bound:
    """The ELBO that options name: ``samples`` paths or sweeps, or ``levels`` random levels, or the default.

    ``ValueError`` for options that do not go together or do not fit the chain.
    """
    if levels is not None and (sweep or (samples or 1) > 1):
        given = "the estimator is sweep" if sweep else f"samples is {samples}"
        raise ValueError(
            f"{given} and levels is {levels}: an estimate from random levels has no sweeps to average. Leave "
            "samples out and give more levels, or sweep over all."
        )
    if draws is not None and levels is None and (sweep or samples is not None):
        given = "the estimator is sweep" if sweep else f"samples is {samples}"
        raise ValueError(
            f"draws is {draws} and {given}: no levels are drawn at random then. Leave draws out, or give levels "
            "in place of the other."
        )
    if levels is not None:
        found: Bound = SampledLevelsBound(levels, draws or DRAWS[-1])
    elif sweep or (samples is not None and chain.single_levels):
        found = SweepBound(samples or 1)
    elif samples is not None:
        found = PathBound(samples)
    elif draws is not None:
        found = SampledLevelsBound(draws=draws)
    else:
        found = default_bound(chain)
    found.check(chain)
    return found
