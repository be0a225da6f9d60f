"""The losses a diffusion model is trained with: each from one level per example of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ancestral import checks
from ancestral.diffusion.draws import Draw
from ancestral.diffusion.learned import LearnedSchedule
from ancestral.diffusion.targets import Prediction, min_snr_weight
from ancestral.distributions import DiagonalNormal, sum_event
from ancestral.elbo import Loss

if TYPE_CHECKING:
    from ancestral.diffusion.ddpm import DDPM


LOSSES = ("simple", "vlb", "min-snr", "hybrid")


def check_loss(loss: str, *, variance: str, learned: bool) -> None:
    """Refuse a loss that does not train what is learned: the reverse variance, or the schedule."""
    checks.one_of("loss", loss, LOSSES)
    if variance == "learned" and loss in ("simple", "min-snr"):
        raise ValueError(
            f"variance is 'learned' and loss is {loss!r}, which gives it no gradient. Use loss "
            "'hybrid' or 'vlb', or variance 'beta' or 'posterior'."
        )
    if learned and loss != "vlb":
        raise ValueError(
            f"the schedule is learned and loss is {loss!r}, which is no bound: it would be lowered by a "
            "change of the noise alone. Use loss 'vlb', or a fixed schedule."
        )
    if loss == "hybrid" and variance != "learned":
        raise ValueError(
            f"loss is 'hybrid' and variance is {variance!r}: its second part only trains a learned "
            "variance. Use variance 'learned', or loss 'simple'."
        )


def describe(chain: DDPM) -> str:
    """What a chain's training loss is called in reports."""
    names = {
        "simple": f"simple (squared error of {chain.prediction})",
        "vlb": "negative ELBO (exact VLB, one t)",
        "min-snr": f"min-SNR-{chain.gamma:g} (squared error of {chain.prediction})",
        "hybrid": f"simple (squared error of {chain.prediction}) + {chain.vlb_weight:g} VLB",
    }
    return names[chain.loss]


def named_loss(chain: DDPM, x: Tensor) -> Loss:
    """The loss that ``chain.loss`` names, of examples x, (n, *shape)."""
    u = chain.features(x)
    draw = chain.draws(len(x), first=chain.first_share, device=x.device)
    t = torch.where(draw.first, 1, draw.cell + 2)
    k = chain.coefficients(u, t)
    eps = torch.randn_like(u)
    z = k.signal * u + k.noise * eps
    predicted = chain.predict(z, t)
    if chain.loss == "vlb":
        return vlb(chain, x, u, Noised(z, t, draw), predicted)
    target = chain.from_data(u, z, k)
    error = sum_event((target - predicted.target).square())
    if chain.loss == "min-snr":
        error = min_snr_weight(chain.prediction, k, chain.gamma) * error
    # The first level, which draws take apart, counts as any other here.
    simple = (draw.weighed(error) + torch.where(draw.first, error, 0.0)).mean()
    terms = {"min-snr" if chain.loss == "min-snr" else "simple": simple.detach()}
    seen = chain.draws.seen(draw, error)
    if chain.loss != "hybrid":
        return Loss(simple, terms, seen)
    held = Prediction(
        predicted.target.detach(), predicted.data.detach(), predicted.mean.detach(), predicted.sigma
    )
    bound = vlb(chain, x, u, Noised(z, t, draw), held)
    return Loss(simple + chain.vlb_weight * bound.value, {**terms, **bound.terms}, seen)


@dataclass(frozen=True)
class Noised:
    """Noised examples z_t, (n, …), their levels t, (n,), and how these were drawn."""

    z: Tensor
    t: Tensor
    draw: Draw


def vlb(chain: DDPM, x: Tensor, u: Tensor, noised: Noised, predicted: Prediction) -> Loss:
    """−ELBO from one level per example: its term over its probability, plus prior matching."""
    draw = noised.draw
    # At t = 1 the posterior is a point, its KL is not asked for: a level with a finite one stands in.
    q = chain.q_step(noised.z, u, noised.t.clamp(min=min(2, chain.T)))
    costs = kl_divergence(q, DiagonalNormal(predicted.mean, predicted.sigma))
    reconstruction = -chain.data_law(predicted).log_prob(x)
    reconstruction = torch.where(draw.first, reconstruction, 0.0).mean() / chain.first_share
    others = (chain.T - 1) / (1.0 - chain.first_share) if chain.T > 1 else 0.0
    matching = others * draw.weighed(costs).mean()
    prior = kl_divergence(chain.q_top(u), chain.p_top(len(x))).mean()
    value = reconstruction + matching + prior
    if isinstance(chain.noising, LearnedSchedule):
        middles = (draw.cell + 0.5) / chain.draws.cells
        value = value + chain.noising.variance_loss(middles, draw.weighed(costs.square()))
    return Loss(
        value,
        {
            "reconstruction": reconstruction.detach(),
            "matching": matching.detach(),
            "prior": prior.detach(),
        },
        chain.draws.seen(draw, costs),
    )
