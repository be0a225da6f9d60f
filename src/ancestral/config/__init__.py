"""Every option of a run, typed, with its default and its bounds: the one place they are stated.

Plain frozen dataclasses: the command line is generated from them, config.json is a dump of them, and
nothing here imports torch, so help texts come at once. ``build.build_chain`` turns a model's options
into a chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from ancestral.config.autoencoders import (
    Activation,
    Direction,
    FlowConfig,
    HVAEConfig,
    LadderBlock,
    Network,
    ObjectiveName,
    Q,
    VAEConfig,
)
from ancestral.config.data import Augmentation, Binarize, DataConfig
from ancestral.config.diffusion import (
    DDPMConfig,
    DiffusionLoss,
    ImageNetwork,
    LevelSampling,
    Positions,
    PredictionName,
    ScheduleName,
    VarianceName,
)
from ancestral.config.likelihood import MIXED, LikelihoodConfig, LikelihoodName, Sigma
from ancestral.config.training import LEARNING_RATE, PATIENCE, Compile, Device, Precision, TrainingConfig

__all__ = [
    "LEARNING_RATE",
    "MIXED",
    "MODELS",
    "PATIENCE",
    "Activation",
    "Augmentation",
    "Binarize",
    "Compile",
    "DDPMConfig",
    "DataConfig",
    "Device",
    "DiffusionLoss",
    "Direction",
    "FlowConfig",
    "HVAEConfig",
    "ImageNetwork",
    "LadderBlock",
    "LevelSampling",
    "LikelihoodConfig",
    "LikelihoodName",
    "ModelConfig",
    "Network",
    "ObjectiveName",
    "Positions",
    "Precision",
    "PredictionName",
    "Q",
    "RunConfig",
    "ScheduleName",
    "Sigma",
    "TrainingConfig",
    "VAEConfig",
    "VarianceName",
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
