"""The laws that options name: p(x|z_1) and the family of q."""

from __future__ import annotations

from ancestral.config import HVAEConfig, LikelihoodConfig, LikelihoodName, VAEConfig
from ancestral.core.spec import DataSpec
from ancestral.distributions.flow import NormalizingFlow
from ancestral.parts.likelihoods import (
    BernoulliLikelihood,
    DiscretizedGaussianLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from ancestral.parts.posteriors import DiagonalPosterior, FlowPosterior, FullPosterior, Posterior
from ancestral.parts.scaling import Scaling


def build_likelihood(config: LikelihoodConfig, spec: DataSpec, scaling: Scaling) -> Likelihood:
    """The law p(x|z) that the options name, or the one that fits the data for "auto"."""
    kind = likelihood_kind(config, spec)
    uniform = config.uniform or 0.0
    if config.kind == "auto" and kind == "bernoulli":
        config.refuse_sigma("the data have 2 levels, whose likelihood is bernoulli")
    if config.kind == "auto":
        config.refuse_uniform(kind)
    if kind == "bernoulli":
        return BernoulliLikelihood(spec, scaling)
    if kind == "logistic-mixture":
        return DiscretizedLogisticMixtureLikelihood(
            spec, scaling, components=config.components or 5, value=config.value, uniform=uniform
        )
    sigma = config.sigma
    if sigma == "auto":
        sigma = "per-pixel" if spec.levels is None else "predicted"
    if kind == "gaussian":
        return GaussianLikelihood(spec, scaling, sigma=sigma, value=config.value)
    if kind == "discretized-gaussian":
        return DiscretizedGaussianLikelihood(spec, scaling, sigma=sigma, value=config.value, uniform=uniform)
    return DiscretizedLogisticLikelihood(spec, scaling, sigma=sigma, value=config.value, uniform=uniform)


def likelihood_kind(config: LikelihoodConfig, spec: DataSpec) -> LikelihoodName:
    """The kind that the options name; for "auto" the one that fits the data."""
    if config.kind != "auto":
        return config.kind
    if spec.levels is None:
        return "gaussian"
    return "bernoulli" if spec.levels == 2 else "discretized-logistic"


def build_posterior(config: VAEConfig | HVAEConfig, latent: int) -> Posterior:
    """The family of q's law over a latent of this size (channels, for images) that the options name."""
    if config.q == "diagonal":
        return DiagonalPosterior(latent)
    if config.q == "full":
        return FullPosterior(latent)
    own, bins = config.flow, config.flow.bins or 8
    flow = NormalizingFlow(
        config.q, latent, own.context, transforms=own.transforms, hidden=own.hidden, bins=bins
    )
    return FlowPosterior(latent, flow)
