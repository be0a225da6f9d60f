"""Training objectives with importance weights: k draws per example, weighted by what they turn out to be.

    w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x),   w̃_k = w_k / Σ_j w_j

    IWAE-k = E[ log (1/k) Σ_k w_k ]          ELBO = IWAE-1 ≤ IWAE-k ≤ IWAE-(k+1) ≤ log p(x)

(Burda et al. 2016). ``iwae_loss`` is this bound and its own gradient. As k grows, the part of that gradient
that reaches q drowns in noise. ``dreg_loss`` is the same bound with the doubly reparameterised gradient
(Tucker et al. 2019, eq. 8), which has the same mean and not that defect: with ψ all parameters,

    ∇ IWAE-k = E[ Σ_k w̃_k ∂ log p(x, z_k)/∂ψ  +  Σ_k w̃_k² (∂ log w_k/∂z_k) (∂z_k/∂ψ) ],

the first term at fixed z_k, and ∂ log w_k/∂z_k at fixed parameters. z_k is here all of a path z_1 … z_T, and
∂z_k/∂ψ its whole derivative, through every level drawn after another: that makes it hold for hierarchies, and
where q and p share parameters (the indirect scores of Bauer & Mnih 2021 do not arise). At the exact
posterior w does not depend on z, and so q's gradient is 0 in every draw.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral import checks
from ancestral.elbo import Loss, Reweighting
from ancestral.features import Features, repeat_features

OBJECTIVES = ("elbo", "iwae", "dreg")
"""The ELBO, the importance-weighted bound, and that bound with the doubly reparameterised gradient."""


class Level(Protocol):
    """What is needed of a link of a path: a value and q's law of it."""

    @property
    def t(self) -> int:
        """The level; 0 is the data."""

    @property
    def value(self) -> Tensor:
        """z_t, (n, …)."""

    @property
    def q(self) -> Distribution | None:
        """The law that z_t was drawn from; None at t = 0."""

    def log_ratio(self) -> Tensor:
        """log p − log q of the value, (n,)."""


