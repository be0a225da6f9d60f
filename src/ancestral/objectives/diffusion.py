"""The objectives that a diffusion model is trained with: each from one level per example of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ancestral._internal import checks
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.walk import log_prob_of
from ancestral.models.diffusion import ClosedForms, GaussianDiffusion, LevelDraws, Prediction
from ancestral.models.diffusion.draws import LevelDraw
from ancestral.objectives.base import Loss, Objective

FIRST_SHARE = 0.1
"""The probability of the first level where its term, the reconstruction, is one of its own: one level in T
would hardly ever train it."""


@dataclass(frozen=True)
class Noised:
    """Examples u, (n, …), in the network's units, noised to the levels t, (n,), of a draw."""

    u: Tensor
    z: Tensor
    t: Tensor
    forms: ClosedForms
    """The closed forms at t: they are computed once for all that a step needs of them."""
    draw: LevelDraw
    answer: tuple[Tensor, Tensor | None]
    """The network's, as ``GaussianDiffusion.ask`` returns it."""
    condition: Any
    """What the chain is conditioned on; None without."""


class OneLevel(Objective):
    """−ELBO from one level per example: its term over its probability, plus prior matching. Unbiased.

    ``sampling`` says how the levels of a batch are drawn: "uniform", "even" (spread over the batch) or
    "importance" (even, and more often where the loss was large); see ``diffusion.draws``.
    """

    def __init__(self, chain: Chain, *, sampling: str = "even") -> None:
        super().__init__()
        self.draws = LevelDraws(sampling, _diffusion(chain).cells)

    def first_share(self, chain: GaussianDiffusion) -> float:
        """The probability of the first level."""
        return max(FIRST_SHARE, 1.0 / chain.T)

    @property
    def name(self) -> str:
        """As ``Objective``."""
        return "negative ELBO (exact VLB, one t)"

    def check(self, chain: Chain) -> None:
        """As ``Objective``."""
        cells = _diffusion(chain).cells
        if cells != self.draws.cells:
            raise ValueError(
                f"the objective was made for {self.draws.cells} cells of levels, and the chain has "
                f"{cells}. Make an objective for this chain."
            )

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        chain = _diffusion(chain)
        noised = self.noised(chain, batch)
        terms = chain.level_term(noised.u, noised.z, noised.answer, noised.forms, noised.t)
        last = chain.reconstructed(noised.z, noised.answer, noised.forms)
        return self.negative_elbo(chain, noised, terms, -log_prob_of(last, batch.x))

    def noised(self, chain: GaussianDiffusion, batch: Batch) -> Noised:
        """The examples at drawn levels, and the network's answers."""
        u, condition = chain.features(batch.x), chain.condition(batch)
        draw = self.draws(len(u), first=self.first_share(chain), device=u.device)
        t = chain.drawn_level(draw)
        k = chain.level_forms(u, t)
        z = k.signal * u + k.noise * torch.randn_like(u)
        return Noised(u, z, t, k, draw, chain.ask(z, k.time, condition), condition)

    def negative_elbo(
        self, chain: GaussianDiffusion, noised: Noised, terms: Tensor, reconstruction: Tensor
    ) -> Loss:
        """−ELBO from the matching ``terms`` and the ``reconstruction``, (n,) each, of one level per example."""
        draw, share = noised.draw, self.first_share(chain)
        # Where the level is not the first this is a term that does not exist, and it is left out.
        first = torch.where(draw.first, reconstruction, 0.0).mean() / share
        scale = chain.matching_scale / (1.0 - share) if share < 1.0 else 0.0
        matching = scale * draw.weighed(terms).mean()
        prior = chain.prior_term(noised.u, len(noised.u), noised.condition).mean()
        value = first + matching + prior
        learned = chain.noising.variance_loss(_places(chain, noised), draw.weighed(terms.square()))
        if learned is not None:
            value = value + learned
        return Loss(
            value,
            {"reconstruction": first.detach(), "matching": matching.detach(), "prior": prior.detach()},
            self.draws.seen(draw, terms),
        )

    def observe(self, seen: dict[str, Tensor]) -> None:
        """Remember the losses that importance sampling goes by."""
        if seen:
            self.draws.observe(seen)


