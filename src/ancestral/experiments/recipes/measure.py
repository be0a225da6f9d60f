"""The figure of a trained chain, by a recipe's estimator: the one place that knows how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ancestral.bounds import Estimate
from ancestral.core.chain import Chain
from ancestral.data import Examples
from ancestral.evaluation import evaluate
from ancestral.evaluation.loop import Progress
from ancestral.evaluation.store import Store
from ancestral.experiments.recipes.recipe import Figure

_DRAWN = {"uniform": "uniformly", "low-discrepancy": "evenly", "importance": "by importance"}


@dataclass(frozen=True)
class Measured:
    """A figure (smaller is better), and how it was come by."""

    figure: Estimate
    estimator: str
    n: int
    elbo: float
    """Nats per example."""
    seconds: float


def measure(
    chain: Chain,
    x: Examples,
    figure: Figure,
    *,
    samples: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Measured:
    """The figure over all of x, (n, *shape), from ``samples`` draws for each example.

    Raises ``ValueError`` for bits/dim of a chain whose p(x|z_1) is a density.
    """
    sampling = figure.metric == "nll"
    found = evaluate(
        chain,
        x,
        bound="iwae" if sampling else "elbo",
        samples=samples if sampling or figure.levels is None else None,
        levels=figure.levels,
        seed=figure.seed,
        store=store,
        progress=progress,
    )
    if sampling:
        assert found.log_likelihood is not None
        words = f"importance sampling, {samples:,} samples an image"
        return Measured(found.log_likelihood.scaled(-1.0), words, found.n, found.elbo.mean, found.seconds)
    if found.bits_per_dim is None:
        raise ValueError(
            "bits/dim of a density: the decoder's law is not one over the data's levels. Use a likelihood "
            "such as discretized-logistic."
        )
    return Measured(found.bits_per_dim, _in_words(found.estimator), found.n, found.elbo.mean, found.seconds)


def _in_words(estimator: dict[str, Any]) -> str:
    """How an ELBO was estimated, from ``Evaluation.estimator``."""
    if estimator["name"] == "sampled":
        return f"ELBO, {estimator['levels']} levels an image, drawn {_DRAWN[estimator['draws']]}"
    number, name = estimator["samples"], estimator["name"]
    of = " over all levels" if name == "sweep" else ""
    return f"ELBO, {number} {name}{'' if number == 1 else 's'}{of} an image"
