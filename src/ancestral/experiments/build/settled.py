"""Options whose defaults depend on the data: what they are for these data.

A run's config.json has the numbers, so a run and a recipe keep theirs when the defaults change. How they were
measured: docs/decisions/robust-defaults.md.
"""

from __future__ import annotations

import dataclasses

from ancestral.config import (
    LEARNING_RATE,
    MIXED,
    DDPMConfig,
    HVAEConfig,
    ModelConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.core.spec import DataSpec
from ancestral.experiments.build.parts import likelihood_kind

DROPOUT = {VAEConfig.kind: 0.2, HVAEConfig.kind: 0.2, DDPMConfig.kind: 0.1}
"""Of the channels of convolutional networks, by model, where there are fewer than ``FEW`` training examples."""
VECTOR_DROPOUT = 0.2
"""Of the units of residual networks on vectors there: ladders and diffusion models. A plain mlp loses by it."""
FEW = 10_000
EPOCHS = 150
"""Over which training may take its full rate before its cosine decay: beyond them the rate is lower."""
DIFFUSION_EPOCHS = 200
"""The same for a diffusion model, which sees an example at another level and with new noise each time."""
STEPS = 1500
"""Over which it may in any case: fewer teach a network too little, however few the examples are."""


def settled_training(training: TrainingConfig, n: int, *, diffusion: bool) -> TrainingConfig:
    """The options of training on ``n`` examples with a number for the learning rate.

    An optimiser of Adam's kind moves a weight by about the rate in each step, whatever the loss is, so the rate
    falls in proportion where there are more steps.
    """
    if training.learning_rate is not None:
        return training
    epochs = DIFFUSION_EPOCHS if diffusion else EPOCHS
    full = max(epochs * n / training.batch_size, STEPS)
    rate = LEARNING_RATE * min(1.0, full / training.steps)
    return dataclasses.replace(training, learning_rate=float(f"{rate:.3g}"))


def settled(config: ModelConfig, spec: DataSpec, n: int | None) -> ModelConfig:
    """The options with numbers for those that follow from ``n`` training examples of ``spec``.

    Without ``n``, as where weights are loaded afterwards, they are 0.
    """
    if config.dropout is None:
        config = dataclasses.replace(config, dropout=_dropout(config, spec, n))
    if isinstance(config, DDPMConfig):
        return config
    likelihood = config.likelihood
    if likelihood.uniform is None and likelihood_kind(likelihood, spec) in MIXED:
        # Laplace's rule: what was not seen in n examples has the probability 1 / (n + 1) or less.
        uniform = 0.0 if n is None else 1.0 / (n + 1)
        config = dataclasses.replace(config, likelihood=dataclasses.replace(likelihood, uniform=uniform))
    return config


def _dropout(config: ModelConfig, spec: DataSpec, n: int | None) -> float:
    if n is None or n >= FEW or _twice(config):
        return 0.0
    if not spec.is_image:
        ladder = isinstance(config, HVAEConfig) and config.posterior == "top-down"
        return VECTOR_DROPOUT if ladder or isinstance(config, DDPMConfig) else 0.0
    return 0.0 if config.network in ("mlp", "transformer") else DROPOUT[config.kind]


def _twice(config: ModelConfig) -> bool:
    """Whether training computes the distributions of q twice, which must drop the same units then."""
    if isinstance(config, DDPMConfig):
        return False
    return config.objective == "dreg" or config.backward_samples is not None
