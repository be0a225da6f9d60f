"""Training objectives with importance weights: k samples per example, weighted by their likelihood ratio.

    w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x),   w̃_k = w_k / Σ_j w_j

    IWAE-k = E[ log (1/k) Σ_k w_k ]          ELBO = IWAE-1 ≤ IWAE-k ≤ IWAE-(k+1) ≤ log p(x)

(Burda et al. 2016). ``Iwae`` is this bound and its own gradient. As k grows, the part of that gradient
that reaches q drowns in noise. ``DReG`` is the same bound with the doubly reparameterised gradient
(Tucker et al. 2019, eq. 8), which has the same mean and not that defect: with ψ all parameters,

    ∇ IWAE-k = E[ Σ_k w̃_k ∂ log p(x, z_k)/∂ψ  +  Σ_k w̃_k² (∂ log w_k/∂z_k) (∂z_k/∂ψ) ],

the first term at fixed z_k, and ∂ log w_k/∂z_k at fixed parameters. z_k is here all of a path z_1 … z_T, and
∂z_k/∂ψ its whole derivative, through every level drawn after another: that makes it hold for hierarchies, and
where q and p share parameters (the indirect scores of Bauer & Mnih 2021 do not arise). At the exact
posterior w does not depend on z, and so q's gradient is 0 in every draw.

``Few`` sends the gradient of either through a few of the k samples. As

    ∇ IWAE-k = E[ Σ_k w̃_k ∇ log w_k ]                                        (Burda et al. 2016, eq. 14),

samples j chosen with probability w̃_j have ∇ log w_j as unbiased estimates of it (section 3 there). All k are
drawn and weighed without a graph; then m of them are drawn again with the same noise and scored. The m are
chosen by systematic resampling, whose counts differ from m w̃_k by less than 1. With the doubly
reparameterised gradient a chosen sample's slopes in z are multiplied by w̃_j once: the other factor is the
probability that it was chosen with.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.features import Features, repeat_features
from ancestral.core.walk import (
    Link,
    can_redraw,
    features_of,
    given,
    infer,
    log_joint,
    redraw,
    repeated_paths,
    top,
)
from ancestral.objectives.base import Loss, Objective

_LogQ = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


class ImportanceWeighted(Objective):
    """The negative IWAE-k bound, k = ``samples``, with one of its gradients."""

    doubly: ClassVar[bool]
    """Whether the gradient is the doubly reparameterised one."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        checks.integer("samples", samples, low=1)
        self.samples = samples

    def check(self, chain: Chain) -> None:
        """As ``Objective``: the chain must be trained on whole paths."""
        _check_paths(chain, self.name)

    @property
    @abstractmethod
    def name(self) -> str:
        """As ``Objective``."""


class Iwae(ImportanceWeighted):
    """The batch mean of −log mean_k w_k (Burda et al. 2016, eq. 8 and 13), and its gradient.

    k = 1 is the negative ELBO with a log-ratio in the place of each KL.
    """

    doubly = False

    @property
    def name(self) -> str:
        """As ``Objective``."""
        return f"negative IWAE-{self.samples} bound"

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        x, condition = batch.x, chain.condition(batch)
        path = repeated_paths(chain, x, samples=self.samples, condition=condition)
        terms = {link.t: -link.log_ratio() for link in path}
        log_weight = -torch.stack(list(terms.values())).sum(dim=0).unflatten(0, (len(x), self.samples))
        bound = log_weight.logsumexp(dim=1) - math.log(self.samples)
        latent = torch.stack([term for t, term in terms.items() if t > 0]).sum(dim=0)
        return Loss(-bound.mean(), reported_terms(log_weight, terms[0], prior=terms[chain.T], latent=latent))


class DReG(ImportanceWeighted):
    """As ``Iwae``, in value and in the mean of its gradient, with the doubly reparameterised gradient.

    The paths are drawn once, then scored at fixed latents: by p with its parameters live, and by q as a
    function of z alone. So q is evaluated twice, and must be the same both times: no dropout in what it
    reads of other latents. ``features`` are computed once and may have it, and so may p.
    """

    doubly = True

    @property
    def name(self) -> str:
        """As ``Objective``."""
        return f"negative IWAE-{self.samples} bound, DReG gradient"

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        x, condition = batch.x, chain.condition(batch)
        h = repeat_features(features_of(chain, x, condition), self.samples)
        condition = None if condition is None else repeat_features(condition, self.samples)
        path = infer(chain, x, h, condition=condition)
        *z, message = _WeightedAgain.apply(*(link.value for link in latents(path)))
        log_q, log_q_top = log_q_in_z(chain, x, h=h, z=z, condition=condition)
        log_prior, log_likelihood = log_joint(chain, x, z, condition=condition)
        log_weight = (log_prior + log_likelihood - log_q).unflatten(0, (len(x), self.samples))
        bound = _LogMeanExp.apply(log_weight, message)
        latent = (log_q - log_prior).detach()
        # One level's term is all there is of a VAE; else p of the top is evaluated once more, for the record.
        p_top = top(chain, len(z[-1]), condition)
        prior = latent if chain.T == 1 else log_q_top - p_top.log_prob(z[-1]).detach()
        return Loss(-bound.mean(), reported_terms(log_weight, -log_likelihood, prior=prior, latent=latent))


