"""The training loop: a generator that yields a record after each step. The caller logs, evaluates and saves."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral._internal.allocator import keep_freed_memory
from ancestral._internal.randomness import own_randomness, reseed
from ancestral.config import TrainingConfig
from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.data import Dataset, feed_batches
from ancestral.training.gradient import Gradient, Note
from ancestral.training.order import DataOrder
from ancestral.training.state import TrainingState
from ancestral.training.stream import Stream

_STEP = 2
"""Keeps a step's random numbers apart from the data order's."""
_MANY = 0.1
"""Share of skipped steps above which ``note`` receives a warning."""
_LOST = 20
"""Skipped steps in a row after which a gradient that is not finite is no accident."""


class TrainingDiverged(RuntimeError):
    """A loss or gradient is no longer finite. ``step`` and ``term`` say where it was first seen."""

    def __init__(self, step: int, term: str) -> None:
        self.step = step
        self.term = term
        super().__init__(
            f"training diverged at step {step}: {term} is not finite. Leave steep steps out (skip, at "
            "some ten times the gradient's usual norm), lower the learning rate or the clip, lengthen the "
            "warm-up, or train in fp32."
        )


@dataclass(frozen=True)
class StepRecord:
    """One training step, as tensors that are still on the device: reading one waits for it."""

    step: int
    """Steps taken, this one included."""
    images_seen: int
    loss: Tensor
    """Scalar, in nats per example (or in the units of the named loss)."""
    terms: dict[str, Tensor]
    gradient_norm: Tensor
    """Of the loss per dimension, before clipping."""
    learning_rate: float
    skipped: Tensor | None
    """1.0 where the step was left out as its gradient was above ``skip``; None where no step ever is."""


def train(
    state: TrainingState, data: Dataset | Stream, *, note: Note = warnings.warn
) -> Generator[StepRecord, None, None]:
    """Train ``state`` up to ``config.steps``, on the training split or a stream's batches; yields after each step.

    Starts wherever ``state`` is. Every step seeds torch's generators from (seed, images seen), so what
    the caller draws between steps changes nothing; the caller's random state comes back at the end.
    Raises ``TrainingDiverged`` at the first loss or gradient that is not finite, before it reaches the
    weights on a CPU. On a GPU, where a check waits for the device, only the steps that
    ``looked_at`` names are checked. ``note`` receives a sentence when more than a tenth of the steps since
    the last record were skipped.
    """
    config, chain, device = state.config, state.chain, state.device
    check_fits(chain, data, config)
    gradient = Gradient(state, note=note)
    batches = data.batches(device) if isinstance(data, Stream) else _ordered(state, data)
    chain.train()
    if device.type == "cpu":
        keep_freed_memory()
    told = _Skips(state, note)
    with own_randomness(device), contextlib.closing(batches):
        while state.step < config.steps:
            step = state.step
            state.objective.at_step(step)
            reseed(device, config.seed, _STEP, state.images_seen)
            batch = next(batches)
            loss = gradient(batch if isinstance(data, Stream) else batch.showing(data.shown(batch.x)))
            norm = state.clip()
            skip = state.too_steep(norm)
            record = StepRecord(
                step + 1,
                state.images_seen + config.batch_size,
                loss.value,
                loss.terms,
                norm,
                state.learning_rate(step),
                skip,
            )
            if device.type == "cpu" or looked_at(config, record.step):
                check_finite(record)
            state.update(skip)
            told.look(record)
            yield record


def _ordered(state: TrainingState, data: Dataset) -> Generator[Batch, None, None]:
    """The batches of the steps that are left."""
    config = state.config
    order = DataOrder(len(data.train), config.seed)
    images = range(state.images_seen, config.steps * config.batch_size, config.batch_size)
    return feed_batches(data.train, (order.take(seen, config.batch_size) for seen in images), state.device)


class _Skips:
    """Watches how many steps are left out, and says so when they are many."""

    def __init__(self, state: TrainingState, note: Note) -> None:
        self.state = state
        self.note = note
        self.step, self.skipped = state.step, float(state.skipped)
        self.row = 0
        """Steps skipped in a row, up to the last look."""

    def look(self, record: StepRecord) -> None:
        """At the steps of which the loss is recorded, as looking waits for a GPU.

        ``TrainingDiverged`` where ``_LOST`` steps in a row were skipped and this one's gradient is not
        finite: then it is not a rare batch that overflows.
        """
        config, step = self.state.config, self.state.step
        if not config.skip or (step % config.log_every and step != config.steps):
            return
        skipped = float(self.state.skipped)
        new, of = skipped - self.skipped, step - self.step
        self.step, self.skipped = step, skipped
        self.row = self.row + of if new >= of else 0
        if self.row >= _LOST and not _finite(record.gradient_norm):
            raise TrainingDiverged(step, "the gradient")
        if new > _MANY * of:
            self.note(
                f"{new:.0f} of the last {of} steps were skipped, {skipped:.0f} of {step} in all: their "
                f"gradients were above skip = {config.skip:g}. If it goes on, raise skip, or lower the rate."
            )


def check_fits(chain: Chain, data: Dataset | Stream, config: TrainingConfig) -> None:
    """Raise ``ValueError`` for data of another spec than the chain's or fewer examples than a batch, and for
    examples or distributions of the chain that do not fit the spec (``entrance``).

    Readers have checked the values of files; those in memory are checked here, those of a stream by the stream.
    """
    if chain.spec != data.spec:
        raise ValueError(
            f"the chain is for {chain.spec.words}, and the data are {data.spec.words}; build the chain for "
            "these data."
        )
    if isinstance(data, Stream):
        return
    if len(data.train) < config.batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size} and the data have {len(data.train)} training examples; "
            f"choose a batch size of at most {len(data.train)}."
        )
    for name, split in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        if split is not None and isinstance(split.x, Tensor) and len(split) > 0:
            stored = data.spec if name != "training" else data.stored_spec
            entrance.checked(stored, split.x, what=f"the {name} part")
    device = next(chain.parameters()).device
    with contextlib.closing(feed_batches(data.train, [torch.arange(2) % len(data.train)], device)) as few:
        batch = next(few)
    if data.spec.levels is None and isinstance(data.train.x, Tensor):
        x = data.train.x
    else:
        with own_randomness(device):
            x = data.shown(batch.x)
    x = entrance.examples(chain, x, what="the training part")
    entrance.check_chain(chain, x, chain.condition(batch))


def looked_at(config: TrainingConfig, step: int) -> bool:
    """Whether this step logs, evaluates, samples, saves or is the last."""
    spans = (config.log_every, config.evaluate_every, config.sample_every, config.checkpoint_every)
    return step == config.steps or any(span > 0 and step % span == 0 for span in spans)


def check_finite(record: StepRecord) -> None:
    """Raise ``TrainingDiverged`` with the first term that is not finite, if there is one.

    A gradient may be so where the step is skipped.
    """
    left_out = record.skipped is not None and bool(record.skipped)
    if _finite(record.loss) and (left_out or _finite(record.gradient_norm)):
        return
    for name, term in record.terms.items():
        if not _finite(term):
            raise TrainingDiverged(record.step, f"the {name} term")
    raise TrainingDiverged(record.step, "the gradient" if _finite(record.loss) else "the loss")


def _finite(value: Tensor) -> bool:
    return math.isfinite(float(value))
