"""The chain that options name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ancestral.config import HVAEConfig, ModelConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.experiments.build.autoencoders import build_ladder, build_markov, build_vae
from ancestral.experiments.build.diffusion import build_ddpm
from ancestral.parts.scaling import Scaling
from ancestral.training.objective import build_objective


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
    chain = _built(config, spec, scaling)
    # Options that do not fit the chain raise here, before any training.
    build_objective(config, chain).check(chain)
    chain.config = config
    return chain


def _built(config: ModelConfig, spec: DataSpec, scaling: Scaling) -> Chain:
    if isinstance(config, VAEConfig):
        return build_vae(config, spec, scaling)
    if isinstance(config, HVAEConfig):
        return (
            build_ladder(config, spec, scaling)
            if config.posterior == "top-down"
            else build_markov(config, spec, scaling)
        )
    return build_ddpm(config, spec, scaling)
