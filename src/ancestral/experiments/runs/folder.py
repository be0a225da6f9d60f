"""A run's folder: its configuration, metrics, checkpoints and pictures. All paths in it are relative.

config.json          data, model and training options, what one example is, the data's fingerprint
threads.json         the number of processor threads, with which it is resumed
metrics.jsonl        a line per record; a function of config.json and extended.json alone, without times
timing.jsonl         seconds and rates of this machine
extended.json        at which steps the plan was made longer, and what it was; only where it was
stopped.json         at which step training stopped early, and the best step; only where it did
checkpoints/         step-…/state.safetensors and state.json: the last ones, and that with the best held-out ELBO
samples/             a picture per step-…
measurements/        what was measured of the weights, with the bound of every example
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import ancestral
from ancestral._internal import checks
from ancestral._internal.atomic import TEMPORARY, append_line, write_text_atomically
from ancestral._internal.randomness import own_randomness
from ancestral.config import DataConfig, RunConfig, TrainingConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.data import Dataset, content_hash
from ancestral.evaluation.store import Store
from ancestral.experiments.build import build_chain
from ancestral.experiments.runs.chosen import Best, Chosen, best_of, check_choice, choose
from ancestral.experiments.runs.options import model_json, read_model, read_options
from ancestral.experiments.runs.threads import store_threads
from ancestral.experiments.runs.whole import Whole, whole_columns
from ancestral.training.checkpoint import (
    CheckpointError,
    checkpoint_digest,
    checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
    step_of,
)
from ancestral.training.state import TrainingState, restore_model
from ancestral.training.stream import Stream

if TYPE_CHECKING:
    from ancestral.experiments.runs.held_out import HeldOut

FORMAT = 1
_EXTENDED = "extended.json"
_STOPPED = "stopped.json"
_LISTED = 10
"""Runs that a message lists."""


class RunFolder:
    """One run on disk. ``create`` makes a new one, ``open`` an existing one."""

    def __init__(self, path: Path, facts: dict[str, Any], *, asked: int | str | None = None) -> None:
        self.path = path
        self.facts = facts
        self.asked = asked
        """The checkpoint that ``chosen`` reads: "best", "last", a step, or None for the default."""

    # config.json -----------------------------------------------------------------------------------

    @staticmethod
    def create(
        path: Path,
        data: Dataset | Stream,
        training: TrainingConfig,
        *,
        config: RunConfig | None = None,
        objective: str | None = None,
    ) -> RunFolder:
        """A new folder for a run. ``ValueError`` when something is there already, or it cannot be written.

        ``objective`` names one that was given in Python and that the options do not have.
        """
        _check_free(path)
        facts: dict[str, Any] = {
            "format": FORMAT,
            "version": ancestral.__version__,
            "data": None if config is None else dataclasses.asdict(config.data),
            "model": None if config is None else model_json(config.model),
            "training": dataclasses.asdict(training),
            "spec": {
                "shape": list(data.spec.shape),
                "levels": data.spec.levels,
                "source_levels": data.source_levels,
                **({"double": True} if data.spec.double else {}),
                "columns": data.columns,
                "class_names": data.class_names,
                "whole": None if isinstance(data, Stream) else whole_columns(data),
            },
            "content": None if isinstance(data, Stream) else content_hash(data),
        }
        if objective is not None:
            facts["objective"] = objective
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path / "config.json", json.dumps(facts, indent=1) + "\n")
            store_threads(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror}). Choose another --out.") from error
        return RunFolder(path, facts)

    @staticmethod
    def open(path: Path, *, checkpoint: int | str | None = None) -> RunFolder:
        """The run in ``path``. ``checkpoint`` names the weights to read: "best" (by held-out ELBO), "last" or
        a step; by default the best where there is one, else the last. ``ValueError`` when there is no run, or
        its configuration cannot be read."""
        asked = check_choice(checkpoint)
        if not path.exists():
            near = checks.suggest(path.name, [p.name for p in path.parent.glob("*") if p.is_dir()])
            raise ValueError(f"there is no run at {path}: no such folder.{near}")
        if not (path / "config.json").is_file():
            raise ValueError(f"there is no run at {path}: {_instead(path)}")
        try:
            facts = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path / 'config.json'} cannot be read ({error}).") from error
        expected = {"format", "version", "data", "model", "training", "spec", "content"}
        if (
            not isinstance(facts, dict)
            or facts.get("format") != FORMAT
            or set(facts) - {"objective"} != expected
        ):
            raise ValueError(
                f"{path / 'config.json'} is not a configuration of this format: it must have the keys "
                f"{', '.join(sorted(expected))} and format {FORMAT}."
            )
        folder = RunFolder(path, facts, asked=asked)
        # Read once, so that an edited file is refused here and not halfway through something.
        _ = folder.columns, folder.class_names, folder.whole
        _ = folder.training if facts["model"] is None else folder.config
        return folder

    @property
    def name(self) -> str:
        """What kind of model the run is of."""
        return "custom" if self.facts["model"] is None else str(self.facts["model"]["kind"])

    @property
    def spec(self) -> DataSpec:
        """What one example of the training data is."""
        spec = self.facts["spec"]
        try:
            return DataSpec(tuple(spec["shape"]), spec["levels"], spec.get("double", False) is True)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path / 'config.json'}: spec is {spec!r}; it must hold the shape of one example and "
                "its levels (or null)."
            ) from error

    @property
    def source_levels(self) -> int | None:
        """The grey levels of the training data, before they were binarised where they were."""
        binarized = (self.facts["data"] or {}).get("binarize", "none") != "none"
        levels = self.facts["spec"].get("source_levels", None if binarized else self.spec.levels)
        if levels is not None and not (isinstance(levels, int) and levels >= 2):
            raise ValueError(
                f"{self.path / 'config.json'}: source_levels is {levels!r}; it must be a whole number, or null."
            )
        return levels

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of a vector's entries, where the training data had them."""
        return self._names("columns", count=self.spec.dims)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where the training data had them."""
        return self._names("class_names")

    @property
    def whole(self) -> Whole | None:
        """The ranges of columns of whole numbers (``whole_columns``); None for images and for older runs."""
        found = self.facts["spec"].get("whole")
        if found is None:
            return None
        ends = isinstance(found, list) and all(
            one is None or (isinstance(one, list) and [type(end) for end in one] == [int, int])
            for one in found
        )
        if not ends or len(found) != self.spec.dims:
            raise ValueError(
                f"{self.path / 'config.json'}: whole is {found!r}; it must be null, or for each column null or "
                "its least and greatest whole number."
            )
        return [None if one is None else (one[0], one[1]) for one in found]

    def _names(self, what: str, *, count: int | None = None) -> tuple[str, ...] | None:
        names = self.facts["spec"].get(what)
        if names is None:
            return None
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not strings or len(names) != (count or len(names)):
            raise ValueError(
                f"{self.path / 'config.json'}: {what} is {names!r}; it must be null, or a name for each."
            )
        return tuple(names)

    @property
    def config(self) -> RunConfig:
        """The run's options, checked again. ``ValueError`` names what does not fit."""
        if self.facts["model"] is None:
            raise ValueError(
                f"{self.path} is a run of a chain built in Python, of a class that its folder cannot rebuild. "
                "In Python, build the chain as before and load its weights: chain = load_run(path, chain=chain). "
                "Call evaluate(chain, data.test) or draw(chain, n); to resume, fit(chain, data, …, out=path)."
            )
        return RunConfig(
            data=read_options(DataConfig, self.facts["data"], self._where("data")),
            model=read_model(self.facts["model"], self._where("model")),
            training=self.training,
        )

    def _where(self, part: str) -> str:
        return f"{self.path / 'config.json'}: {part}"

    @property
    def training(self) -> TrainingConfig:
        """The training options, checked again."""
        return read_options(TrainingConfig, self.facts["training"], self._where("training"))

    def planned(self, steps: int | None) -> TrainingConfig:
        """The training options with ``steps`` in all; ``ValueError`` for fewer than there are."""
        training = self.training
        if steps is None:
            return training
        checks.integer("steps", steps, low=1)
        if steps < training.steps:
            raise ValueError(
                f"steps is {steps} and {self.path} is planned over {training.steps}; a run can be made "
                "longer only. Give more steps, or leave them out."
            )
        return dataclasses.replace(training, steps=steps)

    def extend(self, steps: int) -> None:
        """Plan ``steps`` in all, at least as many as before. A longer plan is noted in ``extended``."""
        training, before = self.planned(steps), self.training
        if training == before:
            return
        noted = [*self.extended, {"step": self.step, "steps": before.steps}]
        facts = {**self.facts, "training": dataclasses.asdict(training)}
        # First the note: without the longer plan behind it, it is none.
        self._note(noted, self.step)
        write_text_atomically(self.path / "config.json", json.dumps(facts, indent=1) + "\n")
        self.facts = facts

    @property
    def extended(self) -> list[dict[str, int]]:
        """Where the plan was made longer: at which ``step``, and the ``steps`` planned until then.

        Up to there the learning rate was that of the shorter plan.
        """
        path = self.path / _EXTENDED
        if not path.is_file():
            return []
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            bad = [one for one in noted if not _is_note(one)]
        except (OSError, ValueError, TypeError) as error:
            noted, bad = [], [error]
        if bad:
            raise ValueError(
                f"{path} cannot be read ({bad[0]}). Put back what ancestral wrote, or remove it: it only "
                "says where the run was made longer."
            )
        return [one for one in noted if one["steps"] < self.training.steps]

    def _note(self, noted: list[dict[str, int]], step: int) -> None:
        """Write where the plan was made longer, for a run that is at ``step``: later steps are not there."""
        first: dict[int, dict[str, int]] = {}
        for one in noted:
            at = min(one["step"], step)
            if at > 0:
                first.setdefault(at, {**one, "step": at})
        write_text_atomically(self.path / _EXTENDED, json.dumps(list(first.values())) + "\n")

    # checkpoints -------------------------------------------------------------------------------------

    def save(self, state: TrainingState, held_out: HeldOut | None = None) -> Path:
        """Write a checkpoint of ``state`` and remove old ones, but not the one with the best held-out ELBO."""
        folder = self.path / "checkpoints"
        path = save_checkpoint(
            folder,
            state.step,
            state.tensors() | ({} if held_out is None else held_out.tensors()),
            images_seen=state.images_seen,
            decisions=state.decisions(),
            held_out=None if held_out is None else held_out.facts(),
        )
        prune(folder, state.config.keep, spare=None if held_out is None else held_out.best_step)
        return path

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return checkpoints(self.path / "checkpoints")

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; 0 when there is none yet."""
        return step_of(self.checkpoints[-1]) if self.checkpoints else 0

    @property
    def best(self) -> Best | None:
        """The best evaluation whose checkpoint is stored; None without comparable held-out ELBOs."""
        return best_of(self.records(), [step_of(path) for path in self.checkpoints])

    @property
    def chosen(self) -> Chosen:
        """The checkpoint whose weights are read, as ``open`` named it. ``CheckpointError`` where it is not
        there."""
        return choose(self.path, self.checkpoints, self.records(), self.asked)

    def restore(self, state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Bring ``state`` to the newest checkpoint, or leave it at the start when there is none yet.

        Returns the tensors and facts of the checkpoint; both are empty where there is none.
        """
        if not self.checkpoints:
            return {}, {}
        tensors, facts = load_checkpoint(self.checkpoints[-1])
        with _named(self.checkpoints[-1]):
            state.restore(tensors, facts["images_seen"], facts.get("decisions"))
        return tensors, facts

    def load_weights(self, chain: Chain) -> int:
        """Put the averaged weights of ``chosen`` into ``chain``, in evaluation mode; returns their step."""
        path = self.chosen.path
        tensors, facts = load_checkpoint(path)
        with _named(path):
            restore_model(chain, tensors, "ema/")
        chain.eval()
        return int(facts["step"])

    @property
    def store(self) -> Store:
        """The stored measurements of the weights of ``chosen``. ``CheckpointError`` as there."""
        return Store(self.path / "measurements", checkpoint_digest(self.chosen.path))

    # stopping early ----------------------------------------------------------------------------------

    @property
    def stopped_early(self) -> dict[str, int] | None:
        """Where training stopped early: at which ``step``, and the ``best`` step until then."""
        path = self.path / _STOPPED
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {"step": int(found["step"]), "best": int(found["best"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error!r}). Put back what ancestral wrote, or remove it: without it "
                "the run can stop early again."
            ) from error

    def note_stopped(self, held_out: HeldOut, step: int) -> None:
        """Write that training stopped early after ``step`` steps."""
        text = json.dumps({"step": step, "best": held_out.best_step})
        write_text_atomically(self.path / _STOPPED, text + "\n")

    # metrics -----------------------------------------------------------------------------------------

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line to a .jsonl file."""
        append_line(self.path / name, json.dumps(record))

    def records(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The lines of a .jsonl file; a last line that a killed process left unfinished is not one."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def rewind(self, step: int) -> None:
        """Forget what was noted of steps after ``step``, which will be taken again."""
        for name in ("metrics.jsonl", "timing.jsonl"):
            kept = [record for record in self.records(name) if record["step"] <= step]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_text_atomically(self.path / name, text)
        noted = self.extended
        if any(one["step"] > step for one in noted):
            self._note(noted, step)
        stopped = self.stopped_early
        if stopped is not None and stopped["step"] > step:
            (self.path / _STOPPED).unlink()

    def picture_path(self, step: int) -> Path:
        """Where the sample picture of a step is."""
        return self.path / "samples" / f"step-{step:08d}.png"


def load_run(
    path: str | Path | RunFolder, *, chain: Chain | None = None, checkpoint: int | str | None = None
) -> Chain:
    """The trained chain of a run folder, with its averaged weights, on the CPU, in evaluation mode.

    ``checkpoint`` is "best" (the best held-out ELBO), "last" or the number of a step; by default the best where
    the run has one, else the last. An open ``RunFolder`` has its own. A run of a chain of your own class needs
    that ``chain``, built as it was, to load the weights into.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder.open(Path(path), checkpoint=checkpoint)
    if chain is None:
        # The weights drawn here are overwritten: the caller's random numbers are not to be spent on them.
        with own_randomness(torch.device("cpu")):
            chain = build_chain(folder.config.model, folder.spec)
    folder.load_weights(chain)
    return chain


