"""Chains whose q(z_t|x) is closed-form, so that the term of any one level can be had by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ancestral import checks
from ancestral.chain import Chain, Features
from ancestral.elbo import Elbo, Loss, Reweighting
from ancestral.objectives import Objective
from ancestral.spec import DataSpec


class MarginalChain(Chain):
    """A chain whose q(z_t|x) is closed-form, so that one level's term needs no walk through the others.

    ``p_step`` and ``q_step`` must take t as a whole number or as a tensor (n,) of one level per example.
    """

    continuous: bool = False
    """Whether levels are numbers in [0, 1], with ``matching_at`` a density of the matching term there: then
    there is no sweep, and the bound is estimated from levels at random."""

    def __init__(
        self,
        T: int,
        spec: DataSpec,
        *,
        reweighting: Reweighting = Reweighting(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
    ) -> None:
        if objective.bound != "elbo":
            raise ValueError(
                f"the objective is {objective.bound!r}: {type(self).__name__} is trained on single levels, "
                "and importance weights need whole paths. Use 'elbo', or a (hierarchical) VAE."
            )
        super().__init__(T, spec, reweighting=reweighting, objective=objective)

    @abstractmethod
    def q_marginal(self, h: Features, t: Tensor) -> Distribution:
        """q(z_t|x) for one level per example: ``t`` is (n,), whole numbers in 1 … T."""

    def matching_at(self, h: Features, t: Tensor) -> Tensor:
        """KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ) at one level per example, t in 2 … T; shape (n,)."""
        z = self.q_marginal(h, t).rsample()
        return kl_divergence(self.q_step(z, h, t), self.p_step(z, t))  # type: ignore[arg-type]

    def elbo(self, x: Tensor, *, samples: int = 1, h: Features | None = None) -> Elbo:
        """The ELBO of x, (n, *shape), swept over all levels: T network calls for each of ``samples``.

        Each level's z_t is drawn afresh from q(z_t|x). The terms have the same means as along one path,
        and their sum varies far less, as the errors of neighbouring levels are independent.
        """
        checks.integer("samples", samples, low=1)
        xs, h = self.repeated(x, samples, h=h)
        columns = [
            self.matching_at(h, torch.full((len(xs),), t, device=x.device)) for t in range(2, self.T + 1)
        ]
        reconstruction, prior = self._ends(xs, h)
        matching = torch.stack(columns, dim=1) if columns else reconstruction.new_zeros(len(xs), 0)

        def averaged(costs: Tensor) -> Tensor:
            return costs.unflatten(0, (len(x), samples)).mean(dim=1)

        return Elbo(
            averaged(reconstruction), averaged(matching), averaged(prior), self.spec.dims, self.discrete
        )

    def elbo_sampled(self, x: Tensor, *, levels: int = 1, h: Features | None = None) -> Elbo:
        """The ELBO with its sum of matching terms estimated from ``levels`` random t, at 1 + levels calls.

        t is drawn uniformly, with replacement, for each example and draw. Unbiased; the spread of ``total``
        over examples includes the spread that the random t add, so the usual standard error of its mean is
        right. ``evaluation.LevelDraws`` draws t with smaller errors.
        """
        checks.integer("levels", levels, low=1)
        count = levels if self.T > 1 else 0
        place = torch.rand(len(x), count, dtype=torch.float64, device=x.device)
        return self.elbo_at(x, place, torch.full_like(place, 1.0 / levels), h=h)

    def elbo_at(self, x: Tensor, place: Tensor, weight: Tensor, *, h: Features | None = None) -> Elbo:
        """The ELBO with its sum of matching terms estimated from given levels, at 1 + m calls.

        ``place``, (n, m) in [0, 1), says where among the matching terms each draw falls: 0 is z_1's end and 1
        z_T's, each level having an equal part. ``weight``, (n, m), multiplies a draw's term as if the terms'
        mean were asked for: it is unbiased where each place has the density 1 / (m · weight).
        """
        n, h = len(x), self.features(x) if h is None else h
        reconstruction, prior = self._ends(x, h)
        matching = reconstruction.new_zeros(n, self.T - 1)
        if self.T > 1:
            for where, share in zip(place.unbind(1), weight.unbind(1), strict=True):
                t = self.level_at(where)
                cost = self.matching_at(h, t) * ((self.T - 1) * share).to(reconstruction.dtype)
                matching = matching.scatter_add(1, (t - 2)[:, None], cost[:, None])
        return Elbo(reconstruction, matching, prior, self.spec.dims, self.discrete)

    def level_at(self, place: Tensor) -> Tensor:
        """The level t in 2 … T in whose equal part of [0, 1) ``place`` lies."""
        return 2 + (place * (self.T - 1)).long().clamp(max=self.T - 2)

    def _ends(self, x: Tensor, h: Features) -> tuple[Tensor, Tensor]:
        """The reconstruction and prior terms, (n,) each."""
        z1 = self.q_marginal(h, torch.ones(len(x), dtype=torch.long, device=x.device)).rsample()
        return -self.p_step(z1, 1).log_prob(x), kl_divergence(self.q_top(h), self.p_top(len(x)))

    def descend(
        self, z: Tensor, t: int, *, steps: int | None = None
    ) -> Iterator[tuple[int, Tensor | Distribution]]:
        """Ancestral sampling from z_t, (n, …), down: (s, z_s) for s = t − 1 … 1, then (0, the law p(x|z_1)).

        ``steps`` are how many of the levels t … 1 are visited, for chains that can leave some out.
        """
        if steps not in (None, t):
            raise ValueError(
                f"steps is {steps}: {type(self).__name__} visits each of its levels. Leave it out."
            )
        for level in range(t, 1, -1):
            law = self.p_step(z, level)
            z = law.sample()
            yield level - 1, z
        yield 0, self.p_step(z, 1)

    def training_loss(self, x: Tensor) -> Loss:
        """As ``Chain.training_loss``, with ``objective.samples`` random t per example in place of paths."""
        elbo = self.elbo_sampled(x, levels=self.objective_now.samples)
        return self.reweighting.loss(elbo, kl_weight=self.kl_weight)
