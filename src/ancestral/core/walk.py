"""The two walks along a chain: ``infer`` draws latents with q, ``generate`` draws them with p.

Both visit the levels from the top, z_T, down to the data. What happens at a level is decided by a ``choose``
function: it receives t and the distribution of z_t and returns a value. ``draw`` samples with gradients,
``sample`` without, ``given`` takes latents that are there, ``redraw`` repeats a draw with the noise that it
was made from, ``noise`` draws from generators, and ``temperature`` narrows or widens a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, ExponentialFamily, TransformedDistribution, kl_divergence

from ancestral._internal import checks
from ancestral._internal.randomness import Noise
from ancestral.core.features import Features, repeat_features

if TYPE_CHECKING:
    from ancestral.core.chain import BottomUpChain, Chain

Choose = Callable[[int, Distribution], Tensor]
"""From a level t and the distribution of z_t, (n, …), to a value of z_t."""


# Ways to choose -------------------------------------------------------------------------------------


def draw(t: int, distribution: Distribution) -> Tensor:
    """A sample by reparameterisation: gradients reach the distribution's parameters."""
    return distribution.rsample()


def sample(t: int, distribution: Distribution) -> Tensor:
    """A sample without gradients."""
    return distribution.sample()


def given(z: Sequence[Tensor]) -> Choose:
    """The latents z_1 … z_T themselves; nothing is drawn."""
    return lambda t, distribution: z[t - 1]


def redraw(z: Sequence[Tensor]) -> Choose:
    """The draws z_1 … z_T once more, with their noise, as functions of the distributions' parameters.

    Every distribution must have a method ``redrawn`` (``can_redraw``).
    """
    return lambda t, distribution: distribution.redrawn(z[t - 1])  # type: ignore[attr-defined]


def can_redraw(distribution: Distribution) -> bool:
    """Whether ``redraw`` works with this distribution. A normalising flow has no such method."""
    return hasattr(distribution, "redrawn")


def noise(source: Noise) -> Choose:
    """Samples without gradients whose random numbers come from ``source``."""

    def choose(t: int, distribution: Distribution) -> Tensor:
        with torch.no_grad():
            return source.sample(distribution)

    return choose


def temperature(scale: float, choose: Choose = sample) -> Choose:
    """Values of ``choose`` with their distance from the distribution's mean multiplied by ``scale`` ≥ 0.

    With 1 nothing changes, with 0 every latent is its mean. The result is not a sample of the model.
    """
    checks.number("the temperature", scale, low=0.0)

    def chosen(t: int, distribution: Distribution) -> Tensor:
        mean = distribution.mean
        return mean + scale * (choose(t, distribution) - mean)

    return chosen


# The walks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What level t passes to the distributions below it, for chains that pass more than z_t."""

    z: Tensor | None
    """z_t, (n, …); None above the top level."""
    condition: Any = None
    """What the chain is conditioned on, such as classes (n,); None without a condition."""
    stream: Any = None
    """A deterministic function of the latents above, as in a ladder."""


def latent_of(state: Any) -> Tensor:
    """z_t of a state of ``Chain.carry``."""
    if not isinstance(state, State):
        given: Tensor = state
        return given
    assert state.z is not None
    return state.z


def condition_of(state: Any) -> Any:
    """The condition of a state of ``Chain.carry``; None without one."""
    return state.condition if isinstance(state, State) else None


@dataclass(frozen=True)
class Link:
    """One level of a walk: the value of z_t with its distributions under q and p."""

    t: int
    """The level; 0 is the data x."""
    value: Tensor
    """z_t, shape (n, …). The data x may have fewer rows than p: each stands for several consecutive rows."""
    q: Distribution | None
    """The distribution that z_t was drawn from; None at t = 0, where nothing was drawn."""
    ask_p: Callable[[], Distribution]
    """Computes ``p``, so that sampling alone does not evaluate it."""
    independent: bool
    """Whether q does not depend on the latent that p conditions on except through what both are given, so
    that KL(q ‖ p) is the level's term of the negative ELBO."""

    @property
    def p(self) -> Distribution:
        """p(z_t|z_{t+1}), or p(z_T) at the top, or p(x|z_1) at t = 0; computed when read."""
        return self.ask_p()

    def term(self) -> Tensor:
        """The level's term of the negative ELBO, (n,) nats: −log p(x|z_1) at t = 0, else KL(q ‖ p).

        The KL is in closed form where q and p have one, else it is estimated by log q − log p of the value.
        """
        p = self.p
        if self.q is None:
            return -log_prob_of(p, self.value)
        if self.independent and has_closed_kl(self.q, p):
            return kl_divergence(self.q, p)
        return self.q.log_prob(self.value) - p.log_prob(self.value)

    def log_ratio(self) -> Tensor:
        """log p − log q of the value, shape (n,); log p(x|z_1) at t = 0."""
        if self.q is None:
            return log_prob_of(self.p, self.value)
        return self.p.log_prob(self.value) - self.q.log_prob(self.value)

    def log_q(self) -> Tensor:
        """log q of the value, shape (n,). Only for t ≥ 1."""
        assert self.q is not None
        return self.q.log_prob(self.value)


