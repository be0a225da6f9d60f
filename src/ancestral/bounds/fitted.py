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

ROUNDS = 12
_FASTER = 4.0
"""By how much the rate rises from round to round for examples that are far from their end."""
_FAR = 0.25
"""The share of the way that Adam can go at most from which on a fit may have been stopped by its length."""
_RISING = 1.0
"""Nats by which the ELBO may rise in the second half of a round that is said to have converged."""
_GAIN = 0.05
"""Nats that a round may gain, beyond its error, where the one before had converged."""


@dataclass(frozen=True)
class Fitting:
    """How q is fitted to each example. ``ValueError`` for numbers that are not allowed."""

    steps: int = 500
    """Steps of Adam, with a rate that falls linearly to 0. Examples whose fit has not converged get
    further rounds of them, up to ``rounds`` in all."""
    learning_rate: float = 0.02
    """The rate at the first step."""
    samples: int = 10
    """Paths per example and step."""
    test_samples: int = 100
    """Paths per example for the ELBO afterwards, which are drawn afresh."""
    rounds: int = ROUNDS
    """The most rounds. With fewer the fit takes less time, and reports more examples as not converged."""

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.number("learning_rate", self.learning_rate, above=0.0)
        checks.integer("samples", self.samples, low=1)
        checks.integer("test_samples", self.test_samples, low=1)
        checks.integer("rounds", self.rounds, low=1)


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
    return _fitted(chain, x, fitting, rows=rows, done=done)[0]


def _fitted(
    chain: Chain, x: Tensor, fitting: Fitting, *, rows: int | None = None, done: Done
) -> tuple[Tensor, Tensor]:
    """The ELBO of each example, and whether its fit has not converged, (n,) both."""
    check_can_fit(chain, x)
    rows, found, moving = rows_at_once(chain, x, rows), [], []
    with frozen(chain):
        for some in slices(len(x), rows // fitting.samples):
            h, still = fitted_features(chain, x[some], fitting, done=within_slice(done, some, len(x)))
            moving.append(still)
            with torch.no_grad():
                totals = [
                    sum(walk.elbo_terms(chain, x[some], h=h, samples=part.stop - part.start).values())
                    for part in slices(fitting.test_samples, rows // (some.stop - some.start))
                ]
            found.append(-torch.cat(totals, dim=1).double().mean(dim=1))  # type: ignore[arg-type]
    return torch.cat(found), torch.cat(moving)


@dataclass(frozen=True, eq=False)
class FittedBounded(Bounded):
    """The ELBO with q fitted, and of which examples the fit has not converged."""

    unconverged: Tensor
    """(n,), bool. The bound holds for those as well; a longer fit gives a higher one."""


@dataclass(frozen=True)
class FittedBound(Bound):
    """The ELBO with q fitted to each example."""

    fitting: Fitting = field(default_factory=Fitting)
    name = "fitted"
    in_blocks = True

    def check(self, chain: Chain) -> None:
        """As ``Bound``. Whether there is something to fit depends on the data too (``check_can_fit``)."""
        self.unconditional(chain)

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> FittedBounded:
        """As ``Bound``."""
        elbo, unconverged = _fitted(chain, batch.x, self.fitting, done=done)
        return FittedBounded(elbo, None, None, unconverged)

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
    """Raise ``ValueError`` for a chain whose q is fixed, or reads nothing but the data themselves."""
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
) -> tuple[Features, Tensor]:
    """The features that give each example of x its largest ELBO, and whether the search has not converged, (n,).

    A round of steps goes only so far. Examples whose features went far get rounds of rising rate until they do
    not, and then, as those whose ELBO still rose, rounds of the first rate until one gains nothing.
    """
    with torch.no_grad():
        h = map_features(chain.features(x), lambda part: part.detach().clone())
    rate = fitting.learning_rate
    found = _round(chain, x, h, fitting, rate=rate, done=done)
    h, last, error, far = found.h, found.last, found.error, found.far
    moving = far | found.rising
    for _ in range(1, fitting.rounds):
        distant = bool(far.any())
        index = (far if distant else moving).nonzero().squeeze(1)
        if len(index) == 0:
            break
        rate = _FASTER * rate if distant else fitting.learning_rate
        start = map_features(h, lambda part: part[index])  # noqa: B023
        found = _round(chain, x[index], start, fitting, rate=rate, done=lambda share: None)
        gain, noise = found.last - last[index], 3.0 * (found.error**2 + error[index] ** 2).sqrt()
        far[index] = found.far
        moving[index] = found.far | distant | (gain > _GAIN + noise)
        better = index[gain > 0]
        for part, new in zip(feature_tensors(h), feature_tensors(found.h), strict=True):
            part[better] = new[gain > 0]
        last[better], error[better] = found.last[gain > 0], found.error[gain > 0]
    return h, moving


@dataclass(frozen=True)
class _Round:
    """What one round of steps leaves, for n examples."""

    h: Features
    last: Tensor
    """(n,): the mean ELBO of the last fifth of its steps."""
    error: Tensor
    """(n,): the standard error of that."""
    far: Tensor
    """(n,), bool: whether features went so far that the number of steps may have stopped them."""
    rising: Tensor
    """(n,), bool: whether the ELBO rose in the second half."""


def _round(chain: Chain, x: Tensor, start: Features, fitting: Fitting, *, rate: float, done: Done) -> _Round:
    """Steps of Adam from ``start``, all examples at once, with a rate that falls from ``rate`` to 0."""
    h = map_features(start, lambda part: part.detach().clone().requires_grad_(True))
    leaves = feature_tensors(h)
    # Adam treats every number by itself, so fitting many examples together is fitting each alone.
    optimiser = torch.optim.Adam(leaves, lr=rate)
    totals = []
    with torch.enable_grad():
        for step in range(fitting.steps):
            optimiser.param_groups[0]["lr"] = rate * (1.0 - step / fitting.steps)
            elbo = chain.elbo_of(x, samples=fitting.samples, h=h).total
            gradients = torch.autograd.grad(-elbo.sum(), leaves, allow_unused=True)
            for one, gradient in zip(leaves, gradients, strict=True):
                one.grad = gradient
            optimiser.step()
            totals.append(elbo.detach().double())
            done((step + 1) / fitting.steps)
    seen, fifth = torch.stack(totals), max(1, fitting.steps // 5)
    last, middle = seen[-fifth:], seen[2 * fifth : 3 * fifth]
    furthest = torch.stack(
        [
            (a - b).detach().flatten(1).abs().amax(dim=1)
            for a, b in zip(leaves, feature_tensors(start), strict=True)
        ]
    ).amax(dim=0)
    far = furthest > _FAR * 0.5 * rate * fitting.steps
    rising = last.mean(dim=0) - middle.mean(dim=0) > _RISING if len(middle) else torch.ones_like(far)
    error = last.std(dim=0) / fifth**0.5 if fifth > 1 else torch.zeros_like(last[0])
    return _Round(map_features(h, Tensor.detach), last.mean(dim=0), error, far, rising)
