"""The one idea: a Markov chain of latents with an evidence lower bound.

    x  ←  z_1  ←  z_2  ←  …  ←  z_T          p: generation (ancestral sampling)
    x  →  z_1, …, z_T                        q: inference

    log p(x) ≥ ELBO = E_q[ log p(x|z_1) ]                                   − reconstruction
                      − Σ_{t=2..T} E_q KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) )   − matching
                      − E_q KL( q(z_T|x) ‖ p(z_T) )                          − prior matching

A VAE is the case T = 1, a hierarchical VAE has a few levels with a learned q, a DDPM has many with a
fixed one. A subclass states T and the distributions and nothing else: ``walk`` draws from them, ``bounds``
bound log p(x), ``objectives`` train, ``sampling`` samples.

Three kinds of chain differ in how a path z_1 … z_T is drawn from q:

* ``Chain`` draws from the top: q(z_T|x), then q(z_{t−1}|z_t, x) for t = T … 2.
* ``BottomUpChain`` draws from the data: q(z_1|x), then q(z_t|z_{t−1}) for t = 2 … T.
* ``MarginalChain`` (``marginal.py``) is a ``Chain`` that also has q(z_t|x) in closed form, so that the
  term of one level is available without walking through the others.

Every distribution is a ``torch.distributions.Distribution`` whose batch is the examples, (n,), so that
``log_prob`` is (n,): wrap what is factorised in ``Independent``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.core import entrance, walk
from ancestral.core.batch import Batch
from ancestral.core.elbo import Elbo
from ancestral.core.features import Features as Features
from ancestral.core.spec import DataSpec
from ancestral.core.summary import Summary


class Chain(nn.Module, ABC):
    """x ← z_1 ← … ← z_T, with q drawn from the top. A subclass states T and the distributions.

    Set ``T`` (the number of latents, ≥ 1) and ``spec`` (what one example is) through ``__init__``, and
    define ``q_top``, ``p_top``, ``p_step`` and, for T ≥ 2, ``q_step``.
    """

    upward: ClassVar[bool] = False
    """Whether q is drawn from the data upwards (``BottomUpChain``)."""
    single_levels: ClassVar[bool] = False
    """Whether q(z_t|x) is closed-form, so that single levels can be trained and evaluated (``MarginalChain``)."""
    conditional: ClassVar[bool] = False
    """Whether the distributions are conditioned on what ``condition`` takes from a batch."""
    continuous: ClassVar[bool] = False
    """Whether levels are numbers in [0, 1] and the bound is that of continuous time."""

    def __init__(self, T: int, spec: DataSpec) -> None:
        super().__init__()
        checks.integer("T, the number of latent levels,", T, low=1)
        self.T = T
        self.spec = spec
        self.config: Any = None
        """The options that the chain was built from (``build_chain``); None for one built by hand."""
        self.looked_at = False
        """Whether the distributions were found to fit the spec (``entrance.check_chain``)."""
        self.is_mass: bool | None = None
        """What that found of p(x|z_1): see ``discrete``."""

    @property
    def discrete(self) -> bool:
        """Whether p(x|z_1) is a distribution over the grey levels, so that there are bits per dimension.

        Found from the support of the distribution that the chain returns; one without a ``support`` is taken for
        a density.
        """
        if self.is_mass is None:
            self.is_mass = entrance.is_mass(self)
        return self.is_mass

    @property
    def summary(self) -> Summary:
        """Words on the chain for tables and reports. A subclass may give its own."""
        return Summary()

    # The distributions ----------------------------------------------------------------------------

    @abstractmethod
    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x), given ``features(x)``."""

    def q_step(self, state: Any, h: Features, t: int) -> Distribution:
        """q(z_{t−1}|z_t, x) for t = T … 2, given the state at level t and ``features(x)``."""
        raise TypeError(
            f"{type(self).__name__} has T = {self.T} levels and no q_step: a chain with T ≥ 2 must "
            "define q_step(state, h, t), the distribution q(z_{t-1} | z_t, x)."
        )

    def p_top(self, n: int) -> Distribution:
        """p(z_T), for a batch of n: by default the part ``prior`` (``parts.priors``).

        A chain with conditions has them as a second parameter. ``TypeError`` for a chain that neither defines
        it nor has a ``prior``.
        """
        prior = getattr(self, "prior", None)
        if prior is None:
            raise TypeError(
                f"{type(self).__name__} has no p_top and no prior: define p_top(n), the distribution p(z_T), or "
                "set self.prior."
            )
        found: Distribution = prior(n)
        return found

    @abstractmethod
    def p_step(self, state: Any, t: int) -> Distribution:
        """p(z_{t−1}|z_t) for t = T … 2, and p(x|z_1) for t = 1, given the state at level t."""

    # What the distributions condition on ------------------------------------------------------------

    def condition(self, batch: Batch) -> Any:
        """What the chain is conditioned on: a batch's labels, or None for a chain without conditions.

        ``ValueError`` for a batch without labels where the chain has conditions.
        """
        if not self.conditional:
            return None
        if batch.y is None:
            raise ValueError(
                f"the examples have no labels and a {type(self).__name__} is conditioned on them. Give a Batch "
                "with y, or a Split with labels such as data.test."
            )
        return batch.y

    def features(self, x: Tensor) -> Features:
        """What q reads of x, computed once for a batch: x itself unless a chain runs an encoder.

        A chain with conditions has them as a second parameter.
        """
        return x

    def carry(self, state: Any, z: Tensor, t: int) -> Any:
        """The state that level t passes to the distributions below it: z_t itself, unless a chain passes more.

        ``state`` is what level t + 1 passed down (None at the top). With a condition both are a
        ``walk.State``. A ladder passes a deterministic stream beside z.
        """
        return replace(state, z=z) if isinstance(state, walk.State) else z

    # For samplers -----------------------------------------------------------------------------------

    denoises: ClassVar[bool] = False
    """Whether the chain is a diffusion model, whose ``denoiser`` few-step samplers act on."""

    def denoiser(self, condition: Any = None) -> Any:
        """A ``diffusion.Denoiser``. ``ValueError`` for a chain that is not a diffusion model."""
        raise ValueError(
            f"a {type(self).__name__} is no diffusion model: it has no denoiser. Use the ancestral sampler."
        )

    # Conveniences -----------------------------------------------------------------------------------

    def elbo(
        self, x: entrance.Given, *, samples: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """The ELBO of x, (n, *shape), averaged over ``samples`` paths (or sweeps) for each example: ``elbo_of``.

        x is a tensor or a NumPy array; ``h`` are its features, where they are known. ``ValueError`` or
        ``TypeError`` for examples that do not match ``spec``.
        """
        return self.elbo_of(entrance.entered(self, x, condition), samples=samples, h=h, condition=condition)

    def elbo_of(
        self, x: Tensor, *, samples: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """As ``elbo``, of examples that were checked where they entered: for objectives and bounds.

        The notes' ELBO decomposition; the prior and (for a q drawn from the top) the matching terms are KLs
        given the level above, in closed form where q and p have one; the reconstruction is Monte Carlo.
        """
        of_paths = walk.elbo_terms(self, x, samples=samples, h=h, condition=condition)
        terms = {t: term.mean(dim=1) for t, term in of_paths.items()}
        matching = [terms[t - 1] for t in range(2, self.T + 1)]
        return Elbo(
            reconstruction=terms[0],
            matching=torch.stack(matching, dim=1) if matching else x.new_zeros(len(x), 0).to(terms[0]),
            prior=terms[self.T],
            dims=self.spec.dims,
            discrete=self.discrete,
        )

    def log_weight(
        self, x: entrance.Given, *, samples: int = 1, h: Features | None = None, condition: Any = None
    ) -> Tensor:
        """``walk.log_weight``: log p(x, z) − log q(z|x) of paths drawn from q, shape (n, samples), nats.

        x as in ``elbo``.
        """
        x = entrance.entered(self, x, condition)
        return walk.log_weight(self, x, samples=samples, h=h, condition=condition)

    @torch.no_grad()
    def sample(self, n: int, *, final: str = "draw", condition: Any = None) -> Tensor:
        """n examples from the model, (n, *shape), by ancestral sampling.

        ``final="draw"`` draws x ~ p(x|z_1), an exact sample of the model; ``final="mean"`` returns the
        mean of p(x|z_1), as the lecture notes' decoder D(z) does. For integer data both are in
        0 … levels − 1; a mean is in general not an integer.
        """
        checks.integer("n", n, low=1)
        return walk.final_value(walk.generated(self, n, condition=condition)[1], final)


class BottomUpChain(Chain):
    """A chain whose q goes up from the data: q(z_{1:T}|x) = q(z_1|x) q(z_2|z_1) … q(z_T|z_{T−1}).

    This is the posterior of the lecture notes' hierarchical VAE. q(z_{t−1}|z_t, x) has no closed form
    then, so a matching term is the log-ratio log q(z_{t−1}|z_{t−2}) − log p(z_{t−1}|z_t) along the
    path. Single levels of it can be negative; their sum is as good a bound.
    """

    upward = True

    @abstractmethod
    def q_first(self, h: Features) -> Distribution:
        """q(z_1|x), given ``features(x)``."""

    @abstractmethod
    def q_up(self, z: Tensor, t: int) -> Distribution:
        """q(z_t|z_{t−1}) for t = 2 … T."""

    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x): in closed form for T = 1 only."""
        if self.T > 1:
            raise TypeError("a bottom-up q has no closed-form q(z_T|x); draw a path with `walk.infer`.")
        return self.q_first(h)
