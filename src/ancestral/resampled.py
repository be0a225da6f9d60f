"""Importance-weighted objectives whose backward pass is of a few of the k draws, chosen by their weights.

The gradient of IWAE-k is a mean over draws by their normalised weights (Burda et al. 2016, eq. 14),

    ∇ IWAE-k = E[ Σ_k w̃_k ∇ log w_k ],

so draws j chosen with probability w̃_j have ∇ log w_j as unbiased estimates of it (section 3 there). All k are
drawn and weighed, and nothing of that is differentiated; then m of them are drawn again with the same noise
and scored, so that what is left of a step's cost is about its forward pass. The m are chosen by systematic
resampling, whose counts differ from m w̃_k by less than 1: hardly any noise is added where few draws carry
the weight. A law without ``redrawn`` (a flow) is differentiated through the path of all k.

With the doubly reparameterised gradient (``objectives``) a chosen draw's slopes in z are multiplied by w̃_j
once: the other factor is the probability that it was chosen with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ancestral.elbo import Loss
from ancestral.features import repeat_features
from ancestral.objectives import Paths, latents, log_q_in_z, log_q_of, reported_terms


def resampled_loss(chain: Paths, x: Tensor, *, samples: int, kept: int, doubly: bool) -> Loss:
    """As ``iwae_loss`` (or, ``doubly``, ``dreg_loss``) of ``samples`` = k paths for each of x, (n, *shape).

    The value is the bound of all k; the gradient, of ``kept`` = m of them, has the same mean.
    """
    h = chain.features(x)
    drawn = latents(chain.path(x, repeat_features(h, samples)), chain.T)
    z = [link.value for link in drawn]
    with torch.no_grad():
        log_q = [log_q_of(link) for link in drawn]
        log_prior, log_likelihood = chain.log_joint(x, z)
        latent = torch.stack(log_q).sum(dim=0) - log_prior
        log_weight = (log_likelihood - latent).unflatten(0, (len(x), samples))
        bound = (log_weight.logsumexp(dim=1) - math.log(samples)).mean()
        top = log_q[-1] - chain.p_top(len(z[-1])).log_prob(z[-1])
        terms = reported_terms(log_weight, -log_likelihood, prior=top, latent=latent)
        share = log_weight.softmax(dim=1)
        rows = chosen(share, kept)
    # Each example was chosen from ``kept`` times, one after another.
    h, z = repeat_features(h, kept), [v[rows] for v in z]
    # Where q can draw them again, their own path leads back to its parameters, and not that of all k.
    redraw = all(hasattr(link.q, "redrawn") for link in drawn)
    del drawn
    if redraw:
        z = [v.detach() for v in z]
    if redraw or not doubly:
        links = latents(chain.path(x, h, z=z, redraw=redraw), chain.T)
        z = [link.value for link in links]
    if doubly:
        # Slopes in z are multiplied by the weights, and q is a function of z alone.
        weight = share.flatten()[rows]
        z = [_slowed(v, weight) for v in z]
        log_q_chosen, _ = log_q_in_z(chain, x, h=h, z=z)
    else:
        log_q_chosen = torch.stack([log_q_of(link) for link in links]).sum(dim=0)
    log_prior, log_likelihood = chain.log_joint(x, z)
    score = (log_prior + log_likelihood - log_q_chosen).mean()
    # The bound's value with the gradient of what was chosen.
    value = -bound - (score - score.detach())
    return Loss(value, terms)


def chosen(share: Tensor, kept: int) -> Tensor:
    """Which of n · k rows are taken, (n · kept,): ``kept`` for each example, by its weights, (n, k).

    Systematic resampling: places one ``kept``-th apart from one random start in each example's distribution
    function, so that a draw of weight w̃ is taken ⌊kept w̃⌋ or ⌈kept w̃⌉ times, and kept w̃ times on average.
    """
    n, k = share.shape
    places = (torch.arange(kept, device=share.device) + torch.rand(n, 1, device=share.device)) / kept
    index = torch.searchsorted(share.cumsum(dim=1), places.to(share.dtype)).clamp(max=k - 1)
    return (index + k * torch.arange(n, device=share.device)[:, None]).flatten()


def _slowed(z: Tensor, weight: Tensor) -> Tensor:
    """z with its gradient multiplied by the weight of its row."""
    return z.detach() + weight.reshape(-1, *[1] * (z.ndim - 1)) * (z - z.detach())
