"""From a model's options and what one example is, to a chain: the one place that chooses networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ancestral.chain import Chain
from ancestral.config import (
    DDPMConfig,
    HVAEConfig,
    LikelihoodConfig,
    ModelConfig,
    VAEConfig,
)
from ancestral.config.autoencoders import SHALLOW
from ancestral.diffusion import DDPM, ContinuousDDPM, LearnedSchedule, LogLinear
from ancestral.diffusion.noising import Gamma
from ancestral.elbo import Reweighting
from ancestral.flows import Flow
from ancestral.hierarchical import LadderHVAE, MarkovHVAE
from ancestral.likelihoods import (
    BernoulliLikelihood,
    DiscretizedGaussianLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from ancestral.networks import MLP, ConvDecoder, ConvEncoder, Fourier, TimeMLP, Transformer, UNet
from ancestral.networks.deep_ladder import Plan, deep_parts
from ancestral.networks.fourier import widened
from ancestral.networks.ladder import VECTOR, Parts, basic_parts, level_sizes
from ancestral.posteriors import DiagonalPosterior, FlowPosterior, FullPosterior, Posterior
from ancestral.scaling import Scaling
from ancestral.schedules import Schedule
from ancestral.spec import DataSpec
from ancestral.vae import VAE

CONTINUOUS_STEPS = 1000
"""Levels that a chain of continuous time is sampled at by default."""


def build_chain(
    config: ModelConfig, spec: DataSpec, *, train: Tensor | Iterable[Tensor] | None = None
) -> Chain:
    """The chain that ``config`` describes, for data of ``spec``, with fresh weights.

    ``train``, (n, *shape), whole or in pieces, are the training examples as the model sees them
    (``Dataset.seen``): they set the standardisation and the centre. Leave it out where weights, which carry
    these, are loaded afterwards. Weights are drawn with torch's global generator.
    """
    scaling = Scaling(spec)
    if train is not None:
        scaling.fit(train)
    if isinstance(config, VAEConfig):
        return _vae(config, spec, scaling)
    if isinstance(config, HVAEConfig):
        return (
            _ladder(config, spec, scaling)
            if config.posterior == "top-down"
            else _markov(config, spec, scaling)
        )
    return _ddpm(config, spec, scaling)


def build_likelihood(config: LikelihoodConfig, spec: DataSpec, scaling: Scaling) -> Likelihood:
    """The law p(x|z) that the options name, or the one that fits the data for "auto"."""
    kind = config.kind
    if kind == "auto":
        kind = "gaussian" if spec.levels is None else "discretized-logistic"
        kind = "bernoulli" if spec.levels == 2 else kind
    if kind == "bernoulli":
        return BernoulliLikelihood(spec, scaling)
    sigma = config.sigma
    if sigma == "auto":
        sigma = "per-pixel" if spec.levels is None else "predicted"
    if kind == "gaussian":
        return GaussianLikelihood(spec, scaling, sigma=sigma, value=config.value)
    if kind == "discretized-gaussian":
        return DiscretizedGaussianLikelihood(spec, scaling, sigma=sigma, value=config.value)
    return DiscretizedLogisticLikelihood(spec, scaling, sigma=sigma, value=config.value)


def build_posterior(config: VAEConfig | HVAEConfig, latent: int) -> Posterior:
    """The family of q's law over a latent of this size (channels, for images) that the options name."""
    if config.q == "diagonal":
        return DiagonalPosterior(latent)
    if config.q == "full":
        return FullPosterior(latent)
    own, bins = config.flow, config.flow.bins or 8
    flow = Flow(config.q, latent, own.context, transforms=own.transforms, hidden=own.hidden, bins=bins)
    return FlowPosterior(latent, flow)


def _encoder(
    config: VAEConfig | HVAEConfig, spec: DataSpec, out: int, *, hidden: tuple[int, ...], conv: bool
) -> nn.Module:
    if conv:
        channels, height, width = spec.shape
        return ConvEncoder(channels, (height, width), out, width=config.width, dropout=config.dropout)
    return nn.Sequential(nn.Flatten(), _mlp(config, spec.dims, out, hidden))


def _decoder(
    config: VAEConfig | HVAEConfig,
    spec: DataSpec,
    latent: int,
    *,
    per_entry: int,
    hidden: tuple[int, ...],
    conv: bool,
) -> nn.Module:
    if conv:
        channels, height, width = spec.shape
        return ConvDecoder(
            latent, per_entry * channels, (height, width), width=config.width, dropout=config.dropout
        )
    return _mlp(config, latent, per_entry * spec.dims, hidden[::-1])


