"""Chains whose q(z_t|x) is closed-form, so that the term of any one level is available by itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ancestral._internal import checks
from ancestral.core import entrance
from ancestral.core.chain import Chain, Features
from ancestral.core.elbo import Elbo
from ancestral.core.features import repeat_features
from ancestral.core.walk import State, features_of, has_closed_kl, log_prob_of, top


class MarginalChain(Chain):
    """A chain whose q(z_t|x) is closed-form, so that one level's term needs no walk through the others.

    ``p_step`` and ``q_step`` must take t as an integer or as a tensor (n,) of one level per example.
    In continuous time (``continuous``) levels are numbers in [0, 1] and ``matching_at`` is a density of the
    matching term there: then there is no sweep, and the bound is estimated from random levels.
    """

    single_levels = True

    @abstractmethod
    def q_marginal(self, h: Features, t: Tensor) -> Distribution:
        """q(z_t|x) for one level per example: ``t`` is (n,), integers in 1 … T."""

    def matching_at(self, h: Features, t: Tensor, condition: Any = None) -> Tensor:
        """KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ) at one level per example, t in 2 … T; shape (n,).

        It is estimated from one draw where it has no closed form.
        """
        z = self.q_marginal(h, t).rsample()
        state = z if condition is None else State(z, condition)
        q, p = self.q_step(state, h, t), self.p_step(state, t)  # type: ignore[arg-type]
        return _divergence(q, p)

    def elbo_of(
        self, x: Tensor, *, samples: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """The ELBO of x, (n, *shape), swept over all levels: T network calls for each of ``samples``.

        Each level's z_t is drawn afresh from q(z_t|x). The terms have the same means as along one path,
        and their sum varies far less, as the errors of neighbouring levels are independent.
        """
        checks.integer("samples", samples, low=1)
        xs, h = x, features_of(self, x, condition) if h is None else h
        if samples > 1:
            xs, h = x.repeat_interleave(samples, dim=0), repeat_features(h, samples)
            condition = None if condition is None else repeat_features(condition, samples)
        columns = [
            self.matching_at(h, torch.full((len(xs),), t, device=x.device), condition)
            for t in range(2, self.T + 1)
        ]
        reconstruction, prior = self.ends(xs, h, condition)
        matching = torch.stack(columns, dim=1) if columns else reconstruction.new_zeros(len(xs), 0)

        def averaged(terms: Tensor) -> Tensor:
            return terms.unflatten(0, (len(x), samples)).mean(dim=1)

        return Elbo(
            averaged(reconstruction), averaged(matching), averaged(prior), self.spec.dims, self.discrete
        )

    def elbo_sampled(
        self, x: entrance.Given, *, levels: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """``elbo_sampled_of`` for examples as ``elbo`` takes them."""
        return self.elbo_sampled_of(
            entrance.entered(self, x, condition), levels=levels, h=h, condition=condition
        )

    def elbo_sampled_of(
        self, x: Tensor, *, levels: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """The ELBO with its sum of matching terms estimated from ``levels`` random t, at 1 + levels calls.

        t is drawn uniformly, with replacement, for each example and draw. Unbiased; the spread of ``total``
        over examples includes the spread that the random t add, so the usual standard error of its mean is
        right. ``bounds.SampledLevelsBound`` draws t with smaller errors.
        """
        checks.integer("levels", levels, low=1)
        count = levels if self.T > 1 else 0
        place = torch.rand(len(x), count, dtype=torch.float64, device=x.device)
        weight = torch.full_like(place, 1.0 / levels)
        return self.elbo_at(x, place, weight, h=h, condition=condition)

    def elbo_at(
        self,
        x: Tensor,
        place: Tensor,
        weight: Tensor,
        *,
        h: Features | None = None,
        condition: Any = None,
    ) -> Elbo:
        """The ELBO with its sum of matching terms estimated from given levels, at 1 + m calls.

        ``place``, (n, m) in [0, 1), says where among the matching terms each draw falls: 0 is z_1's end and 1
        z_T's, each level having an equal part. ``weight``, (n, m), multiplies a draw's term as if the terms'
        mean were asked for: it is unbiased where each place has the density 1 / (m · weight).
        """
        n, h = len(x), features_of(self, x, condition) if h is None else h
        reconstruction, prior = self.ends(x, h, condition)
        matching = reconstruction.new_zeros(n, self.T - 1)
        if self.T > 1:
            for where, share in zip(place.unbind(1), weight.unbind(1), strict=True):
                t = self.level_at(where)
                term = self.matching_at(h, t, condition) * ((self.T - 1) * share).to(reconstruction.dtype)
                matching = matching.scatter_add(1, (t - 2)[:, None], term[:, None])
        return Elbo(reconstruction, matching, prior, self.spec.dims, self.discrete)

    def level_at(self, place: Tensor) -> Tensor:
        """The level t in 2 … T in whose equal part of [0, 1) ``place`` lies."""
        return 2 + (place * (self.T - 1)).long().clamp(max=self.T - 2)

    def ends(self, x: Tensor, h: Features, condition: Any = None) -> tuple[Tensor, Tensor]:
        """The reconstruction and prior terms, (n,) each."""
        z1 = self.q_marginal(h, torch.ones(len(x), dtype=torch.long, device=x.device)).rsample()
        state = z1 if condition is None else State(z1, condition)
        return -log_prob_of(self.p_step(state, 1), x), self.prior_term(h, len(x), condition)

    def prior_term(self, h: Features, n: int, condition: Any = None) -> Tensor:
        """KL( q(z_T|x) ‖ p(z_T) ), (n,), or its estimate from one draw where it has no closed form."""
        return _divergence(self.q_top(h), top(self, n, condition))


def marginal(chain: Chain) -> MarginalChain:
    """The chain as the ``MarginalChain`` that it is; ``ValueError`` for another, whose levels have no terms of
    their own to draw."""
    if not isinstance(chain, MarginalChain):
        raise ValueError(
            f"single levels of a {type(chain).__name__}: its q(z_t|x) has no closed form. Use whole paths: the "
            "bound PathBound, the objective NegativeElbo."
        )
    return chain


def _divergence(q: Distribution, p: Distribution) -> Tensor:
    """KL(q ‖ p), (n,), or its estimate from one draw where it has no closed form."""
    if has_closed_kl(q, p):
        return kl_divergence(q, p)
    z = q.rsample()
    return q.log_prob(z) - p.log_prob(z)
