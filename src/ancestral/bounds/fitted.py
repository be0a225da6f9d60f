"""The ELBO after q has been fitted to each example by itself: what an encoder loses by amortisation.

``features(x)`` is all that q reads of x, so q's laws for one example are the family { q(z|h) }. With all
weights as they are, h is fitted to each example (Cremer et al. 2018):

    ELBO( h = features(x) )  ≤  max_h ELBO(h)  ≤  log p(x)
                    amortisation gap      approximation gap

In a VAE h is mu and log sigma, so that the family is all diagonal Gaussians; in a hierarchical VAE it is what
the encoder hands to q(z_1|x), or to every level of a ladder, whose other networks stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds.base import Bound, Bounded
from ancestral.bounds.hmc import frozen
from ancestral.bounds.pieces import Done, rows_at_once, slices, within_slice
from ancestral.core import entrance, walk
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.features import Features, feature_tensors, map_features


@dataclass(frozen=True)
class Fitting:
    """How q is fitted to each example. ``ValueError`` for numbers that are not allowed."""

    steps: int = 500
    """Steps of Adam, with a rate that falls linearly to 0."""
    learning_rate: float = 0.02
    """The rate at the first step."""
    samples: int = 10
    """Paths per example and step."""
    test_samples: int = 100
    """Paths per example for the ELBO afterwards, which are drawn afresh."""

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.number("learning_rate", self.learning_rate, above=0.0)
        checks.integer("samples", self.samples, low=1)
        checks.integer("test_samples", self.test_samples, low=1)


def fitted_elbo(
    chain: Chain,
    x: Tensor,
    *,
    fitting: Fitting = Fitting(),
    rows: int | None = None,
    done: Done = lambda share: None,
) -> Tensor:
    """The ELBO of each example of x, (n, *shape), with q fitted to it: (n,), nats, float64.

    Estimated with fresh draws, so it is a lower bound on log p(x) in expectation however well the fit went.
    At most ``rows`` latent paths (but ``fitting.samples`` of one example) are in memory at once.
    ``ValueError`` where q has nothing to fit (``check_can_fit``).
    """
    x = entrance.entered(chain, x)
    check_can_fit(chain, x)
    rows, found = rows_at_once(chain, x, rows), []
    with frozen(chain):
        for some in slices(len(x), rows // fitting.samples):
            h = fitted_features(chain, x[some], fitting, done=within_slice(done, some, len(x)))
            with torch.no_grad():
                totals = [
                    sum(walk.elbo_terms(chain, x[some], h=h, samples=part.stop - part.start).values())
                    for part in slices(fitting.test_samples, rows // (some.stop - some.start))
                ]
            found.append(-torch.cat(totals, dim=1).double().mean(dim=1))  # type: ignore[arg-type]
    return torch.cat(found)


@dataclass(frozen=True)
class FittedBound(Bound):
    """The ELBO with q fitted to each example."""

    fitting: Fitting = field(default_factory=Fitting)
    name = "fitted"

    def check(self, chain: Chain) -> None:
        """As ``Bound``. Whether there is something to fit depends on the data too (``check_can_fit``)."""
        self.unconditional(chain)

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> Bounded:
        """As ``Bound``."""
        return Bounded(fitted_elbo(chain, batch.x, fitting=self.fitting, done=done), None, None)

    def calls(self, chain: Chain) -> int:
        """As ``Bound``: those of the fit and of the ELBO afterwards."""
        return chain.T * (self.fitting.steps * self.fitting.samples + self.fitting.test_samples)

    def json(self) -> dict[str, Any]:
        """As ``Bound``."""
        return {"name": self.name, "fitting_steps": self.fitting.steps}

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return "ELBO, q fitted to each example"


@torch.no_grad()
def check_can_fit(chain: Chain, x: Tensor) -> None:
    """Refuse a chain whose q is fixed, or reads nothing but the data themselves."""
    if chain.single_levels:
        raise ValueError(
            f"q of a {type(chain).__name__} is fixed: nothing of it was learned, so there is nothing to fit "
            "to an example. Leave the fit out, or take a chain with an encoder."
        )
    if type(chain).features is Chain.features or not all(
        part.is_floating_point() for part in feature_tensors(chain.features(x[:1]))
    ):
        raise ValueError(
            f"q of this {type(chain).__name__} reads the data as they are, so there is nothing between them "
            "and its laws to fit to an example. Compute in features(x) what q reads of x (an encoder's "
            "output), in real numbers."
        )


def fitted_features(
    chain: Chain, x: Tensor, fitting: Fitting, *, done: Done = lambda share: None
) -> Features:
    """The features that give each example of x its largest ELBO, all examples at once."""
    with torch.no_grad():
        start = chain.features(x)
    h = map_features(start, lambda part: part.detach().clone().requires_grad_(True))
    leaves = feature_tensors(h)
    # Adam treats every number by itself, so fitting many examples together is fitting each alone.
    optimiser = torch.optim.Adam(leaves, lr=fitting.learning_rate)
    with torch.enable_grad():
        for step in range(fitting.steps):
            optimiser.param_groups[0]["lr"] = fitting.learning_rate * (1.0 - step / fitting.steps)
            cost = -chain.elbo_of(x, samples=fitting.samples, h=h).total.sum()
            gradients = torch.autograd.grad(cost, leaves, allow_unused=True)
            for one, gradient in zip(leaves, gradients, strict=True):
                one.grad = gradient
            optimiser.step()
            done((step + 1) / fitting.steps)
    return map_features(h, Tensor.detach)