def _mlp(config: VAEConfig | HVAEConfig, n_in: int, n_out: int, hidden: tuple[int, ...]) -> MLP:
    return MLP(n_in, n_out, hidden=hidden, activation=config.activation, dropout=config.dropout)


def _is_conv(config: VAEConfig | HVAEConfig, spec: DataSpec) -> bool:
    """Whether the networks next to the data are convolutional."""
    if config.network == "conv" and not spec.is_image:
        raise ValueError("network is 'conv' and the data are vectors; use network mlp (or auto).")
    return spec.is_image and config.network != "mlp"


def _reweighting(config: VAEConfig | HVAEConfig) -> Reweighting:
    balance = isinstance(config, HVAEConfig) and config.kl_balance
    return Reweighting(config.beta, config.free_bits, config.kl_warmup, balance)


def _vae(config: VAEConfig, spec: DataSpec, scaling: Scaling) -> VAE:
    conv = _is_conv(config, spec)
    latent = config.latent_dims or (32 if spec.is_image else spec.dims)
    likelihood = build_likelihood(config.likelihood, spec, scaling)
    posterior = build_posterior(config, latent)
    return VAE(
        _encoder(config, spec, posterior.outputs, hidden=config.hidden, conv=conv),
        _decoder(config, spec, latent, per_entry=likelihood.per_entry, hidden=config.hidden, conv=conv),
        likelihood=likelihood,
        scaling=scaling,
        spec=spec,
        latent_dims=latent,
        posterior=posterior,
        reweighting=_reweighting(config),
        training_samples=config.training_samples,
        objective=config.objective,
    )


def _per_level(config: HVAEConfig, default: tuple[int, ...]) -> list[int]:
    sizes = config.latent_dims or default
    return list(sizes) * config.levels if len(sizes) == 1 else list(sizes)


def _markov(config: HVAEConfig, spec: DataSpec, scaling: Scaling) -> MarkovHVAE:
    first = 32 if spec.is_image else spec.dims
    # Each level half the size of the one below, as in a ladder of abstractions.
    dims = _per_level(config, tuple(max(first >> level, 2) for level in range(config.levels)))
    likelihood = build_likelihood(config.likelihood, spec, scaling)
    laws = [build_posterior(config, latent) for latent in dims]
    hidden = config.hidden if config.first_hidden is None else config.first_hidden
    conv = _is_conv(config, spec)
    return MarkovHVAE(
        _encoder(config, spec, laws[0].outputs, hidden=hidden, conv=conv),
        _decoder(config, spec, dims[0], per_entry=likelihood.per_entry, hidden=hidden, conv=conv),
        ups=[_mlp(config, low, laws[i].outputs, config.hidden) for i, low in enumerate(dims[:-1], 1)],
        downs=[_mlp(config, high, 2 * low, config.hidden) for low, high in itertools.pairwise(dims)],
        likelihood=likelihood,
        scaling=scaling,
        spec=spec,
        latent_dims=dims,
        laws=laws,
        reweighting=_reweighting(config),
        training_samples=config.training_samples,
        objective=config.objective,
    )


