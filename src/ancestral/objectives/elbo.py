"""The negative ELBO as a training loss, with the re-weightings of its KL terms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.elbo import Elbo
from ancestral.core.marginal import marginal
from ancestral.objectives.base import Loss, Objective


class NegativeElbo(Objective):
    """The batch mean of −ELBO from ``samples`` paths per example, its KLs re-weighted where options say so.

    The loss may differ from −ELBO; the reported ELBO never does. ``beta`` multiplies every KL (Higgins et al.
    2017, β-VAE). ``free_bits`` is the number of nats per latent level below which lowering that level's
    batch-mean KL gains nothing (Kingma et al. 2016, eq. 15). ``kl_warmup`` is the number of steps over which
    every KL's weight rises from 0 (Sønderby et al. 2016, section 2.3); until then, ``kl_balance`` also weighs
    level t by KL_t over the mean of all levels' KLs, both of the batch and without a gradient (as Vahdat &
    Kautz 2020, appendix A, but for a factor by the levels' sizes).
    """

    def __init__(
        self,
        samples: int = 1,
        *,
        beta: float = 1.0,
        free_bits: float = 0.0,
        kl_warmup: int = 0,
        kl_balance: bool = False,
    ) -> None:
        super().__init__()
        checks.integer("samples", samples, low=1)
        checks.number("beta", beta, low=0.0)
        checks.number("free_bits", free_bits, low=0.0)
        checks.integer("kl_warmup", kl_warmup, low=0)
        if kl_balance and not kl_warmup:
            raise ValueError(
                "kl_balance is on and kl_warmup is 0: balancing ends with the warm-up. Give a kl_warmup, or "
                "leave kl_balance off."
            )
        self.samples = samples
        self.beta = beta
        self.free_bits = free_bits
        self.kl_warmup = kl_warmup
        self.kl_balance = kl_balance
        self.step = torch.tensor(math.inf) if kl_warmup else None

    @property
    def name(self) -> str:
        """As ``Objective``."""
        parts = [f"beta = {self.beta:g}"] if self.beta != 1.0 else []
        parts += [f"free bits = {self.free_bits:g} nats"] if self.free_bits else []
        if self.kl_warmup:
            how = "balanced KL" if self.kl_balance else "KL"
            parts.append(f"{how} warm-up over {self.kl_warmup} steps")
        return "negative ELBO" + (f", re-weighted ({', '.join(parts)})" if parts else "")

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        return self.weighted(chain.elbo_of(batch.x, samples=self.samples, condition=chain.condition(batch)))

    def weighted(self, elbo: Elbo) -> Loss:
        """The batch mean of −ELBO with the weights, and its terms without them."""
        levels = torch.cat([elbo.matching, elbo.prior[:, None]], dim=1).mean(dim=0)
        charged = levels.clamp(min=self.free_bits) if self.free_bits > 0 else levels
        detached = levels.detach()
        if self.step is not None:
            weight = ((self.step + 1.0) / self.kl_warmup).clamp(max=1.0)
            if self.kl_balance:
                charged = charged * torch.where(weight < 1.0, _shares(detached), 1.0)
            charged = charged * weight
        reconstruction = elbo.reconstruction.mean()
        return Loss(
            value=reconstruction + self.beta * charged.sum(),
            terms={
                "reconstruction": reconstruction.detach(),
                "matching": detached[:-1].sum(),
                "prior": detached[-1],
            },
        )


class RandomLevels(NegativeElbo):
    """The negative ELBO of a ``MarginalChain`` from ``samples`` random levels per example, not from a sweep."""

    def check(self, chain: Chain) -> None:
        """As ``Objective``: q(z_t|x) must be closed-form."""
        if not chain.single_levels:
            raise ValueError(
                f"a {type(chain).__name__} has no closed-form q(z_t|x) to train on random levels with. Use the "
                "objective NegativeElbo."
            )

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        condition = chain.condition(batch)
        return self.weighted(
            marginal(chain).elbo_sampled_of(batch.x, levels=self.samples, condition=condition)
        )


def _shares(levels: Tensor) -> Tensor:
    """Each level's KL over their mean, (T,); a level without any keeps a little weight."""
    sizes = levels.abs() + 0.01
    return sizes / sizes.mean()
