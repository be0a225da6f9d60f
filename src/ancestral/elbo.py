"""What a chain's bound and loss consist of: the terms of the ELBO, and the losses made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ancestral import checks


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

        Raises ``ValueError`` where p(x|z_1) is a density: a density has no code length.
        """
        if not self.discrete:
            raise ValueError(
                "bits_per_dim of a density: it exists only for integer data with a likelihood over "
                "their levels. Use `total`, in nats, or a discretized likelihood."
            )
        return -self.total / (self.dims * math.log(2.0))

    def detach(self) -> Elbo:
        """The same numbers without their graph."""
        return replace(
            self,
            reconstruction=self.reconstruction.detach(),
            matching=self.matching.detach(),
            prior=self.prior.detach(),
        )


@dataclass(frozen=True)
class Loss:
    """What one training step minimises, and the parts it is made of."""

    value: Tensor
    """A scalar, the mean over the batch, in the units of nats per example."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars to log, by name."""
    seen: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors of the step for ``Chain.observe``, by name; most chains keep nothing."""


@dataclass(frozen=True)
class Reweighting:
    """How a training loss departs, openly, from −ELBO; the reported ELBO never does.

    ``beta`` multiplies every KL (Higgins et al. 2017, β-VAE). ``free_bits`` is the number of nats per
    level below which that level's batch-mean KL costs nothing less (Kingma et al. 2016, eq. 15).
    ``kl_warmup`` is the number of steps over which every KL's weight rises from 0 (Sønderby et al. 2016,
    section 2.3); until it has risen, ``kl_balance`` also weighs level t by KL_t over the mean of all levels'
    KLs, both of the batch and without a gradient (as Vahdat & Kautz 2020, appendix A, but for a factor by
    the levels' sizes), which spares the levels that have little.
    """

    beta: float = 1.0
    free_bits: float = 0.0
    kl_warmup: int = 0
    kl_balance: bool = False

    def __post_init__(self) -> None:
        checks.number("beta", self.beta, low=0.0)
        checks.number("free_bits", self.free_bits, low=0.0)
        checks.integer("kl_warmup", self.kl_warmup, low=0)
        if self.kl_balance and not self.kl_warmup:
            raise ValueError(
                "kl_balance is on and kl_warmup is 0: balancing ends with the warm-up; give one."
            )

    @property
    def name(self) -> str:
        """What reports call a loss with these weights."""
        parts = [f"beta = {self.beta:g}"] if self.beta != 1.0 else []
        parts += [f"free bits = {self.free_bits:g} nats"] if self.free_bits else []
        if self.kl_warmup:
            how = "balanced KL" if self.kl_balance else "KL"
            parts.append(f"{how} warm-up over {self.kl_warmup} steps")
        return "negative ELBO" + (f", re-weighted ({', '.join(parts)})" if parts else "")

    def kl_weight(self, step: int) -> float:
        """What the warm-up multiplies the KLs by at the step with this number, from 0."""
        return min((step + 1) / self.kl_warmup, 1.0) if self.kl_warmup else 1.0

    def loss(self, elbo: Elbo, *, kl_weight: Tensor | None = None) -> Loss:
        """The batch mean of −ELBO with these weights, and its terms without them.

        ``kl_weight`` is how far the warm-up has come, a scalar; None where there is none.
        """
        levels = torch.cat([elbo.matching, elbo.prior[:, None]], dim=1).mean(dim=0)
        charged = levels.clamp(min=self.free_bits) if self.free_bits > 0 else levels
        detached = levels.detach()
        if kl_weight is not None:
            if self.kl_balance:
                charged = charged * torch.where(kl_weight < 1.0, _shares(detached), 1.0)
            charged = charged * kl_weight
        reconstruction = elbo.reconstruction.mean()
        return Loss(
            value=reconstruction + self.beta * charged.sum(),
            terms={
                "reconstruction": reconstruction.detach(),
                "matching": detached[:-1].sum(),
                "prior": detached[-1],
            },
        )


def _shares(levels: Tensor) -> Tensor:
    """Each level's KL over their mean, (T,); a level without any keeps a little weight."""
    sizes = levels.abs() + 0.01
    return sizes / sizes.mean()
