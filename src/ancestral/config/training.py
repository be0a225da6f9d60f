"""Options of training, and where and how anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral._internal import checks
from ancestral.config.strict import ABSENT, STRICT

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Compile = Literal["auto", "on", "off"]
Optimizer = Literal["adamw", "muon", "soap"]


LEARNING_RATE = 2e-3
"""The peak of the rate where the data do not ask for less."""
PATIENCE = 3
"""What --stop-early means without a number."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a chain is trained. Counts are in steps of one batch."""

    steps: int = 3000
    """Optimiser steps in all."""
    batch_size: int = 128
    """Examples per step."""
    seed: int = 0
    """Decides the initial weights, the data order and every random draw."""
    learning_rate: float | None = None
    """Peak of the rate, after the warm-up and before the cosine decay to 0. By default 0.002, and less where the
    steps are many epochs, so that the weights do not move far enough to memorise the training examples."""
    warmup: int = 100
    """Steps over which the rate rises from 0 (at most a tenth of all steps)."""
    optimizer: Optimizer = "adamw"
    """adamw; or one that takes matrices and kernels in steps of its own and leaves the rest to AdamW: muon,
    of orthogonalised momentum, with which convolutional models get further in as many steps at the same
    rate; soap, Adam's in the bases of the gradients' covariances, with which mlps do."""
    weight_decay: float = 0.01
    """Decoupled from the gradient, of matrices and kernels."""
    clip: float = 1.0
    """Largest norm of the gradient of the loss per dimension; larger ones are scaled down to it."""
    skip: float = 0.0
    """Norm of that gradient above which a step is left out, and counted: weights, moments and average stay
    what they were. 0: no step is."""
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is evaluated; ramped up from 0. 0 for none."""
    precision: Precision = "auto"
    """Of the networks in training: auto is bf16 where the hardware multiplies it faster. Laws,
    likelihoods and evaluation are fp32 always."""
    compile: Compile = "auto"
    """Compile the loss and its gradient into one graph: auto does in runs that are long enough to win back
    the minute that it takes, but for convolutions on a CPU, which gain little."""
    recompute: bool = False
    """Gradient checkpointing: blocks keep their inputs only and are computed again in the backward pass: the
    same gradients for less memory and one forward pass more. A plain mlp has no blocks."""
    log_every: int = 50
    """Steps between records of the loss."""
    evaluate_every: int = 500
    """Steps between held-out ELBOs (0: only at the end)."""
    sample_every: int = 1000
    """Steps between grids of samples (0: only at the end)."""
    checkpoint_every: int = 500
    """Steps between checkpoints (0: only at the end)."""
    keep: int = 2
    """Checkpoints stored: this number of the newest, and the one with the best held-out ELBO."""
    stop_early: int = field(default=0, metadata={ABSENT: 0})
    """Stop when this number of successive held-out ELBOs were each worse than the best by more than two
    standard errors of the paired difference; 0 for never. --stop-early without a number means 3. A run that
    stopped early can be resumed, and then takes all its steps."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("batch_size", self.batch_size, low=1)
        checks.integer("seed", self.seed, low=0, high=2**63 - 1)
        if self.learning_rate is not None:
            checks.number("learning_rate", self.learning_rate, above=0.0, high=10.0)
        checks.integer("warmup", self.warmup, low=0)
        checks.one_of("optimizer", self.optimizer, get_args(Optimizer))
        checks.number("weight_decay", self.weight_decay, low=0.0)
        checks.number("clip", self.clip, above=0.0)
        checks.number("skip", self.skip, low=0.0)
        checks.number("ema", self.ema, low=0.0, below=1.0)
        checks.one_of("precision", self.precision, get_args(Precision))
        checks.one_of("compile", self.compile, get_args(Compile))
        if not isinstance(self.recompute, bool):
            raise ValueError(f"recompute is {self.recompute!r}; it must be true or false.")
        checks.integer("log_every", self.log_every, low=1)
        checks.integer("evaluate_every", self.evaluate_every, low=0)
        checks.integer("sample_every", self.sample_every, low=0)
        checks.integer("checkpoint_every", self.checkpoint_every, low=0)
        checks.integer("keep", self.keep, low=1)
        checks.integer("stop_early", self.stop_early, low=0)
        if self.stop_early and not self.evaluate_every:
            raise ValueError(
                f"stop_early is {self.stop_early} and evaluate_every is 0, so nothing is evaluated before the "
                "end; give evaluate_every as well."
            )

    @property
    def peak_rate(self) -> float:
        """The learning rate, or its default where no data have settled it."""
        return LEARNING_RATE if self.learning_rate is None else self.learning_rate
