"""The losses a diffusion model is trained with: each from one level per example of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ancestral.diffusion.draws import Draw
from ancestral.diffusion.targets import Prediction, min_snr_weight
from ancestral.distributions import DiagonalNormal, sum_event
from ancestral.elbo import Loss

if TYPE_CHECKING:
    from ancestral.diffusion.ddpm import DDPM


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
    return Loss(
        reconstruction + matching + prior,
        {
            "reconstruction": reconstruction.detach(),
            "matching": matching.detach(),
            "prior": prior.detach(),
        },
        chain.draws.seen(draw, costs),
    )
