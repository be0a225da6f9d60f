"""Training with everything around it: held-out ELBO, sample pictures, metrics, checkpoints, resuming."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ancestral._internal import checks
from ancestral._internal.randomness import mixed, own_randomness, reseed
from ancestral.bounds import Estimate
from ancestral.config import DataConfig, RunConfig, TrainingConfig
from ancestral.core.chain import Chain
from ancestral.data import Dataset, content_hash, feed_batches
from ancestral.evaluation import save_picture
from ancestral.evaluation.loop import Progress
from ancestral.experiments.build import build_chain
from ancestral.experiments.build.settled import settled_training
from ancestral.experiments.runs.folder import RunFolder
from ancestral.experiments.runs.held_out import HeldOut
from ancestral.experiments.runs.loading import data_of_run, load_configured
from ancestral.experiments.runs.threads import Pace, slower, store_threads, stored_threads
from ancestral.objectives import FirstFew, Objective
from ancestral.sampling import preview
from ancestral.training import StepRecord, TrainingDiverged, TrainingState, train
from ancestral.training.loop import check_finite, check_fits
from ancestral.training.stream import Stream

Report = Callable[[dict[str, Any]], None]
"""Called with each record of metrics.jsonl as it is made."""

_WEIGHTS, _PREVIEW = 3, 4
"""Keep the seeds of initial weights and of sample pictures apart from the loop's."""
_PREVIEWED = 64
_STREAMED = (
    "that was trained from a DataLoader cannot be resumed: the order of its examples is not stored. Give out "
    "another folder, or train on load_data(…)."
)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training left behind."""

    chain: Chain
    """With its averaged weights, in evaluation mode."""
    records: list[dict[str, Any]]
    """The records of this call, as in metrics.jsonl."""
    images_per_second: float
    """Of this call's training steps alone, without evaluation and saving; 0 when none was left to take."""
    step: int
    """Steps taken in all."""
    finished: bool
    """Whether all steps are taken; False when it was asked to stop, or stopped early."""
    best_step: int | None = None
    """The step with the best held-out ELBO; None without a validation part, or with one evaluation only."""
    stopped_early: bool = False
    """Whether this call ended because the held-out ELBO stayed worse than the best (``stop_early``)."""


class RunDiverged(TrainingDiverged):
    """As ``TrainingDiverged``, with the newest checkpoint from before it in ``checkpoint`` (or None)."""

    def __init__(self, cause: TrainingDiverged, checkpoint: Path | None) -> None:
        super().__init__(cause.step, cause.term)
        self.checkpoint = checkpoint
        last = "There was no checkpoint yet." if checkpoint is None else f"Last good checkpoint: {checkpoint}"
        self.args = (f"{self.args[0]} {last}",)