class Few(Objective):
    """As ``objective``, an ``Iwae`` or ``DReG``, with the gradient through ``backward`` = m of its k samples.

    The value is the bound of all k; the gradient has the same mean. A distribution that cannot be redrawn (a
    flow) is differentiated through the paths of all k.
    """

    def __init__(self, objective: ImportanceWeighted, *, backward: int) -> None:
        super().__init__()
        if not isinstance(objective, ImportanceWeighted):
            raise ValueError(
                f"{type(objective).__name__} has no importance weights to choose samples by. Use Few with Iwae "
                "or DReG."
            )
        checks.integer("backward_samples", backward, low=1, high=objective.samples)
        self.objective = objective
        self.samples = objective.samples
        self.backward = backward

    @property
    def name(self) -> str:
        """As ``Objective``."""
        return f"{self.objective.name}, gradient through {self.backward} of {self.samples} samples"

    def check(self, chain: Chain) -> None:
        """As the objective it wraps."""
        self.objective.check(chain)

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        x, condition = batch.x, chain.condition(batch)

        def conditions(copies: int) -> Any:
            return None if condition is None else repeat_features(condition, copies)

        h, all_of_them = features_of(chain, x, condition), conditions(self.samples)
        drawn = latents(infer(chain, x, repeat_features(h, self.samples), condition=all_of_them))
        z = [link.value for link in drawn]
        with torch.no_grad():
            log_q = [link.log_q() for link in drawn]
            log_prior, log_likelihood = log_joint(chain, x, z, condition=all_of_them)
            latent = torch.stack(log_q).sum(dim=0) - log_prior
            log_weight = (log_likelihood - latent).unflatten(0, (len(x), self.samples))
            bound = (log_weight.logsumexp(dim=1) - math.log(self.samples)).mean()
            prior = log_q[-1] - top(chain, len(z[-1]), all_of_them).log_prob(z[-1])
            terms = reported_terms(log_weight, -log_likelihood, prior=prior, latent=latent)
            share = log_weight.softmax(dim=1)
            rows = chosen(share, self.backward)
        # Each example was chosen from ``backward`` times, consecutively.
        h, few = repeat_features(h, self.backward), conditions(self.backward)
        z = [v[rows] for v in z]
        # Where q can redraw them, their own path leads back to its parameters, and not that of all k.
        again = all(link.q is not None and can_redraw(link.q) for link in drawn)
        del drawn
        if again:
            z = [v.detach() for v in z]
        if again or not self.objective.doubly:
            links = latents(infer(chain, x, h, redraw(z) if again else given(z), condition=few))
            z = [link.value for link in links]
        if self.objective.doubly:
            # Slopes in z are multiplied by the weights, and q is a function of z alone.
            weight = share.flatten()[rows]
            z = [_slowed(v, weight) for v in z]
            log_q_chosen, _ = log_q_in_z(chain, x, h=h, z=z, condition=few)
        else:
            log_q_chosen = torch.stack([link.log_q() for link in links]).sum(dim=0)
        log_prior, log_likelihood = log_joint(chain, x, z, condition=few)
        score = (log_prior + log_likelihood - log_q_chosen).mean()
        # The bound's value with the gradient of what was chosen.
        return Loss(-bound - (score - score.detach()), terms)


class FirstFew(Objective):
    """``first`` for the first ``steps`` steps, then ``objective``: what is learnt first needs few samples.

    Burda et al. 2016 (table 2) resume with k = 50 from k = 1, and end 0.1 nats from k = 50 alone.
    """

    def __init__(self, objective: Objective, first: Objective, *, steps: int) -> None:
        super().__init__()
        checks.integer("samples_warmup", steps, low=1)
        if first.samples >= objective.samples:
            raise ValueError(
                f"the first steps have {first.samples} samples and the others {objective.samples}; the first "
                "must have fewer."
            )
        self.objective = objective
        self.first = first
        self.steps = steps
        self.samples = objective.samples
        self.warming = False
        """Whether the current step is one of the first."""

    @property
    def name(self) -> str:
        """As ``Objective``."""
        few = "1 sample" if self.first.samples == 1 else f"{self.first.samples} samples"
        return f"{self.objective.name}, {few} in the first {self.steps} steps"

    def check(self, chain: Chain) -> None:
        """As both objectives."""
        self.first.check(chain)
        self.objective.check(chain)

    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """As ``Objective``."""
        return (self.first if self.warming else self.objective).loss(chain, batch)

    def at_step(self, step: int) -> None:
        """As ``Objective``. A compiled step is compiled again where the objective changes."""
        warming = step < self.steps
        if warming != self.warming:
            self.warming = warming
        (self.first if warming else self.objective).at_step(step)


