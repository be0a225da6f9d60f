"""VAEs and hierarchical VAEs from their options."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from ancestral.config import HVAEConfig, VAEConfig
from ancestral.config.autoencoders import SHALLOW
from ancestral.config.strict import refuse_unread
from ancestral.core.spec import DataSpec
from ancestral.experiments.build.parts import build_likelihood, build_posterior
from ancestral.models import LadderHVAE, MarkovHVAE
from ancestral.models.vae import VAE
from ancestral.networks import MLP, ConvDecoder, ConvEncoder
from ancestral.networks.deep_ladder import Plan, deep_parts
from ancestral.networks.ladder import VECTOR, Parts, basic_parts, level_sizes
from ancestral.parts.scaling import Scaling


def _encoder(
    config: VAEConfig | HVAEConfig, spec: DataSpec, out: int, *, hidden: tuple[int, ...], conv: bool
) -> nn.Module:
    if conv:
        channels, height, width = spec.shape
        return ConvEncoder(channels, (height, width), out, width=config.width, dropout=config.dropout or 0.0)
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
            latent, per_entry * channels, (height, width), width=config.width, dropout=config.dropout or 0.0
        )
    return _mlp(config, latent, per_entry * spec.dims, hidden[::-1])


def _mlp(config: VAEConfig | HVAEConfig, n_in: int, n_out: int, hidden: tuple[int, ...]) -> MLP:
    return MLP(n_in, n_out, hidden=hidden, activation=config.activation, dropout=config.dropout or 0.0)


def _is_conv(config: VAEConfig | HVAEConfig, spec: DataSpec) -> bool:
    """Whether the networks next to the data are convolutional. Refuses what they would not read."""
    if config.network == "conv" and not spec.is_image:
        raise ValueError("network is 'conv' and the data are vectors; use network mlp (or auto).")
    if not spec.is_image:
        refuse_unread(config, ("width",), where="the data are vectors, whose network is an mlp")
    elif config.network == "auto" and min(spec.shape[1:]) < 2:
        refuse_unread(config, ("width",), where="the images have a side of 1, and their network is an mlp")
        return False
    elif config.network == "mlp":
        refuse_unread(config, ("width",), where="network is 'mlp'", instead="network conv")
    else:
        # Between the levels of a hierarchical one there are mlps in any case.
        own = ("hidden", "activation") if isinstance(config, VAEConfig) else ("first_hidden",)
        where = f"network is {config.network!r}" + (", for images conv" * (config.network == "auto"))
        refuse_unread(config, own, where=where, instead="network mlp")
    return spec.is_image and config.network != "mlp"


def build_vae(config: VAEConfig, spec: DataSpec, scaling: Scaling) -> VAE:
    """A VAE."""
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
    )


def _per_level(config: HVAEConfig, default: tuple[int, ...]) -> list[int]:
    sizes = config.latent_dims or default
    return list(sizes) * config.levels if len(sizes) == 1 else list(sizes)


def build_markov(config: HVAEConfig, spec: DataSpec, scaling: Scaling) -> MarkovHVAE:
    """A hierarchical VAE with q from the data upwards."""
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
    )


def build_ladder(config: HVAEConfig, spec: DataSpec, scaling: Scaling) -> LadderHVAE:
    """A hierarchical VAE whose q shares the generative path."""
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
        if size == (1, 1):
            raise ValueError(
                "images of a single pixel have no sizes for a ladder; use posterior bottom-up, or store them as "
                "vectors: floats of shape (N, D)."
            )
        sizes = level_sizes(size, config.levels, per_size=config.levels_per_size)
    deep = spec.is_image and config.block == "auto" and config.levels > SHALLOW
    if deep or config.block == "bottleneck":
        plan = Plan.of(size, sizes, width=config.width, blocks=config.blocks, dropout=config.dropout or 0.0)
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
        dropout=config.dropout or 0.0,
    )