def _ladder(config: HVAEConfig, spec: DataSpec, scaling: Scaling) -> LadderHVAE:
    likelihood = build_likelihood(config.likelihood, spec, scaling)
    latents = _per_level(config, (8,) if spec.is_image else (max(spec.dims // config.levels, 2),))
    laws = [build_posterior(config, latent) for latent in latents]
    said = [law.outputs for law in laws]
    parts = _ladder_parts(config, spec, likelihood.per_entry * spec.shape[0], latents=latents, said=said)
    chain = LadderHVAE(
        parts.bottom_up,
        parts.head,
        posteriors=parts.posteriors,
        top_downs=parts.top_downs,
        priors=parts.priors,
        likelihood=likelihood,
        scaling=scaling,
        spec=spec,
        stream_shape=tuple(parts.start.shape),
        latent_shapes=parts.latent_shapes,
        laws=laws,
        reweighting=_reweighting(config),
        training_samples=config.training_samples,
        objective=config.objective,
    )
    chain.start.data.copy_(parts.start)
    return chain


def _ladder_parts(
    config: HVAEConfig, spec: DataSpec, outputs: int, *, latents: Sequence[int], said: Sequence[int]
) -> Parts:
    if not spec.is_image and (config.block == "bottleneck" or config.levels_per_size is not None):
        name = "block is 'bottleneck'" if config.block == "bottleneck" else "levels_per_size is given"
        raise ValueError(f"{name} and the data are vectors, which have no sizes; leave it out.")
    size, sizes = VECTOR, [VECTOR] * config.levels
    if spec.is_image:
        size = (spec.shape[1], spec.shape[2])
        sizes = level_sizes(size, config.levels, per_size=config.levels_per_size)
    deep = spec.is_image and config.block == "auto" and config.levels > SHALLOW
    if deep or config.block == "bottleneck":
        plan = Plan.of(size, sizes, width=config.width, blocks=config.blocks, dropout=config.dropout)
        return deep_parts(spec.shape[0], outputs, plan=plan, latents=latents, said=said)
    return basic_parts(
        spec.shape[0],
        outputs,
        size=size,
        sizes=sizes,
        latents=latents,
        said=said,
        width=config.width,
        blocks=config.blocks,
        dropout=config.dropout,
    )


def build_schedule(config: DDPMConfig, spec: DataSpec) -> Schedule | Gamma:
    """The noise schedule that the options name; for continuous T its function."""
    first = config.first_log_snr
    if first is None:
        # Data in [-1, 1] have levels 2 / (levels - 1) apart; at log-SNR l the noise is about e^(-l/2) wide.
        # Few levels are further apart than the data are wide, and want less noise than that.
        first = 9.0 if spec.levels is None else max(2.0 * math.log((spec.levels - 1) / 2.0), 2.5)
    T = CONTINUOUS_STEPS if config.T == "continuous" else config.T
    if config.schedule == "learned":
        return LearnedSchedule(T, first=first, last=config.last_log_snr)
    if config.T == "continuous":
        if config.schedule != "log-linear":
            raise ValueError(
                f"T is continuous and schedule is {config.schedule!r}, which is one of whole levels. Use "
                "schedule log-linear or learned, or a whole number for T."
            )
        return LogLinear(T, first=first, last=config.last_log_snr)
    if config.schedule == "linear":
        return Schedule.linear(T)
    if config.schedule == "cosine":
        return Schedule.cosine(T)
    if config.schedule == "sigmoid":
        return Schedule.sigmoid(T)
    return Schedule.log_linear(T, first=first, last=config.last_log_snr)


def _ddpm(config: DDPMConfig, spec: DataSpec, scaling: Scaling) -> DDPM:
    schedule = build_schedule(config, spec)
    network = _denoiser(config, spec, 2 if config.variance == "learned" else 1)
    if config.T == "continuous":
        if config.loss != "vlb":
            raise ValueError(
                f"T is continuous and loss is {config.loss!r}; in continuous time there is the bound only. "
                "Use loss vlb, or a whole number for T."
            )
        assert isinstance(schedule, Gamma)
        return ContinuousDDPM(
            network,
            schedule=schedule,
            scaling=scaling,
            spec=spec,
            prediction=config.prediction,
            variance=config.variance,
            sampling=config.sampling,
        )
    return DDPM(
        network,
        schedule=schedule,
        scaling=scaling,
        spec=spec,
        prediction=config.prediction,
        variance=config.variance,
        loss=config.loss,
        gamma=config.gamma,
        sampling=config.sampling,
    )


def _denoiser(config: DDPMConfig, spec: DataSpec, per_entry: int) -> nn.Module:
    """z and a time to ``per_entry`` outputs for each entry of z."""
    network = _denoiser_network(config, spec, per_entry)
    return Fourier(network, config.fourier) if config.fourier else network


def _denoiser_network(config: DDPMConfig, spec: DataSpec, per_entry: int) -> nn.Module:
    if not spec.is_image:
        if config.network == "transformer":
            raise ValueError(
                "network is 'transformer' and the data are vectors, which have a residual mlp; leave it out."
            )
        return TimeMLP(
            widened(spec.dims, config.fourier),
            per_entry * spec.dims,
            hidden=config.width,
            depth=config.blocks or 1,
            dropout=config.dropout,
        )
    channels, *size = spec.shape
    if config.network == "transformer":
        return Transformer(
            widened(channels, config.fourier),
            per_entry * channels,
            (size[0], size[1]),
            width=config.width,
            depth=config.blocks or 6,
            patch=config.patch or 2,
            heads=config.heads,
            positions=config.positions,
            dropout=config.dropout,
        )
    return UNet(
        widened(channels, config.fourier),
        per_entry * channels,
        (size[0], size[1]),
        channels=config.channels or ((48, 48) if max(size) < 16 else (32, 64, 64)),
        blocks=config.blocks or 1,
        attention=config.attention,
        heads=config.heads or 1,
        dropout=config.dropout,
    )