def fit(
    chain: Chain,
    data: Dataset | DataLoader[Any],
    training: TrainingConfig | None = None,
    *,
    objective: Objective | None = None,
    out: str | Path | RunFolder | None = None,
    device: str = "auto",
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train any chain on ``data``; with ``out``, into a run folder, which is new or resumed.

    A chain of ``build_chain`` leaves a run that every command accepts. ``data`` are of ``load_data``, or a
    DataLoader with the chain's values, whose batch size is then that of training. A run from a DataLoader has no
    held-out ELBO and cannot be resumed: the order of its examples is not a function of the options.

    ``objective`` is what is minimised; by default what the options that the chain was built from name, or the
    negative ELBO. ``report`` sees every record. ``should_stop`` is called after each step; when it returns True a
    checkpoint is written and the call returns. Raises ``ValueError`` for options that do not fit the data and
    ``RunDiverged`` when a loss is no longer finite. Which weights training starts from is the chain's:
    build it under ``torch.manual_seed`` to fix them, or train from a ``RunConfig`` with ``train_run``.
    """
    training = training or TrainingConfig()
    given = data if isinstance(data, Dataset) else _stream(data, chain, training)
    if isinstance(given, Stream):
        training = dataclasses.replace(training, batch_size=given.batch_size)
    training = _settled(training, chain, given, out)
    check_fits(chain, given, training)
    place = pick_device(device)
    if out is None or isinstance(out, RunFolder):
        folder = out
    else:
        folder = _custom_folder(Path(out), chain, given, training, objective)
    chain.to(place)
    state = TrainingState(chain, training, objective)
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, Any] = {}
    if folder is not None:
        tensors, facts = folder.restore(state)
        folder.rewind(state.step)
        if training.steps != folder.training.steps:
            # Only now, as a checkpoint that cannot be read is refused.
            folder.extend(training.steps)
            # A longer run may be worth compiling.
            state.compiled = state.compiled or None
    session = _Session(state, resident(given, place), folder, report)
    if session.held_out is not None and "held_out" in facts:
        session.held_out.restore(tensors, facts["held_out"])
    for text in given.notes:
        session.note(text)
    if folder is not None:
        session.check_threads(folder)
    finished = session.run(should_stop)
    state.release()
    chain.eval()
    return Fitted(
        chain,
        session.records,
        session.images_per_second,
        state.step,
        finished,
        None if session.held_out is None else session.held_out.best_step,
        session.stopped_early,
    )


def train_run(
    config: RunConfig,
    out: str | Path,
    *,
    device: str = "auto",
    report: Report | None = None,
    reading: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train the model that ``config`` describes into the new run folder ``out``.

    ``reading`` is told how far the data are read, where that takes long. Otherwise as ``fit``.
    """
    data = load_configured(config.data, progress=reading)
    chain = initial_chain(config, data)
    # All that can be refused is refused before anything is written.
    check_fits(chain, data, config.training)
    pick_device(device)
    # The chain's options are the run's: their defaults that depend on the data are settled.
    training = settled_training(config.training, len(data.train), diffusion=chain.single_levels)
    config = dataclasses.replace(config, model=chain.config, training=training)
    folder = RunFolder.create(Path(out), data, config.training, config=config)
    return fit(
        chain, data, config.training, out=folder, device=device, report=report, should_stop=should_stop
    )


def resume_run(
    path: str | Path,
    *,
    data: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    report: Report | None = None,
    reading: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Go on with a run from its newest checkpoint, exactly as if it had never stopped.

    ``data`` says where the data are now, when they moved; their content must be what it was. With ``steps``,
    more than it was planned over, the run is made longer (``RunFolder.extend``): from its newest checkpoint
    on, the learning rate is that of the longer plan.
    """
    folder = RunFolder.open(Path(path))
    config, training = folder.config, folder.planned(steps)
    if (own := folder.facts.get("objective")) is not None:
        raise ValueError(
            f"{folder.path} was trained with the objective {own}, given in Python. Resume it there: fit(chain, "
            "data, training, objective=…, out=…)."
        )
    if folder.facts["content"] is None:
        raise ValueError(f"{folder.path} {_STREAMED}")
    source = config.data.source if data is None else data
    dataset = data_of_run(folder, source, reading)
    if content_hash(dataset) != folder.facts["content"]:
        raise ValueError(
            f"the data at {source} are not those that {folder.path} was trained on. Put the same data "
            "back, say where they are (--data PATH), or start a new run."
        )
    chain = initial_chain(config, dataset)
    return fit(chain, dataset, training, out=folder, device=device, report=report, should_stop=should_stop)


def initial_chain(config: RunConfig, data: Dataset) -> Chain:
    """The chain of a run before its first step: its weights are a function of the seed."""
    cpu = torch.device("cpu")
    with own_randomness(cpu):
        reseed(cpu, config.training.seed, _WEIGHTS)
        return build_chain(config.model, data.spec, train=data.seen())


def pick_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; ``ValueError`` for one that is not there."""
    checks.one_of("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' and torch sees no CUDA device here; use auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _stream(data: Any, chain: Chain, training: TrainingConfig) -> Stream:
    if not isinstance(data, DataLoader):
        raise TypeError(
            f"the data are a {type(data).__name__}; they must be a Dataset or a DataLoader. Make a Dataset of a "
            "name, a path or arrays: load_data(…)."
        )
    return Stream(data, chain.spec, batch_size=training.batch_size)


def _described(chain: Chain, data: Dataset | Stream, training: TrainingConfig) -> RunConfig | None:
    """The options of a run of a chain that was built from some; None for another chain."""
    if chain.config is None:
        return None
    # Arrays in memory and streams have no name: their source is empty.
    options: dict[str, Any] = {"source": "", "binarize": data.binarize}
    if isinstance(data, Dataset) and data.options is not None:
        names = {field.name for field in dataclasses.fields(DataConfig)}
        options = {name: value for name, value in data.options.items() if name in names}
    return RunConfig(data=DataConfig(**options), model=chain.config, training=training)


def _settled(
    training: TrainingConfig, chain: Chain, data: Dataset | Stream, out: str | Path | RunFolder | None
) -> TrainingConfig:
    """The options with a number for the learning rate: that of the run in ``out``, if there is one."""
    if (
        training.learning_rate is None
        and isinstance(out, str | Path)
        and (Path(out) / "config.json").is_file()
    ):
        return dataclasses.replace(training, learning_rate=RunFolder.open(Path(out)).training.learning_rate)
    # A stream may never repeat an example.
    examples = training.steps * training.batch_size if isinstance(data, Stream) else len(data.train)
    return settled_training(training, examples, diffusion=chain.single_levels)


def _custom_folder(
    path: Path,
    chain: Chain,
    data: Dataset | Stream,
    training: TrainingConfig,
    objective: Objective | None,
) -> RunFolder:
    """The folder of a chain built in Python: a new one, or the same run's, to resume."""
    if not (path / "config.json").is_file():
        own = None if objective is None else objective.name
        config = _described(chain, data, training)
        return RunFolder.create(path, data, training, config=config, objective=own)
    folder = RunFolder.open(path)
    if isinstance(data, Stream) or folder.facts["content"] is None:
        raise ValueError(f"{path} holds a run, and one {_STREAMED}")
    if folder.training != training or folder.facts["content"] != content_hash(data):
        raise ValueError(
            f"{path} holds a run with other training options or data. Give out another folder, or the "
            "same options to go on with it (RunFolder.extend makes it longer)."
        )
    return folder


def resident(data: Dataset | Stream, device: torch.device) -> Dataset | Stream:
    """The data on the device when they take at most half of what is free there; else they are streamed."""
    if device.type != "cuda" or isinstance(data, Stream):
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return data.to(device) if 2 * data.nbytes < free else data


class _Session:
    """One call of ``fit``: drives the loop and does what its records ask for."""

    def __init__(
        self,
        state: TrainingState,
        data: Dataset | Stream,
        folder: RunFolder | None,
        report: Report | None,
    ) -> None:
        self.state = state
        self.data = data
        self.folder = folder
        self.report = report
        self.device = state.device
        self.held_out: HeldOut | None = None
        if data.validation is not None and len(data.validation):
            self.held_out = HeldOut(state.chain, data.validation, state.config, dtype=state.dtype)
        self.stopped_early = False
        # A run that stopped early and is resumed takes all its steps.
        self.may_stop = state.config.stop_early > 0 and (folder is None or folder.stopped_early is None)
        self.records: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.seconds_before = 0.0
        """Of earlier calls, for the steps that are not taken again."""
        if folder is not None and (earlier := folder.records("timing.jsonl")):
            self.seconds_before = float(earlier[-1]["seconds"])
        self.started_at = state.images_seen
        warmup = state.objective.steps if isinstance(state.objective, FirstFew) else 0
        self.pace = Pace(skip=max(0, warmup - state.step)) if self.device.type == "cpu" else None

    @property
    def images_per_second(self) -> float:
        """Training steps alone."""
        return (self.state.images_seen - self.started_at) / self.seconds if self.seconds else 0.0

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Take the steps that are left; False when it was asked to stop before the last, or stopped early."""
        config = self.state.config
        where = None if self.folder is None else self.folder.path
        steps = train(self.state, self.data, note=self.note)
        try:
            while True:
                start = time.perf_counter()
                record = next(steps, None)
                if record is None:
                    break
                took = time.perf_counter() - start
                self.seconds += took
                if self.pace is not None and (ratio := self.pace.took(took)) is not None:
                    self.note(slower(ratio, torch.get_num_threads(), where))
                self._after(record)
                self.stopped_early = self._lost(record.step)
                stopping = (should_stop() and record.step < config.steps) or self.stopped_early
                improved = self.held_out is not None and self.held_out.improved_at(record.step)
                if self._due(config.checkpoint_every, record.step) or stopping or improved:
                    self._save(record)
                if stopping:
                    return False
        except TrainingDiverged as error:
            points = self.folder.checkpoints if self.folder is not None else []
            raise RunDiverged(error, points[-1] if points else None) from error
        finally:
            steps.close()
        return True

    def _lost(self, step: int) -> bool:
        """Whether to stop early after this step; then that is noted in the folder."""
        held_out, config = self.held_out, self.state.config
        if (
            not self.may_stop
            or held_out is None
            or step == config.steps
            or held_out.worse < config.stop_early
        ):
            return False
        self.note(
            f"stopped early: the last {held_out.worse} held-out ELBOs were worse than the best, of step "
            f"{held_out.best_step}."
        )
        if self.folder is not None:
            self.folder.note_stopped(held_out, step)
        return True

    def _due(self, every: int, step: int) -> bool:
        return step == self.state.config.steps or (every > 0 and step % every == 0)

    def _after(self, record: StepRecord) -> None:
        config = self.state.config
        if self._due(config.log_every, record.step):
            start = time.perf_counter()
            loss = float(record.loss)
            # Progress the loss waits for the device: that wait is the step's, not ours.
            self.seconds += time.perf_counter() - start
            values = {
                "loss": loss,
                "terms": {name: float(term) for name, term in record.terms.items()},
                "gradient_norm": float(record.gradient_norm),
                "learning_rate": record.learning_rate,
            }
            if record.skipped is not None:
                values["skipped"] = int(self.state.skipped)
            self._record("train", record.step, values)
            if self.folder is not None:
                timing = {"step": record.step, "seconds": self.seconds_before + self.seconds}
                self.folder.append("timing.jsonl", {**timing, "images_per_second": self.images_per_second})
        if self._due(config.evaluate_every, record.step) and self.held_out is not None:
            self._evaluate(record.step)
        if self._due(config.sample_every, record.step) and self.folder is not None:
            self._picture(record.step)

    def _record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        record = {"kind": kind, "step": step, "images_seen": self.state.images_seen, **values}
        self.records.append(record)
        if self.folder is not None:
            self.folder.append("metrics.jsonl", record)
        if self.report is not None:
            self.report(record)

    def check_threads(self, folder: RunFolder) -> None:
        """Store the number of threads, with a note where a run is resumed with another one."""
        before, now = stored_threads(folder.path), torch.get_num_threads()
        if before not in (None, now) and self.state.step > 0 and self.device.type == "cpu":
            self.note(
                f"the run was trained with {before} threads and is resumed with {now}: results differ in the last "
                f"bits. For the same bits: --threads {before}"
            )
        store_threads(folder.path)

    def note(self, text: str) -> None:
        """Something about this machine or the data, and not about the run: told, not kept."""
        if self.report is not None:
            self.report({"kind": "note", "step": self.state.step, "text": text})

    def _evaluate(self, step: int) -> None:
        assert self.held_out is not None
        before = self.held_out.worse
        with self.state.averaged() as chain:
            result = self.held_out.look(chain, step)
        self._record("validation", step, result)
        if self.held_out.worse and not before:
            best, difference = self.held_out.best_step, Estimate.from_json(result["best"]["difference"])
            self.note(
                f"the held-out ELBO is worse than at step {best}, the best so far, by {-difference.mean:.4g} ± "
                f"{difference.stderr:.2g} nats."
            )

    def _picture(self, step: int) -> None:
        assert self.folder is not None
        seed = mixed(self.state.config.seed, _PREVIEW, step)
        with self.state.averaged() as chain:
            pictures = preview(chain, _PREVIEWED, seed=seed, condition=self._conditions(_PREVIEWED))
            save_picture(self.folder.picture_path(step), pictures, self.data.spec)

    def _conditions(self, n: int) -> Any:
        """What n samples are conditioned on: the conditions of the first training examples, repeated."""
        if not self.state.chain.conditional:
            return None
        assert isinstance(self.data, Dataset)
        indices = [torch.arange(n) % len(self.data.train)]
        (batch,) = feed_batches(self.data.train, indices, self.device)
        return self.state.chain.condition(batch)

    def _save(self, record: StepRecord) -> None:
        if self.folder is not None:
            # Where it was asked to stop, a step on a GPU may not have been looked at yet.
            check_finite(record)
            self.folder.save(self.state, self.held_out)
