"""The one idea: a Markov chain of latents with an evidence lower bound.

    x  ←  z_1  ←  z_2  ←  …  ←  z_T          p: generation (ancestral sampling)
    x  →  z_1, …, z_T                        q: inference

    log p(x) ≥ ELBO = E_q[ log p(x|z_1) ]                                   − reconstruction
                      − Σ_{t=2..T} E_q KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) )   − matching
                      − E_q KL( q(z_T|x) ‖ p(z_T) )                          − prior matching

A VAE is the case T = 1, a hierarchical VAE has a few levels with a learned q, a DDPM has many with a
fixed one. A subclass states T and the laws; every bound, loss and sample here is written once.

Three kinds of chain differ only in how a path z_1 … z_T is drawn from q:

* ``Chain`` draws from the top: q(z_T|x), then q(z_{t−1}|z_t, x) for t = T … 2.
* ``BottomUpChain`` draws from the data: q(z_1|x), then q(z_t|z_{t−1}) for t = 2 … T.
* ``MarginalChain`` (``marginal.py``) is a ``Chain`` that also knows q(z_t|x) in closed form, so that the
  term of one level can be had without walking through the others.

Every law is a ``torch.distributions.Distribution`` whose batch is the examples, (n,), so that
``log_prob`` is (n,): wrap what is factorised in ``Independent``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from ancestral import checks
from ancestral.elbo import Elbo, Loss, Reweighting
from ancestral.features import Features as Features
from ancestral.features import repeat_features
from ancestral.objectives import Objective, dreg_loss, iwae_loss
from ancestral.resampled import resampled_loss
from ancestral.spec import DataSpec
from ancestral.summary import Summary


@dataclass(frozen=True)
class Link:
    """One level of a path drawn from q: the value z_t with the two laws it stands under."""

    t: int
    """The level; 0 is the data x itself."""
    value: Tensor
    """z_t, shape (n, …). The data x may have fewer rows than their law, each for as many paths in a row."""
    q: Distribution | None
    """The law that z_t was drawn from; None at t = 0, where nothing was drawn."""
    ask_p: Callable[[], Distribution]
    """Computes ``p``: who only draws does not pay for it."""
    closed: bool
    """Whether KL(q ‖ p) is the term: q does not depend on what p is conditioned on through z_t, and has a KL
    in closed form."""

    @property
    def p(self) -> Distribution:
        """p(z_t|z_{t+1}), or p(z_T) at the top; computed when read."""
        return self.ask_p()

    def cost(self) -> Tensor:
        """The term of this level, (n,) nats: −log p(x|z_1) at t = 0, else the KL or its one-draw estimate."""
        if self.q is None:
            return -log_prob_of(self.p, self.value)
        if self.closed:
            return kl_divergence(self.q, self.p)
        return -self.log_ratio()

    def log_ratio(self) -> Tensor:
        """log p − log q of the value drawn, shape (n,)."""
        if self.q is None:
            return log_prob_of(self.p, self.value)
        return self.p.log_prob(self.value) - self.q.log_prob(self.value)


class Chain(nn.Module, ABC):
    """x ← z_1 ← … ← z_T, with q drawn from the top. A subclass states T and the four laws.

    Set ``T`` (the number of latents, ≥ 1) and ``spec`` (what one example is) through ``__init__``, and
    define ``q_top``, ``p_top``, ``p_step`` and, for T ≥ 2, ``q_step``.
    """

    def __init__(
        self,
        T: int,
        spec: DataSpec,
        *,
        reweighting: Reweighting = Reweighting(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
    ) -> None:
        super().__init__()
        checks.integer("T, the number of latent levels,", T, low=1)
        objective.check(reweighting)
        self.T = T
        self.spec = spec
        self.reweighting = reweighting
        # A tensor that is changed in place: compiled steps read it where it is.
        self.kl_weight: Tensor | None
        self.register_buffer("kl_weight", torch.ones(()) if reweighting.kl_warmup else None, persistent=False)
        self.objective = objective
        # That of the step which was told last; compiled steps are compiled again where it changes.
        self.objective_now = objective

    @property
    def loss_name(self) -> str:
        """What ``training_loss`` is called in reports."""
        return self.reweighting.name if self.objective.bound == "elbo" else self.objective.name

    @property
    def discrete(self) -> bool:
        """Whether p(x|z_1) is a law over integers; a chain that puts a density on them says False."""
        return self.spec.levels is not None

    @property
    def summary(self) -> Summary:
        """Words on the chain for tables and reports. A subclass may give its own."""
        return Summary()

    # The laws -------------------------------------------------------------------------------------

    @abstractmethod
    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x), given ``features(x)``."""

    def q_step(self, state: Any, h: Features, t: int) -> Distribution:
        """q(z_{t−1}|z_t, x) for t = T … 2, given the state at level t and ``features(x)``."""
        raise TypeError(
            f"{type(self).__name__} has T = {self.T} levels and no q_step: a chain with T ≥ 2 must "
            "define q_step(state, h, t), the law q(z_{t-1} | z_t, x)."
        )

    @abstractmethod
    def p_top(self, n: int) -> Distribution:
        """p(z_T), for a batch of n."""

    @abstractmethod
    def p_step(self, state: Any, t: int) -> Distribution:
        """p(z_{t−1}|z_t) for t = T … 2, and p(x|z_1) for t = 1, given the state at level t."""

    # What the laws condition on --------------------------------------------------------------------

    def features(self, x: Tensor) -> Features:
        """What q reads of x, computed once for a batch: x itself unless a chain has an encoder to run."""
        return x

    def carry(self, state: Any, z: Tensor, t: int) -> Any:
        """The state that level t hands to the laws below it: z_t itself, unless a chain keeps more.

        ``state`` is what level t + 1 handed down (None at the top). A ladder keeps a deterministic
        stream beside z here.
        """
        return z

    # Paths ------------------------------------------------------------------------------------------

    def path(
        self,
        x: Tensor,
        h: Features | None = None,
        *,
        z: Sequence[Tensor] | None = None,
        redraw: bool = False,
    ) -> Iterator[Link]:
        """Draw one path z ~ q(z_{1:T}|x) per example and yield its links, each level once.

        ``x`` is (n, *shape); ``h`` its features, where they are there already, or (n · k, …) for k paths an
        example, one after another. With ``z``, z_1 … z_T, nothing is drawn: the links are those of these
        latents. With ``redraw`` they are made once more with the noise that they were drawn with, and so
        are functions of q's parameters (``resampled``). Walking lazily keeps two levels in memory, whatever
        T is.
        """
        h = self.features(x) if h is None else h
        q = self.q_top(h)
        value = _value(q, None if z is None else z[-1], redraw)
        yield Link(self.T, value, q, partial(self.p_top, len(value)), closed=has_closed_kl(q))
        state = self.carry(None, value, self.T)
        for t in range(self.T, 1, -1):
            q = self.q_step(state, h, t)
            value = _value(q, None if z is None else z[t - 2], redraw)
            yield Link(t - 1, value, q, partial(self.p_step, state, t), closed=has_closed_kl(q))
            state = self.carry(state, value, t - 1)
        yield Link(0, x, None, partial(self.p_step, state, 1), closed=False)

    def log_joint(self, x: Tensor, z: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """log p(z_{1:T}) and log p(x|z_1) at given latents z_1 … z_T, (n,) nats each; q is not asked.

        Latents (n · k, …) are k for each example, one after another, and give (n · k,).
        """
        log_prior = self.p_top(len(z[-1])).log_prob(z[-1])
        state = self.carry(None, z[-1], self.T)
        for t in range(self.T, 1, -1):
            log_prior = log_prior + self.p_step(state, t).log_prob(z[t - 2])
            state = self.carry(state, z[t - 2], t - 1)
        return log_prior, log_prob_of(self.p_step(state, 1), x)

    # Bounds -----------------------------------------------------------------------------------------

    def elbo(self, x: Tensor, *, samples: int = 1, h: Features | None = None) -> Elbo:
        """The ELBO of x, (n, *shape), averaged over ``samples`` paths drawn from q for each example.

        The notes' ELBO decomposition; the prior and (for a q drawn from the top) the matching terms
        are KLs given the level above, in closed form where q has one; the reconstruction is Monte Carlo.
        ``h`` are the features of x, where they are there already.
        """
        checks.integer("samples", samples, low=1)
        h = repeat_features(self.features(x) if h is None else h, samples)
        costs: dict[int, Tensor] = {
            link.t: link.cost().unflatten(0, (len(x), samples)).mean(dim=1) for link in self.path(x, h)
        }
        matching = [costs[t - 1] for t in range(2, self.T + 1)]
        return Elbo(
            reconstruction=costs[0],
            matching=torch.stack(matching, dim=1) if matching else x.new_zeros(len(x), 0).to(costs[0]),
            prior=costs[self.T],
            dims=self.spec.dims,
            discrete=self.discrete,
        )

    def log_weight(self, x: Tensor, *, samples: int = 1, h: Features | None = None) -> Tensor:
        """log p(x, z) − log q(z|x) of drawn paths, shape (n, samples), nats.

        Its mean over draws is the ELBO, its log-mean-exp tends to log p(x) (Burda et al. 2016, eq. 8),
        and with the exact posterior every single draw equals log p(x). ``h`` are the features of x, where
        they are there already.
        """
        checks.integer("samples", samples, low=1)
        h = repeat_features(self.features(x) if h is None else h, samples)
        total: Tensor | None = None
        for link in self.path(x, h):
            ratio = link.log_ratio()
            total = ratio if total is None else total + ratio
        assert total is not None
        return total.unflatten(0, (len(x), samples))

    def repeated(self, x: Tensor, samples: int, *, h: Features | None = None) -> tuple[Tensor, Features]:
        """Each example ``samples`` times in a row, and its features."""
        h = self.features(x) if h is None else h
        if samples == 1:
            return x, h
        return x.repeat_interleave(samples, dim=0), repeat_features(h, samples)

    # Training and sampling --------------------------------------------------------------------------

    def training_loss(self, x: Tensor) -> Loss:
        """An unbiased estimate of the batch mean of −ELBO, re-weighted where ``reweighting`` says so.

        With the ``objective`` "iwae" or "dreg" it is of the importance-weighted bound (``objectives``).
        Before a step is told (``at_step``) it is that of a step after all warm-ups.
        """
        now = self.objective_now
        if now.backward_samples is not None:
            doubly = now.bound == "dreg"
            return resampled_loss(self, x, samples=now.samples, kept=now.backward_samples, doubly=doubly)
        if now.bound == "iwae":
            return iwae_loss(self, x, samples=now.samples)
        if now.bound == "dreg":
            return dreg_loss(self, x, samples=now.samples)
        elbo = self.elbo(x, samples=now.samples)
        return self.reweighting.loss(elbo, kl_weight=self.kl_weight)

    def at_step(self, step: int) -> None:
        """Told to the chain before each training step: its number, from 0.

        What changes in a loss as training goes on follows from it. What changes at every step is kept in
        tensors that are changed in place: here the KLs' weight in their warm-up, 1 until a step is told.
        """
        now = self.objective.at(step)
        if now != self.objective_now:
            # Set where it changes only: what compiled steps were compiled for stays the same object.
            self.objective_now = now
        if self.kl_weight is not None:
            self.kl_weight.fill_(self.reweighting.kl_weight(step))

    def observe(self, seen: dict[str, Tensor]) -> None:
        """Keep what ``training_loss`` left in ``Loss.seen``, once for each training step: by default nothing.

        A loss is a function of weights and data, so that it can be compiled and asked for at any time. What
        a chain remembers from step to step (in buffers, which checkpoints hold) it takes in here.
        """

    def generate(self, n: int) -> Iterator[tuple[int, Tensor | Distribution]]:
        """Ancestral sampling, level by level: (t, z_t) for t = T … 1, then (0, the law p(x|z_1)).

        The last item is the law and not a draw, so that the caller chooses between a draw and its mean.
        """
        z = self.p_top(n).sample()
        yield self.T, z
        state = self.carry(None, z, self.T)
        for t in range(self.T, 1, -1):
            z = self.p_step(state, t).sample()
            yield t - 1, z
            state = self.carry(state, z, t - 1)
        yield 0, self.p_step(state, 1)

    @torch.no_grad()
    def sample(self, n: int, *, final: str = "draw") -> Tensor:
        """n examples from the model, (n, *shape), by ancestral sampling.

        ``final="draw"`` draws x ~ p(x|z_1), an exact sample of the model; ``final="mean"`` returns the
        mean of p(x|z_1), as the lecture notes' decoder D(z) does. For integer data both are in
        0 … levels − 1; a mean need not be whole.
        """
        checks.integer("n", n, low=1)
        *_, (_, law) = self.generate(n)
        assert isinstance(law, Distribution)
        return final_value(law, final)

    def preview(self, n: int) -> Tensor:
        """n examples for a quick look while training: means of p(x|z_1), by whatever is cheap."""
        return self.sample(n, final="mean")


class BottomUpChain(Chain):
    """A chain whose q goes up from the data: q(z_{1:T}|x) = q(z_1|x) q(z_2|z_1) … q(z_T|z_{T−1}).

    This is the posterior of the lecture notes' hierarchical VAE. q(z_{t−1}|z_t, x) has no closed form
    then, so a matching term is the log-ratio log q(z_{t−1}|z_{t−2}) − log p(z_{t−1}|z_t) along the
    path. Single levels of it can be negative; their sum is as good a bound.
    """

    @abstractmethod
    def q_first(self, h: Features) -> Distribution:
        """q(z_1|x), given ``features(x)``."""

    @abstractmethod
    def q_up(self, z: Tensor, t: int) -> Distribution:
        """q(z_t|z_{t−1}) for t = 2 … T."""

    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x): in closed form for T = 1 only."""
        if self.T > 1:
            raise TypeError("a bottom-up q has no closed-form q(z_T|x); draw a path with `path`.")
        return self.q_first(h)

    def path(
        self,
        x: Tensor,
        h: Features | None = None,
        *,
        z: Sequence[Tensor] | None = None,
        redraw: bool = False,
    ) -> Iterator[Link]:
        """As ``Chain.path``, from the data upwards."""
        h = self.features(x) if h is None else h
        below, q_below = x, None
        for t in range(1, self.T + 1):
            q = self.q_first(h) if t == 1 else self.q_up(below, t)
            value = _value(q, None if z is None else z[t - 1], redraw)
            yield Link(t - 1, below, q_below, partial(self.p_step, value, t), closed=False)
            below, q_below = value, q
        assert q_below is not None
        yield Link(self.T, below, q_below, partial(self.p_top, len(below)), closed=has_closed_kl(q_below))


def _value(q: Distribution, z: Tensor | None, redraw: bool) -> Tensor:
    """A draw of q; or z itself; or z once more, with the noise that it was drawn with."""
    if z is None:
        return q.rsample()
    found: Tensor = q.redrawn(z) if redraw else z  # type: ignore[attr-defined]
    return found


def has_closed_kl(q: Distribution) -> bool:
    """Whether q has a KL in closed form; a law that has none, as a flow, says ``closed_kl = False``."""
    return bool(getattr(q, "closed_kl", True))


def final_value(law: Distribution, final: str) -> Tensor:
    """A draw of p(x|z_1) or its mean, as ``Chain.sample`` is asked to end."""
    checks.one_of("final", final, ("draw", "mean"))
    return law.sample() if final == "draw" else law.mean


def log_prob_of(law: Distribution, value: Tensor) -> Tensor:
    """The law's log-probabilities, (n · k,), of values (n, …) that each stand for k of its rows in a row.

    A law with a method ``log_prob_repeated`` needs no copies of the values.
    """
    times = law.batch_shape[0] // len(value)
    if times <= 1:
        return law.log_prob(value)
    without_copies = getattr(law, "log_prob_repeated", None)
    found: Tensor = (
        law.log_prob(value.repeat_interleave(times, dim=0))
        if without_copies is None
        else without_copies(value)
    )
    return found