def infer(
    chain: Chain, x: Tensor, h: Features | None = None, choose: Choose = draw, *, condition: Any = None
) -> Iterator[Link]:
    """One path z ~ q(z_{1:T}|x) per example: its links for t = T … 0.

    ``x`` is (n, *shape); ``h`` its features, where they are known, or (n · k, …) for k consecutive paths per
    example. ``choose`` sets the latents. Two levels are in memory at once, whatever T is; a bottom-up chain
    keeps all of its latents.
    """
    if h is None:
        h = features_of(chain, x, condition)
    drawn = _upward(chain, h, choose) if chain.upward else []  # type: ignore[arg-type]
    q = chain.q_top(h) if not drawn else drawn[-1][1]
    value = choose(chain.T, q) if not drawn else drawn[-1][0]
    yield Link(chain.T, value, q, partial(top, chain, len(value), condition), independent=True)
    state = chain.carry(_above(condition), value, chain.T)
    for t in range(chain.T, 1, -1):
        if drawn:
            value, q = drawn[t - 2]
        else:
            q = chain.q_step(state, h, t)
            value = choose(t - 1, q)
        yield Link(t - 1, value, q, partial(chain.p_step, state, t), independent=not drawn)
        state = chain.carry(state, value, t - 1)
    yield Link(0, x, None, partial(chain.p_step, state, 1), independent=False)


def _upward(chain: BottomUpChain, h: Features, choose: Choose) -> list[tuple[Tensor, Distribution]]:
    """The latents z_1 … z_T of a bottom-up chain and the distributions that they were drawn from."""
    drawn: list[tuple[Tensor, Distribution]] = []
    for t in range(1, chain.T + 1):
        q = chain.q_first(h) if t == 1 else chain.q_up(drawn[-1][0], t)
        drawn.append((choose(t, q), q))
    return drawn


def generate(
    chain: Chain,
    n: int,
    choose: Choose = sample,
    *,
    condition: Any = None,
    start: tuple[int, Tensor] | None = None,
) -> Iterator[tuple[int, Tensor | Distribution]]:
    """Ancestral sampling of n examples: (t, z_t) for t = T … 1, then (0, the distribution p(x|z_1)).

    The last item is the distribution, so that the caller takes a draw or its mean. ``start``, (t, z_t), begins
    below the top; it is for chains that pass nothing but z_t from level to level.
    """
    first, z = (chain.T, choose(chain.T, top(chain, n, condition))) if start is None else start
    checks.integer("the level to start at", first, low=1, high=chain.T)
    yield first, z
    state = chain.carry(_above(condition), z, first)
    for t in range(first, 1, -1):
        z = choose(t - 1, chain.p_step(state, t))
        yield t - 1, z
        state = chain.carry(state, z, t - 1)
    yield 0, chain.p_step(state, 1)


def top(chain: Chain, n: int, condition: Any = None) -> Distribution:
    """p(z_T) for n examples. A chain without conditions need not have the second parameter."""
    return chain.p_top(n) if condition is None else chain.p_top(n, condition)  # type: ignore[call-arg]


def features_of(chain: Chain, x: Tensor, condition: Any = None) -> Features:
    """What q reads of x. A chain without conditions need not have the second parameter."""
    return chain.features(x) if condition is None else chain.features(x, condition)  # type: ignore[call-arg]


def _above(condition: Any) -> State | None:
    """The state above the top level."""
    return None if condition is None else State(None, condition)


# What follows from one walk -------------------------------------------------------------------------


def generated(
    chain: Chain, n: int, choose: Choose = sample, *, condition: Any = None
) -> tuple[list[Tensor], Distribution]:
    """The latents z_1 … z_T of ``generate``, in this order, and p(x|z_1)."""
    *latents, (_, last) = generate(chain, n, choose, condition=condition)
    assert isinstance(last, Distribution)
    return [z for _, z in reversed(latents) if isinstance(z, Tensor)], last


