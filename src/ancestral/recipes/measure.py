"""The figure of a trained chain, by a recipe's estimator: the one place that knows how it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from ancestral.chain import Chain
from ancestral.data import Examples
from ancestral.evaluation import Estimate, evaluate
from ancestral.evaluation.bounds import Progress
from ancestral.recipes.recipe import Figure


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
    chain: Chain, x: Examples, figure: Figure, *, samples: int, progress: Progress | None = None
) -> Measured:
    """The figure over all of x, (n, *shape), from ``samples`` draws for each example.

    Raises ``ValueError`` for bits/dim of a chain whose p(x|z_1) is a density.
    """
    sampling = figure.metric == "nll"
    found = evaluate(
        chain,
        x,
        bound="iwae" if sampling else "elbo",
        samples=samples,
        levels=figure.levels,
        seed=figure.seed,
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
    words = f"ELBO, {samples} path{'' if samples == 1 else 's'} an image"
    if figure.levels is not None:
        words = f"ELBO, {figure.levels} random levels an image"
    return Measured(found.bits_per_dim, words, found.n, found.elbo.mean, found.seconds)
