"""Every option of a run, typed, with its default and its bounds: the one place they are stated.

Plain frozen dataclasses: the command line is generated from them, config.json is a dump of them, and
nothing here imports torch, so help texts come at once. ``build.build_chain`` turns a model's options
into a chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from ancestral.config.autoencoders import (
    Activation,
    FlowConfig,
    HVAEConfig,
    LadderBlock,
    Network,
    ObjectiveName,
    Posterior,
    Q,
    VAEConfig,
)
from ancestral.config.data import Augmentation, Binarize, DataConfig
from ancestral.config.diffusion import (
    DDPMConfig,
    DiffusionLoss,
    ImageNetwork,
    Positions,
    Prediction,
    Sampling,
    ScheduleName,
    Variance,
)
from ancestral.config.likelihood import Likelihood, LikelihoodConfig, Sigma
from ancestral.config.training import Compile, Device, Precision, TrainingConfig

__all__ = [
    "MODELS",
    "Activation",
    "Augmentation",
    "Binarize",
    "Compile",
    "DDPMConfig",
    "DataConfig",
    "Device",
    "DiffusionLoss",
    "FlowConfig",
    "HVAEConfig",
    "ImageNetwork",
    "LadderBlock",
    "Likelihood",
    "LikelihoodConfig",
    "ModelConfig",
    "Network",
    "ObjectiveName",
    "Positions",
    "Posterior",
    "Precision",
    "Prediction",
    "Q",
    "RunConfig",
    "Sampling",
    "ScheduleName",
    "Sigma",
    "TrainingConfig",
    "VAEConfig",
    "Variance",
]

ModelConfig = VAEConfig | HVAEConfig | DDPMConfig
MODELS: dict[str, type[VAEConfig] | type[HVAEConfig] | type[DDPMConfig]] = {
    config.kind: config for config in (VAEConfig, HVAEConfig, DDPMConfig)
}


@dataclass(frozen=True)
class RunConfig:
    """All of a run: what ``config.json`` holds."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