def _instead(path: Path) -> str:
    """What is at ``path`` in place of a run, and what to do."""
    if not path.is_dir():
        return "it is a file. Give the folder that --out named."
    runs = sorted(str(inside.parent) for inside in path.glob("*/config.json"))
    if not runs:
        return "it has no config.json. Give the folder that --out named."
    what = "a comparison" if (path / "comparison.json").is_file() else "a folder of runs"
    shown = ", ".join(runs[:_LISTED]) + (f" and {len(runs) - _LISTED} more" if len(runs) > _LISTED else "")
    return f"it is {what}. Give one of its runs: {shown}."


def _is_note(one: Any) -> bool:
    """Whether it is an entry of extended.json."""
    return (
        isinstance(one, dict)
        and one.keys() == {"step", "steps"}
        and all(type(value) is int for value in one.values())
        and 0 < one["step"] <= one["steps"]
    )


def _check_free(path: Path) -> None:
    """Refuse a path where a new run would mix with what is there."""
    if (path / "config.json").exists():
        raise ValueError(
            f"{path} holds another run. Give --out a new folder, or go on with it: "
            f"ancestral train --resume {path}"
        )
    # What a run that was killed before its first complete file left behind does not count.
    if path.exists() and not (path.is_dir() and all(p.name.startswith(TEMPORARY) for p in path.iterdir())):
        what = "a folder that is not empty" if path.is_dir() else "not a folder"
        raise ValueError(f"{path} is {what}. Give --out a new folder.")


@contextlib.contextmanager
def _named(checkpoint: Path) -> Iterator[None]:
    """Say which checkpoint does not fit."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