class Simple(OneLevel):
    """E‖target − prediction‖² over all levels alike (Ho et al. 2020, eq. 14, for the noise).

    With ``min_snr`` the error is weighed by min(SNR, min_snr), in units of data error (Hang et al. 2023).
    """

    def __init__(self, chain: Chain, *, sampling: str = "even", min_snr: float | None = None) -> None:
        super().__init__(chain, sampling=sampling)
        if min_snr is not None:
            checks.number("gamma", min_snr, above=0.0)
        self.min_snr = min_snr
        self.target = _diffusion(chain).parametrization.name
        self.check(chain)

    def first_share(self, chain: GaussianDiffusion) -> float:
        """1 / T: the first level is one of T."""
        return 1.0 / chain.T

    @property
    def name(self) -> str:
        """As ``Objective``."""
        kind = "simple" if self.min_snr is None else f"min-SNR-{self.min_snr:g}"
        return f"{kind} (squared error of {self.target})"

    def check(self, chain: Chain) -> None:
        """As ``Objective``: what is learned beside the mean must have a gradient."""
        super().check(chain)
        diffusion = _check_levels(chain, self.name)
        if diffusion.variance.learned:
            raise ValueError(
                f"variance is 'learned' and the loss is {self.name}, which gives it no gradient. Use loss "
                "'hybrid' or 'vlb', or variance 'beta' or 'posterior'."
            )

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        chain = _diffusion(chain)
        noised = self.noised(chain, batch)
        value, terms, error = self.squared_error(chain, noised)
        return Loss(value, terms, self.draws.seen(noised.draw, error))

    def squared_error(
        self, chain: GaussianDiffusion, noised: Noised
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss, what is logged of it, and the errors, (n,)."""
        k, draw = noised.forms, noised.draw
        target = chain.parametrization.from_data(noised.u, noised.z, k)
        error = torch.einsum("n...->n", (target - noised.answer[0]).square())
        if self.min_snr is not None:
            snr = (k.signal / k.noise).square()
            error = (snr.clamp(max=self.min_snr) / chain.parametrization.per_data_error(k)).flatten() * error
        # The first level, which draws take apart, counts as any other here.
        value = (draw.weighed(error) + torch.where(draw.first, error, 0.0)).mean()
        return value, {"simple" if self.min_snr is None else "min-snr": value.detach()}, error


class Hybrid(Simple):
    """``Simple`` + ``vlb_weight`` · VLB with the mean held fixed in the latter (Nichol & Dhariwal 2021, eq. 16).

    It trains a learned reverse variance beside the simple loss.
    """

    def __init__(self, chain: Chain, *, sampling: str = "even", vlb_weight: float = 0.001) -> None:
        checks.number("vlb_weight", vlb_weight, above=0.0)
        self.vlb_weight = vlb_weight
        super().__init__(chain, sampling=sampling)

    @property
    def name(self) -> str:
        """As ``Objective``."""
        return f"{super().name} + {self.vlb_weight:g} VLB"

    def check(self, chain: Chain) -> None:
        """As ``Objective``: the variance must be learned."""
        OneLevel.check(self, chain)
        variance = _check_levels(chain, self.name).variance
        if not variance.learned:
            raise ValueError(
                f"the loss is {self.name} and the variance is {variance.name!r}: its "
                "second part only trains a learned variance. Use variance 'learned', or loss 'simple'."
            )

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        chain = _diffusion(chain)
        noised = self.noised(chain, batch)
        simple, terms, error = self.squared_error(chain, noised)
        held: Prediction = chain.understood(noised.z, noised.answer, noised.forms).detached_mean()
        divergence = kl_divergence(chain.q_given(noised.u, noised.z, noised.forms), held.step)
        bound = self.negative_elbo(chain, noised, divergence, -log_prob_of(chain.last(held), batch.x))
        return Loss(
            simple + self.vlb_weight * bound.value,
            {**terms, **bound.terms},
            self.draws.seen(noised.draw, error),
        )


def _places(chain: GaussianDiffusion, noised: Noised) -> Tensor:
    """Where in [0, 1] the drawn levels lie, (n,): t itself in continuous time, else the middle of its cell."""
    return noised.t if chain.continuous else (noised.draw.cell + 0.5) / chain.cells


def _diffusion(chain: Chain) -> GaussianDiffusion:
    """The chain itself. ``ValueError`` for one that is not a diffusion model."""
    if not isinstance(chain, GaussianDiffusion):
        raise ValueError(
            f"the objective is for a diffusion model and the chain is a {type(chain).__name__}. Use NegativeElbo."
        )
    return chain


def _check_levels(chain: Chain, name: str) -> GaussianDiffusion:
    """Reject continuous time and a learned schedule for losses that are no bound."""
    diffusion = _diffusion(chain)
    if diffusion.continuous:
        raise ValueError(
            f"T is continuous and the loss is {name}; in continuous time there is the bound only. Use loss vlb, "
            "or an integer for T."
        )
    if diffusion.noising.learned:
        raise ValueError(
            f"the schedule is learned and the loss is {name}, which is no bound: a change of the noise alone "
            "would lower it. Use loss 'vlb', or a fixed schedule."
        )
    return diffusion
