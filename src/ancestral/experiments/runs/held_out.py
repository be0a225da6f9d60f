"""The held-out ELBO as training goes on: comparable from one evaluation to the next, and the best of it.

Each evaluation is of the same validation examples at the same noise levels with the same random numbers, so the
difference between two of them has a far smaller error than either. The test part is never used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ancestral._internal.randomness import mixed
from ancestral.bounds import Bound, Estimate, PathBound, SampledLevelsBound, SweepBound
from ancestral.config import TrainingConfig
from ancestral.core.chain import Chain
from ancestral.data import Split
from ancestral.evaluation.evaluation import summarised
from ancestral.evaluation.loop import bounded

EXAMPLES = 500
"""Most validation examples of an evaluation; the final figure is ``evaluate``'s, over all."""
_SEED = 5
"""Keeps the random numbers apart from those of training."""
_SHARE = 0.05
"""Network calls of an evaluation, in those of the training steps between two of them."""
_CALLS_PER_EXAMPLE = 3
"""A training step calls the network once, and its backward pass costs two calls more."""
_BF16 = {"cpu": 2.0, "cuda": 4.0}
"""By device: about how much faster training is in bf16 than evaluation, which is always in fp32."""
_LEAST_LEVELS = 8
_MOST_SAMPLES = 16
_PER_LEVEL = 1.25
"""Calls of a random level: four share one of p(x|z_1)."""
_ERRORS = 2.0
"""Paired standard errors below the best from which an evaluation counts as worse."""


class HeldOut:
    """Evaluates a chain on its validation part, and remembers the best evaluation example by example."""

    def __init__(
        self, chain: Chain, split: Split, training: TrainingConfig, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """For training as ``training`` says, whose networks compute in ``dtype``."""
        self.seed = mixed(training.seed, _SEED)
        self.examples = split.some(EXAMPLES)
        every = training.evaluate_every or training.steps
        device = next(chain.parameters()).device.type
        faster = 1.0 if dtype == torch.float32 else _BF16.get(device, 1.0)
        work = _SHARE * _CALLS_PER_EXAMPLE * every * training.batch_size / faster
        self.bound = held_out_bound(chain, calls=work / len(self.examples))
        self.tracks = training.evaluate_every > 0
        """Whether there is a best: not where the only evaluation is the last."""
        self.best_step: int | None = None
        self.best: Tensor | None = None
        """The ELBO of each example at ``best_step``, (n,) float32."""
        self.worse = 0
        """Successive evaluations, up to the last, that were worse than the best."""

    def improved_at(self, step: int) -> bool:
        """Whether the evaluation after ``step`` steps, if there was one, is the best one."""
        return self.best_step == step

    def look(self, chain: Chain, step: int) -> dict[str, Any]:
        """Evaluate ``chain``, which has taken ``step`` steps; the values of a validation record.

        ``best`` says at which step the held-out ELBO was best, this one included, by how much this one is
        above it (0 or less) with the paired standard error, and whether it is worse by more than two of them.
        """
        (found,) = bounded(chain, self.examples, [self.bound], seed=self.seed)
        values = summarised(chain, found).json()
        del values["seconds"]
        values["best"] = self._judge(found.found.nats.float().cpu(), step) if self.tracks else None
        return values

    def _judge(self, nats: Tensor, step: int) -> dict[str, Any] | None:
        mean = float(nats.double().mean())
        if math.isfinite(mean) and (self.best is None or mean > float(self.best.double().mean())):
            self.best, self.best_step = nats, step
        if self.best is None:
            return None
        difference = Estimate.of(nats.double() - self.best.double())
        # An ELBO that is not a number is worse than any. The error of a single example is not known.
        worse = len(nats) > 1 and not difference.mean >= -_ERRORS * difference.stderr
        self.worse = self.worse + 1 if worse else 0
        return {"step": self.best_step, "difference": difference.json(), "worse": worse}

    # In a checkpoint -----------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores beside ``facts``."""
        return {} if self.best is None else {"held_out/best": self.best}

    def facts(self) -> dict[str, Any]:
        """The rest, ready for JSON."""
        return {"best_step": self.best_step, "worse": self.worse}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """As it was when the checkpoint was written; a checkpoint of an earlier version leaves it as new."""
        best = tensors.get("held_out/best")
        if best is not None and len(best) == len(self.examples):
            self.best, self.best_step, self.worse = best, facts["best_step"], facts["worse"]


def held_out_bound(chain: Chain, *, calls: float) -> Bound:
    """The ELBO from about ``calls`` network calls per example, from the same levels whatever the weights."""
    if not chain.single_levels:
        return PathBound(_clamped(calls, 1, _MOST_SAMPLES))
    levels = _clamped(calls / _PER_LEVEL, _LEAST_LEVELS, 1 << 20)
    if chain.continuous or levels < chain.T:
        # Importance would draw other levels for other weights.
        return SampledLevelsBound(levels, "low-discrepancy")
    return SweepBound(_clamped(calls / chain.T, 1, _MOST_SAMPLES))


def _clamped(value: float, low: int, high: int) -> int:
    return max(low, min(high, int(value)))