def reported_terms(
    log_weight: Tensor, reconstruction: Tensor, *, prior: Tensor, latent: Tensor
) -> dict[str, Tensor]:
    """The terms of the ELBO, averaged over all samples alike, and how many samples carry the weight.

    ``log_weight`` is (n, k), the others (n · k,); ``latent`` is the sum over all levels, the top's, ``prior``,
    included. The effective number of samples is 1 / Σ_k w̃_k², from 1 to k.
    """
    weight = log_weight.detach().softmax(dim=1)
    prior = prior.detach().mean()
    return {
        "reconstruction": reconstruction.detach().mean(),
        "matching": latent.detach().mean() - prior,
        "prior": prior,
        "effective_draws": weight.square().sum(dim=1).reciprocal().mean(),
    }


def latents(path: Iterator[Link]) -> list[Link]:
    """The links of z_1 … z_T. The step to the data, which follows them, is not computed."""
    links: list[Link] = []
    while not links or links[-1].t > 1:
        links.append(next(path))
    return links[::-1]


def log_q_in_z(
    chain: Chain, x: Tensor, *, h: Features, z: Sequence[Tensor], condition: Any = None
) -> tuple[Tensor, Tensor]:
    """log q(z_{1:T}|x) and that of z_T alone, (n,), as functions of z: no gradient reaches a parameter.

    Returns the value and a linear function of z that is 0 here and has log q's gradient.
    """

    def log_q(*z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logs = [link.log_q() for link in latents(infer(chain, x, h, given(z), condition=condition))]
        total = torch.stack(logs).sum(dim=0)
        return total.sum(), (total, logs[-1])

    slopes, (total, top) = _slopes(log_q, z, chain)
    moved = [(slope * (v - v.detach())).flatten(1).sum(dim=1) for slope, v in zip(slopes, z, strict=True)]
    return total + torch.stack(moved).sum(dim=0), top


def _slopes(log_q: _LogQ, z: Sequence[Tensor], chain: Chain) -> tuple[tuple[Tensor, ...], Any]:
    """∂ log q/∂z for each of z, at fixed parameters, worked out at once; and what else ``log_q`` returns."""
    if torch.compiler.is_compiling():
        # The only form that goes into one graph; a user's module that is not compiled may not allow it.
        with torch.no_grad(), _not_recomputed(chain):
            slopes, values = torch.func.grad(log_q, argnums=tuple(range(chain.T)), has_aux=True)(*z)
        return slopes, values
    leaves = [v.detach().requires_grad_() for v in z]
    with torch.enable_grad():
        # A view of each: hooks on a module's inputs, as those of a counter of FLOPs, do not work on leaves.
        total, values = log_q(*(leaf.view_as(leaf) for leaf in leaves))
    return torch.autograd.grad(total, leaves, materialize_grads=True), tuple(v.detach() for v in values)


@contextlib.contextmanager
def _not_recomputed(chain: Chain) -> Iterator[None]:
    """Gradient checkpointing off: a gradient taken at once has nothing to gain from it and cannot have it."""
    modules: list[Any] = [module for module in chain.modules() if getattr(module, "recompute", False)]
    for module in modules:
        module.recompute = False
    try:
        yield
    finally:
        for module in modules:
            module.recompute = True


def chosen(share: Tensor, kept: int) -> Tensor:
    """Which of n · k rows are taken, (n · kept,): ``kept`` for each example, by its weights, (n, k).

    Systematic resampling: places one ``kept``-th apart from one random start in each example's distribution
    function, so that a sample of weight w̃ is taken ⌊kept w̃⌋ or ⌈kept w̃⌉ times, and kept w̃ times on average.
    """
    n, k = share.shape
    places = (torch.arange(kept, device=share.device) + torch.rand(n, 1, device=share.device)) / kept
    index = torch.searchsorted(share.cumsum(dim=1), places.to(share.dtype)).clamp(max=k - 1)
    return (index + k * torch.arange(n, device=share.device)[:, None]).flatten()


def _slowed(z: Tensor, weight: Tensor) -> Tensor:
    """z with its gradient multiplied by the weight of its row."""
    return z.detach() + weight.reshape(-1, *[1] * (z.ndim - 1)) * (z - z.detach())


def _check_paths(chain: Chain, name: str) -> None:
    if chain.single_levels:
        raise ValueError(
            f"the objective is the {name}: a {type(chain).__name__} is trained on single levels, and importance "
            "weights need whole paths. Use objective 'elbo', or a (hierarchical) VAE."
        )


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