def log_joint(
    chain: Chain, x: Tensor, z: Sequence[Tensor], *, condition: Any = None
) -> tuple[Tensor, Tensor]:
    """log p(z_{1:T}) and log p(x|z_1) at latents z_1 … z_T, (n,) nats each; q is not evaluated.

    Latents (n · k, …) are k consecutive ones for each example and give (n · k,).
    """
    logs: list[Tensor] = []

    def scored(t: int, distribution: Distribution) -> Tensor:
        logs.append(distribution.log_prob(z[t - 1]))
        return z[t - 1]

    _, last = generated(chain, len(z[-1]), scored, condition=condition)
    return torch.stack(logs).sum(dim=0), log_prob_of(last, x)


def elbo_terms(
    chain: Chain,
    x: Tensor,
    *,
    samples: int = 1,
    h: Features | None = None,
    condition: Any = None,
) -> dict[int, Tensor]:
    """The terms of the negative ELBO of ``samples`` paths for each of x, (n, *shape): by t, (n, samples)."""
    path = repeated_paths(chain, x, samples=samples, h=h, condition=condition)
    return {link.t: link.term().unflatten(0, (len(x), samples)) for link in path}


def repeated_paths(
    chain: Chain,
    x: Tensor,
    choose: Choose = draw,
    *,
    samples: int,
    h: Features | None = None,
    condition: Any = None,
) -> Iterator[Link]:
    """``infer`` with ``samples`` consecutive paths for each of x. ``h`` and the condition are of each example."""
    checks.integer("samples", samples, low=1)
    h = repeat_features(features_of(chain, x, condition) if h is None else h, samples)
    repeated = None if condition is None else repeat_features(condition, samples)
    return infer(chain, x, h, choose, condition=repeated)


def log_weight(
    chain: Chain, x: Tensor, *, samples: int = 1, h: Features | None = None, condition: Any = None
) -> Tensor:
    """log p(x, z) − log q(z|x) of paths drawn from q, shape (n, samples), nats.

    Its mean over draws is the ELBO, its log-mean-exp tends to log p(x) (Burda et al. 2016, eq. 8), and with
    the exact posterior every single draw equals log p(x). ``h`` are the features of x, where they are known.
    """
    total: Tensor | None = None
    for link in repeated_paths(chain, x, samples=samples, h=h, condition=condition):
        ratio = link.log_ratio()
        total = ratio if total is None else total + ratio
    assert total is not None
    return total.unflatten(0, (len(x), samples))


def has_closed_kl(q: Distribution, p: Distribution) -> bool:
    """Whether KL(q ‖ p) has a closed form. It depends on both: a mixture as p has none with any q.

    A distribution may name the classes it has one with in ``closed_kl``; for others torch's registry decides.
    """
    named: tuple[type, ...] | None = getattr(q, "closed_kl", None)
    if named is not None:
        return isinstance(p, named)
    q, p = _inner(q), _inner(p)
    if isinstance(q, TransformedDistribution) and isinstance(p, TransformedDistribution):
        return q.transforms == p.transforms and has_closed_kl(q.base_dist, p.base_dist)
    pairs = torch.distributions.kl._KL_REGISTRY
    # The formula for exponential families is for two distributions of one family.
    return any(
        isinstance(q, left) and isinstance(p, right) and (left is not ExponentialFamily or type(q) is type(p))
        for left, right in pairs
    )


def _inner(distribution: Distribution) -> Distribution:
    """What an ``Independent`` wraps: its KL exists where the inner distributions have one."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def log_prob_of(distribution: Distribution, value: Tensor) -> Tensor:
    """Log probabilities, (n · k,), of values (n, …) that each stand for k consecutive rows of a distribution.

    A distribution with a method ``log_prob_repeated`` needs no copies of the values. Integers go to
    distributions of torch as real numbers, which some of them require.
    """
    if not value.is_floating_point() and type(_inner(distribution)).__module__.startswith("torch."):
        value = value.to(torch.get_default_dtype())
    times = distribution.batch_shape[0] // len(value)
    if times <= 1:
        return distribution.log_prob(value)
    without_copies = getattr(distribution, "log_prob_repeated", None)
    found: Tensor = (
        distribution.log_prob(value.repeat_interleave(times, dim=0))
        if without_copies is None
        else without_copies(value)
    )
    return found


def final_value(distribution: Distribution, final: str, choose: Choose = sample) -> Tensor:
    """The end of a sample: a draw of p(x|z_1) for "draw", its mean for "mean"."""
    checks.one_of("final", final, ("draw", "mean"))
    return choose(0, distribution) if final == "draw" else distribution.mean
