"""The ELBO, split into its terms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

ERRORS = 4.0
"""Standard errors by which a mean code length may be below 0: beyond, it is no accident of the draws."""
_OF_ONE = 10.0
"""Nats in their place where the error is unknown, as for a single example."""
_ROUNDING = 1e-5
"""Nats per dimension that rounding may add to a log-probability of 0."""


def check_code_length(nats: float, stderr: float, *, dims: int) -> None:
    """Raise ``ValueError`` for a mean log-probability of integers that is above 0 beyond its standard error."""
    allowed = _OF_ONE if math.isnan(stderr) else ERRORS * stderr
    if nats > allowed + _ROUNDING * dims:
        per_bit = dims * math.log(2.0)
        error = "" if math.isnan(stderr) else f" ± {stderr / per_bit:.4f}"
        raise ValueError(
            f"the mean code length is {-nats / per_bit:.4f}{error} bits/dim, and it cannot be below 0, as "
            "probabilities are at most 1: p(x|z_1) does not sum to 1 over the grey levels, or the bound is "
            "too high. Check the log_prob of the chain's distributions."
        )


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound of n examples, split into its terms: costs, in nats, per example.

    The terms are single-path estimates or averages of several; each is unbiased, so any sum or mean of
    them is. A matching entry of a level that a sampled estimate did not visit is 0, and those visited
    are weighted up to make the column's mean right.
    """

    reconstruction: Tensor
    """−log p(x|z_1), shape (n,)."""
    matching: Tensor
    """KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ) for t = 2 … T, shape (n, T − 1)."""
    prior: Tensor
    """KL( q(z_T|x) ‖ p(z_T) ), shape (n,)."""
    dims: int
    """D, the number of entries of one example."""
    discrete: bool
    """Whether p(x|z_1) is a law over the integers that the data really are."""

    @property
    def total(self) -> Tensor:
        """The bound itself in nats, shape (n,): a lower bound on log p(x), larger is better."""
        return -(self.reconstruction + self.matching.sum(dim=1) + self.prior)

    @property
    def bits_per_dim(self) -> Tensor:
        """−total / (D ln 2), shape (n,), a code length; smaller is better.

        Raises ``ValueError`` where p(x|z_1) is a density, which has no code length, and for a mean below 0 by more
        than ``ERRORS`` standard errors.
        """
        if not self.discrete:
            raise ValueError(
                "bits_per_dim of a density: it exists only for integer data with a likelihood over "
                "their levels. Use `total`, in nats, or a discretized likelihood."
            )
        total = self.total.detach().double()
        stderr = float(total.std()) / math.sqrt(len(total)) if len(total) > 1 else math.nan
        check_code_length(float(total.mean()), stderr, dims=self.dims)
        return -self.total / (self.dims * math.log(2.0))

    def detach(self) -> Elbo:
        """The same numbers without their graph."""
        return replace(
            self,
            reconstruction=self.reconstruction.detach(),
            matching=self.matching.detach(),
            prior=self.prior.detach(),
        )
