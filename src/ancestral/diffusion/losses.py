"""The losses a diffusion model is trained with: each from one level per example of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ancestral.diffusion.targets import Prediction, min_snr_weight
from ancestral.distributions import DiagonalNormal, sum_event
from ancestral.elbo import Loss

if TYPE_CHECKING:
    from ancestral.diffusion.ddpm import DDPM


def named_loss(chain: DDPM, x: Tensor) -> Loss:
    """The loss that ``chain.loss`` names, of examples x, (n, *shape)."""
    u = chain.features(x)
    t = chain.training_levels(len(x), x.device)
    k = chain.coefficients(u, t)
    eps = torch.randn_like(u)
    z = k.signal * u + k.noise * eps
    predicted = chain.predict(z, t)
    if chain.loss == "vlb":
        return vlb(chain, x, u, z, t, predicted)
    target = chain.from_data(u, z, k)
    error = sum_event((target - predicted.target).square())
    min_snr = chain.loss == "min-snr"
    simple = (min_snr_weight(chain.prediction, k, chain.gamma) * error if min_snr else error).mean()
    terms = {"min-snr" if min_snr else "simple": simple.detach()}
    if chain.loss != "hybrid":
        return Loss(simple, terms)
    held = Prediction(
        predicted.target.detach(), predicted.data.detach(), predicted.mean.detach(), predicted.sigma
    )
    bound = vlb(chain, x, u, z, t, held)
    return Loss(simple + chain.vlb_weight * bound.value, {**terms, **bound.terms})


def vlb(chain: DDPM, x: Tensor, u: Tensor, z: Tensor, t: Tensor, predicted: Prediction) -> Loss:
    """−ELBO from one level per example: its term over its probability, plus prior matching."""
    first = t == 1
    # At t = 1 the posterior is a point, its KL is not asked for: a level with a finite one stands in.
    q = chain.q_step(z, u, t.clamp(min=min(2, chain.T)))
    matching = kl_divergence(q, DiagonalNormal(predicted.mean, predicted.sigma))
    reconstruction = -chain.data_law(predicted).log_prob(x)
    zero = torch.zeros_like(matching)
    reconstruction = torch.where(first, reconstruction, zero).mean() / chain.first_share
    others = (chain.T - 1) / (1.0 - chain.first_share) if chain.T > 1 else 0.0
    matching = others * torch.where(first, zero, matching).mean()
    prior = kl_divergence(chain.q_top(u), chain.p_top(len(x))).mean()
    return Loss(
        reconstruction + matching + prior,
        {
            "reconstruction": reconstruction.detach(),
            "matching": matching.detach(),
            "prior": prior.detach(),
        },
    )