class Paths(Protocol):
    """What is needed of a chain: ``ancestral.chain.Chain`` has it."""

    T: int

    def features(self, x: Tensor) -> Features:
        """What q reads of x."""

    def path(
        self, x: Tensor, h: Any = None, *, z: Sequence[Tensor] | None = None, redraw: bool = False
    ) -> Iterator[Level]:
        """The links of a path drawn from q, or of the path z, or of z drawn again with its own noise."""

    def p_top(self, n: int) -> Distribution:
        """p(z_T)."""

    def log_joint(self, x: Tensor, z: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """log p(z_{1:T}) and log p(x|z_1)."""

    def modules(self) -> Iterator[nn.Module]:
        """All of its networks."""


_LogQ = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Objective:
    """What a chain is trained on, and of how many draws. Evaluation does not depend on it."""

    bound: str = "elbo"
    """One of ``OBJECTIVES``."""
    samples: int = 1
    """k: paths (of a ``MarginalChain``, levels) for each example in each step."""
    backward_samples: int | None = None
    """iwae, dreg: the gradient goes through so many of the k, chosen by their weights (``resampled``)."""
    samples_warmup: int = 0
    """Steps at the start with ``first_samples`` paths in place of k: what is learnt first is learnt sooner.
    Burda et al. 2016 (table 2) go on with k = 50 from k = 1, and end 0.1 nats from k = 50 alone."""
    first_samples: int = 1
    """Paths for each example in those steps; where they are no more than ``backward_samples``, the gradient
    goes through all of them."""

    def __post_init__(self) -> None:
        checks.one_of("bound", self.bound, OBJECTIVES)
        checks.integer("samples", self.samples, low=1)
        checks.draws(
            "samples",
            self.samples,
            warmup=self.samples_warmup,
            first=self.first_samples,
            backward=self.backward_samples,
            unweighted="with bound 'elbo'" if self.bound == "elbo" else None,
        )

    def check(self, reweighting: Reweighting) -> None:
        """Refuse importance weights whose terms are re-weighted besides."""
        if self.bound != "elbo" and reweighting != Reweighting():
            raise ValueError(
                f"the objective is {self.bound!r} with beta = {reweighting.beta:g} and free_bits = "
                f"{reweighting.free_bits:g}: an importance-weighted bound has no KL to weight. Leave beta at "
                "1 and free_bits at 0, or use 'elbo'."
            )

    def at(self, step: int) -> Objective:
        """What one step, from 0, is trained on: fewer draws in the warm-up, then the objective itself."""
        if step >= self.samples_warmup:
            return self
        few = self.backward_samples
        through = few if few is not None and few < self.first_samples else None
        return Objective(self.bound, self.first_samples, through)

    @property
    def name(self) -> str:
        """What reports call the importance-weighted objectives."""
        gradient = ", DReG gradient" if self.bound == "dreg" else ""
        few = "" if self.backward_samples is None else f" of {self.backward_samples} draws by weight"
        first = ""
        if self.samples_warmup:
            draws = "one draw" if self.first_samples == 1 else f"{self.first_samples} draws"
            first = f", the first {self.samples_warmup} steps of {draws}"
        return f"negative IWAE-{self.samples} bound{gradient}{few}{first}"


def iwae_loss(chain: Paths, x: Tensor, *, samples: int) -> Loss:
    """The batch mean of −log mean_k w_k with ``samples`` = k paths for each of x, (n, *shape); nats.

    Burda et al. 2016, eq. 8 and 13: an unbiased estimate of the negative IWAE-k bound, the same that
    ``evaluation.log_likelihood`` makes. k = 1 is the ELBO with a log-ratio in the place of each KL.
    """
    h = repeat_features(chain.features(x), samples)
    costs = {link.t: -link.log_ratio() for link in chain.path(x, h)}
    log_weight = -torch.stack(list(costs.values())).sum(dim=0).unflatten(0, (len(x), samples))
    bound = log_weight.logsumexp(dim=1) - math.log(samples)
    latent = torch.stack([cost for t, cost in costs.items() if t > 0]).sum(dim=0)
    return Loss(-bound.mean(), reported_terms(log_weight, costs[0], prior=costs[chain.T], latent=latent))


def dreg_loss(chain: Paths, x: Tensor, *, samples: int) -> Loss:
    """As ``iwae_loss``, in value and in the mean of its gradient, with the doubly reparameterised gradient.

    The paths are drawn once, then scored at fixed latents: by p with its parameters live, and by q as a
    function of z alone. So q's laws are asked twice, and must be the same both times: no dropout in what they
    read of other latents. ``features`` are computed once and may have it, and so may p.
    """
    h = repeat_features(chain.features(x), samples)
    *z, message = _WeightedAgain.apply(*(link.value for link in latents(chain.path(x, h), chain.T)))
    log_q, log_q_top = log_q_in_z(chain, x, h=h, z=z)
    log_prior, log_likelihood = chain.log_joint(x, z)
    log_weight = (log_prior + log_likelihood - log_q).unflatten(0, (len(x), samples))
    bound = _LogMeanExp.apply(log_weight, message)
    latent = (log_q - log_prior).detach()
    # One level's term is all there is of a VAE; else p's law of the top is asked once more, for the record.
    prior = latent if chain.T == 1 else log_q_top - chain.p_top(len(z[-1])).log_prob(z[-1]).detach()
    return Loss(-bound.mean(), reported_terms(log_weight, -log_likelihood, prior=prior, latent=latent))


def reported_terms(
    log_weight: Tensor, reconstruction: Tensor, *, prior: Tensor, latent: Tensor
) -> dict[str, Tensor]:
    """The terms of the ELBO, averaged over all draws alike, and how many draws carry the weight.

    ``log_weight`` is (n, k), the others (n · k,); ``latent`` is the cost of all levels with the top's,
    ``prior``. The effective number of draws is 1 / Σ_k w̃_k², from 1 to k.
    """
    weight = log_weight.detach().softmax(dim=1)
    prior = prior.detach().mean()
    return {
        "reconstruction": reconstruction.detach().mean(),
        "matching": latent.detach().mean() - prior,
        "prior": prior,
        "effective_draws": weight.square().sum(dim=1).reciprocal().mean(),
    }


def latents(path: Iterator[Level], T: int) -> list[Level]:
    """The links of z_1 … z_T, in whatever order they are drawn. What follows the last is not computed."""
    links: list[Level] = []
    while len(links) < T:
        link = next(path)
        if link.q is not None:
            links.append(link)
    return sorted(links, key=lambda link: link.t)


def log_q_of(link: Level) -> Tensor:
    """log q of a latent's value under the law it was drawn from, (n,)."""
    assert link.q is not None
    found: Tensor = link.q.log_prob(link.value)
    return found


def log_q_in_z(chain: Paths, x: Tensor, *, h: Any, z: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """log q(z_{1:T}|x) and that of z_T alone, (n,), as functions of z: no gradient reaches a parameter.

    Returns the value and a linear function of z that is 0 here and has log q's gradient.
    """

    def log_q(*z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logs = [log_q_of(link) for link in latents(chain.path(x, h, z=z), chain.T)]
        total = torch.stack(logs).sum(dim=0)
        return total.sum(), (total, logs[-1])

    slopes, (total, top) = _slopes(log_q, z, chain)
    moved = [(slope * (v - v.detach())).flatten(1).sum(dim=1) for slope, v in zip(slopes, z, strict=True)]
    return total + torch.stack(moved).sum(dim=0), top


def _slopes(log_q: _LogQ, z: Sequence[Tensor], chain: Paths) -> tuple[tuple[Tensor, ...], Any]:
    """∂ log q/∂z for each of z, at fixed parameters, worked out at once; and what else ``log_q`` returns."""
    if torch.compiler.is_compiling():
        # The only form that goes into one graph; a module of a user's that is not compiled may not allow it.
        with torch.no_grad(), _not_recomputed(chain):
            slopes, values = torch.func.grad(log_q, argnums=tuple(range(chain.T)), has_aux=True)(*z)
        return slopes, values
    leaves = [v.detach().requires_grad_() for v in z]
    with torch.enable_grad():
        # A view of each: hooks on a module's inputs, as those of a counter of FLOPs, are refused on leaves.
        total, values = log_q(*(leaf.view_as(leaf) for leaf in leaves))
    return torch.autograd.grad(total, leaves, materialize_grads=True), tuple(v.detach() for v in values)


@contextlib.contextmanager
def _not_recomputed(chain: Paths) -> Iterator[None]:
    """Gradient checkpointing off: a gradient taken at once has nothing to gain from it and cannot have it."""
    modules: list[Any] = [module for module in chain.modules() if getattr(module, "recompute", False)]
    for module in modules:
        module.recompute = False
    try:
        yield
    finally:
        for module in modules:
            module.recompute = True


# The second factor w̃ is known only after z has been scored, and must not be in the loss, where it would reach
# p's parameters as well. So it goes from the bound back to z as a message, in the place of a gradient,
# and whatever the loss is multiplied by leaves it alone.


class _WeightedAgain(torch.autograd.Function):
    """z_1 … z_T, each (n, …), and a place for a message, (n,), by which their gradients are multiplied."""

    @staticmethod
    def forward(*z: Tensor) -> tuple[Tensor, ...]:
        return (*(v.clone() for v in z), z[0].new_zeros(len(z[0])))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        *slopes, message = gradients
        return tuple(slope * message.reshape(-1, *[1] * (slope.ndim - 1)) for slope in slopes)


class _LogMeanExp(torch.autograd.Function):
    """log mean_k w_k, (n,), of log w, (n, k); sends the normalised weights back, (n · k,), as the message."""

    @staticmethod
    def forward(log_weight: Tensor, message: Tensor) -> Tensor:
        return log_weight.logsumexp(dim=1) - math.log(log_weight.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (log_weight,) = ctx.saved_tensors
        weight = log_weight.softmax(dim=1)
        return gradient[:, None] * weight, weight.flatten()
