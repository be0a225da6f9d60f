"""Hierarchical VAEs: a Markov chain of T ≥ 2 learned latents, x ← z_1 ← … ← z_T.

    p(x, z_1, …, z_T) = p(z_T) p(z_{T−1}|z_T) … p(z_1|z_2) p(x|z_1)

Two posteriors. ``MarkovHVAE`` has the lecture notes' bottom-up one,

    q(z_{1:T}|x) = q(z_1|x) q(z_2|z_1) … q(z_T|z_{T−1}),

and ``LadderHVAE`` the top-down one that shares the generative path (Sønderby et al. 2016; Kingma et
al. 2016; Vahdat & Kautz 2020),

    q(z_{1:T}|x) = q(z_T|x) q(z_{T−1}|z_T, x) … q(z_1|z_{≥2}, x).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral.chain import BottomUpChain, Chain, Features
from ancestral.distributions import DiagonalNormal, gaussian, standard_normal
from ancestral.elbo import Reweighting
from ancestral.likelihoods import Likelihood
from ancestral.objectives import Objective
from ancestral.posteriors import DiagonalPosterior, Posterior
from ancestral.scaling import Scaling
from ancestral.spec import DataSpec
from ancestral.summary import Summary


class MarkovHVAE(BottomUpChain):
    """The hierarchical VAE of the lecture notes: Gaussian laws between vectors, q from the data upwards.

    ``latent_dims`` are the sizes of z_1 … z_T. ``laws[i]``, by default a diagonal Gaussian, makes q of
    z_{i+1} from its ``outputs`` numbers: those of ``encoder`` for z_1, and those of ``ups[i − 1]``, which
    reads z_i, for the others. ``downs[i]`` gives p(z_{i+1}|z_{i+2}), twice the size of its latent;
    ``decoder`` maps z_1 to what ``likelihood`` reads.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        ups: Sequence[nn.Module],
        downs: Sequence[nn.Module],
        likelihood: Likelihood,
        scaling: Scaling,
        spec: DataSpec,
        latent_dims: Sequence[int],
        laws: Sequence[Posterior] | None = None,
        reweighting: Reweighting = Reweighting(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
    ) -> None:
        super().__init__(len(latent_dims), spec, reweighting=reweighting, objective=objective)
        at_least_two_levels(self.T)
        if not len(ups) == len(downs) == self.T - 1:
            raise ValueError(
                f"{len(ups)} ups and {len(downs)} downs for T = {self.T} levels; there must be T − 1 of each."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.ups = nn.ModuleList(ups)
        self.downs = nn.ModuleList(downs)
        self.likelihood = likelihood
        self.scaling = scaling
        self.latent_dims = tuple(latent_dims)
        self.laws = _laws(laws, self.latent_dims)

    @property
    def discrete(self) -> bool:
        """Whether the likelihood is a law over integers."""
        return self.likelihood.discrete

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        return Summary(
            inference="variational inference",
            posterior=f"{_families(self.laws)}, bottom-up",
            likelihood=self.likelihood.name,
        )

    def features(self, x: Tensor) -> Tensor:
        """What q(z_1|x) is made from, (n, laws[0].outputs)."""
        out: Tensor = self.encoder(self.scaling.centred(x))
        return out

    def q_first(self, h: Features) -> Distribution:
        """q(z_1|x)."""
        law: Distribution = self.laws[0](h)
        return law

    def q_up(self, z: Tensor, t: int) -> Distribution:
        """q(z_t|z_{t−1})."""
        law: Distribution = self.laws[t - 1](self.ups[t - 2](z))
        return law

    def p_top(self, n: int) -> Distribution:
        """p(z_T) = N(0, I)."""
        return standard_normal(n, (self.latent_dims[-1],), self.scaling.shift)

    def p_step(self, state: Any, t: int) -> Distribution:
        """p(z_{t−1}|z_t), or p(x|z_1) for t = 1."""
        if t == 1:
            law: Distribution = self.likelihood(self.decoder(state))
            return law
        return gaussian(self.downs[t - 2](state))


@dataclass(frozen=True)
class Stream:
    """What a ladder hands down beside the law it has just read: the stream, and p's law of the next z."""

    stream: Tensor
    """(n, width, …), a deterministic function of all the latents above."""
    prior: DiagonalNormal | None
    """p(z_{t−1}|z_{≥t}), which q's law refines; None below the last level."""


class LadderHVAE(Chain):
    """The hierarchical VAE whose q shares the generative path, with a deterministic stream beside z.

    Level t's q starts from p's own law of z_{t−1} and moves it by what the data say:
    q = N( mu_p + sigma_p Δmu, (sigma_p e^{Δ})² ), so that a level is dead exactly where Δmu = Δ = 0. With
    another of ``posteriors``, the noise of that law is mixed or bent.

    ``bottom_up`` gives T features, nearest the data first; ``posteriors[i]``, ``laws[i]``, which makes q from
    its output, and ``top_downs[i]`` belong to z_{i+1}; ``priors[i]`` reads p(z_{i+1}|…) off the stream, for
    all but the top level;
    ``head`` maps the last stream to what ``likelihood`` reads. ``stream_shape`` and ``latent_shapes``
    are per-example shapes, of the stream at the top and of z_1 … z_T.
    """

    def __init__(
        self,
        bottom_up: nn.Module,
        head: nn.Module,
        *,
        posteriors: Sequence[nn.Module],
        top_downs: Sequence[nn.Module],
        priors: Sequence[nn.Module],
        likelihood: Likelihood,
        scaling: Scaling,
        spec: DataSpec,
        stream_shape: tuple[int, ...],
        latent_shapes: Sequence[tuple[int, ...]],
        laws: Sequence[Posterior] | None = None,
        reweighting: Reweighting = Reweighting(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
    ) -> None:
        super().__init__(len(latent_shapes), spec, reweighting=reweighting, objective=objective)
        at_least_two_levels(self.T)
        if not len(posteriors) == len(top_downs) == len(priors) + 1 == self.T:
            raise ValueError(
                f"{len(posteriors)} posteriors, {len(top_downs)} top_downs and {len(priors)} priors for "
                f"T = {self.T} levels; there must be T, T and T − 1 of them."
            )
        self.bottom_up = bottom_up
        self.head = head
        self.posteriors = nn.ModuleList(posteriors)
        self.top_downs = nn.ModuleList(top_downs)
        self.priors = nn.ModuleList(priors)
        self.likelihood = likelihood
        self.scaling = scaling
        self.start = nn.Parameter(torch.zeros(stream_shape))
        self.latent_shapes = [tuple(shape) for shape in latent_shapes]
        self.laws = _laws(laws, [shape[0] for shape in self.latent_shapes])

    @property
    def discrete(self) -> bool:
        """Whether the likelihood is a law over integers."""
        return self.likelihood.discrete

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        spatial = any(len(shape) > 1 for shape in self.latent_shapes)
        return Summary(
            inference="variational inference",
            posterior=f"{_families(self.laws, spatial=spatial)}, top-down",
            likelihood=self.likelihood.name,
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The bottom-up features of every level, nearest the data first."""
        out: list[Tensor] = self.bottom_up(self.scaling.centred(x))
        return out

    def p_top(self, n: int) -> DiagonalNormal:
        """p(z_T) = N(0, I)."""
        return standard_normal(n, self.latent_shapes[-1], self.start)

    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x)."""
        n = len(h[-1])
        stream = self.start.expand(n, *self.start.shape)
        law: Distribution = self.laws[-1](self.posteriors[-1](stream, h[-1]), self.p_top(n))
        return law

    def carry(self, state: Stream | None, z: Tensor, t: int) -> Stream:
        """The stream below level t, and the law of z_{t−1} that p reads off it."""
        above = self.start.expand(len(z), *self.start.shape) if state is None else state.stream
        stream = self.top_downs[t - 1](above, z)
        return Stream(stream, gaussian(self.priors[t - 2](stream)) if t > 1 else None)

    def q_step(self, state: Stream, h: Features, t: int) -> Distribution:
        """q(z_{t−1}|z_{≥t}, x)."""
        assert state.prior is not None
        change = self.posteriors[t - 2](state.stream, h[t - 2])
        law: Distribution = self.laws[t - 2](change, state.prior)
        return law

    def p_step(self, state: Stream, t: int) -> Distribution:
        """p(z_{t−1}|z_{≥t}), or p(x|z_{≥1}) for t = 1."""
        if t == 1:
            law: Distribution = self.likelihood(self.head(state.stream))
            return law
        assert state.prior is not None
        return state.prior


def _laws(laws: Sequence[Posterior] | None, latents: Sequence[int]) -> nn.ModuleList:
    """The laws of z_1 … z_T, diagonal where none are given."""
    made = [DiagonalPosterior(latent) for latent in latents] if laws is None else list(laws)
    if [law.latent for law in made] != list(latents):
        raise ValueError(
            f"laws are over {[law.latent for law in made]} entries, and z_1 … z_T have {list(latents)}; give "
            "one for each level, of its size."
        )
    return nn.ModuleList(made)


def _families(laws: Iterable[nn.Module], *, spatial: bool = False) -> str:
    """What the families of q are called, level by level where they differ.

    ``spatial`` latents have a distribution at each position: entries of different positions are independent.
    """
    names = [str(law.name) for law in laws]
    if len(set(names)) > 1:
        return ", ".join(f"z_{t} {name}" for t, name in enumerate(names, 1))
    joint = spatial and not all(isinstance(law, DiagonalPosterior) for law in laws)
    return f"{names[0]} per level{' and position' if joint else ''}"


def at_least_two_levels(T: int) -> None:
    """A hierarchy has at least two levels; one is a VAE."""
    if T < 2:
        raise ValueError(f"{T} latent level(s); a hierarchical VAE has at least 2. For one level, use a VAE.")
