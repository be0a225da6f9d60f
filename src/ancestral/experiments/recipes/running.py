"""A recipe run: trained into a run folder, gone on with when it was killed, measured, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ancestral
from ancestral._internal import checks
from ancestral._internal.atomic import write_text_atomically
from ancestral.config import DataConfig, RunConfig
from ancestral.data import Dataset, content_hash
from ancestral.data.bits import BIT_SEEDS
from ancestral.evaluation.loop import Progress
from ancestral.experiments.bench.machine import this_machine
from ancestral.experiments.recipes.measure import measure
from ancestral.experiments.recipes.recipe import SHELF, Recipe
from ancestral.experiments.recipes.result import Extended, Planned, Result
from ancestral.experiments.recipes.weights import record_result
from ancestral.experiments.runs import Fitted, RunFolder, load_configured, pick_device, resume_run, train_run
from ancestral.experiments.runs.fitting import Report

MACHINES = "machines.json"
"""In the run's folder: the machines it was trained on."""


@dataclass(frozen=True)
class Shortened:
    """Less than a recipe asks for: a share of its steps, or a number of them; fewer samples."""

    share: float | None = None
    steps: int | None = None
    samples: int | None = None

    def steps_of(self, planned: int) -> int:
        """The steps to take."""
        if self.share is not None and self.steps is not None:
            raise ValueError(
                f"share is {self.share:g} and steps is {self.steps}; give one of the two, as each says how "
                "many steps to take."
            )
        if self.share is not None:
            checks.number("share", self.share, above=0.0, high=1.0)
            return max(1, round(self.share * planned))
        return _at_most("steps", self.steps, planned)

    def samples_of(self, planned: int) -> int:
        """The draws to take for each example."""
        return _at_most("samples", self.samples, planned)


def run_recipe(
    recipe: Recipe,
    data: str,
    out: Path,
    *,
    shortened: Shortened = Shortened(),
    device: str = "auto",
    record: bool = False,
    extend: bool = False,
    report: Report | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Train the recipe on ``data`` into ``out``, measure it, and write ``out``/result.json.

    Called again with the same arguments it goes on where it was killed, and measures a finished run anew.
    With ``record`` the result is written to the recipe's folder too, with its averaged weights where they are
    below 3 MB (``weights``). With ``extend`` a shorter run that is in ``out`` is made longer. Returns None
    when it was asked to stop.
    ``ValueError`` for other data, for a folder that holds another run, and for what cannot be recorded.
    """
    facts = recipe.facts
    if facts.lacks:
        raise ValueError(
            f"the recipe {recipe.name!r} needs what this version does not have: {', '.join(facts.lacks)}."
        )
    planned = recipe.config
    steps = Planned(planned.training.steps, shortened.steps_of(planned.training.steps))
    samples = Planned(facts.figure.samples, shortened.samples_of(facts.figure.samples))
    less = steps.taken < steps.planned or samples.taken < samples.planned
    if extend and not (out / "config.json").is_file():
        raise ValueError(f"there is no run at {out} to make longer. Leave --extend out to start one.")
    if record:
        _check_record(recipe, less, _in_parts(out, steps.taken))
    dataset = load_configured(planned.data, source=data)
    content = check_data(recipe, dataset, data)
    config = replace(
        planned,
        data=replace(planned.data, source=data),
        training=replace(planned.training, steps=steps.taken),
    )
    place = pick_device(device)
    machines = _Machines(out, str(this_machine(place)), report)
    fitted = _train(
        recipe, config, out, device=device, extend=extend, report=machines, should_stop=should_stop
    )
    if not fitted.finished:
        return None
    # The figure is of the last weights, as those of the recorded results are.
    folder = RunFolder.open(out, checkpoint="last")
    extended = [Extended(**noted) for noted in folder.extended]
    found = measure(
        fitted.chain,
        dataset.test.x,
        facts.figure,
        samples=samples.taken,
        store=folder.store,
        progress=progress,
    )
    result = Result(
        recipe=recipe.name,
        metric=facts.figure.metric,
        value=found.figure.mean,
        stderr=found.figure.stderr,
        unit=facts.figure.unit,
        n=found.n,
        data=facts.data.name,
        binarization=binarization(config.data),
        estimator=found.estimator,
        seed=config.training.seed,
        evaluation_seed=facts.figure.seed,
        seconds=float(folder.records("timing.jsonl")[-1]["seconds"]),
        evaluation_seconds=found.seconds,
        machine=machines.all(),
        parameters=sum(p.numel() for p in fitted.chain.parameters()),
        version=ancestral.__version__,
        shortened=less,
        steps=steps,
        samples=samples,
        elbo=found.elbo,
        extended=extended,
        content=content,
    )
    if record:
        result = record_result(recipe, result, fitted.chain)
    result.write(out / "result.json")
    return result


def check_data(recipe: Recipe, data: Dataset, source: str) -> str:
    """The data's fingerprint. Refuses data that the recipe is not for, and says in what they differ."""
    needs = recipe.facts.data
    held = 0 if data.validation is None else len(data.validation)
    found: dict[str, object] = {
        "training examples": len(data.train) + held,
        "test examples": len(data.test),
        "shape": data.spec.shape,
        "levels": data.source_levels,
    }
    wanted = dict(zip(found, (needs.train, needs.test, needs.shape, needs.levels), strict=True))
    for what, there in found.items():
        if there != wanted[what]:
            raise ValueError(
                f"{source} is not {needs.name}, which {recipe.name} is for: its {what} are {there}, and it "
                f"must have {wanted[what]}. Give {needs.source}."
            )
    content = content_hash(data)
    if content in needs.not_content:
        raise ValueError(
            f"{source} is {needs.not_content[content]} and not {needs.name}, which {recipe.name} is for. "
            f"Give {needs.source}."
        )
    if recipe.content is not None and content != recipe.content:
        raise ValueError(
            f"{source} is not {needs.name}, which {recipe.name} is for: as many examples of the same shape, "
            f"but other values or another order. Give {needs.source}."
        )
    return content


def binarization(data: DataConfig) -> str:
    """How grey levels became bits, in words."""
    if data.binarize != "dynamic":
        return data.binarize
    return f"dynamic in training; the test set once, seed {BIT_SEEDS['test']}"


def _at_most(what: str, given: int | None, planned: int) -> int:
    if given is None:
        return planned
    checks.integer(what, given, low=1, high=planned)
    return given


def _in_parts(out: Path, steps: int) -> bool:
    """Whether a run in ``out`` is, once it has taken ``steps``, a shorter one made longer."""
    if not (out / "config.json").is_file():
        return False
    there = RunFolder.open(out)
    return bool(there.extended) or there.training.steps < steps


def _check_record(recipe: Recipe, less: bool, in_parts: bool) -> None:
    """Refuse to record where it cannot be, or where a full run's result would be lost to a lesser one."""
    if recipe.path.parent == SHELF and not SHELF.is_symlink():
        raise ValueError(
            f"the recipe {recipe.name!r} is an installed package's, which a result cannot be recorded in. "
            "Leave --record out, or give the folder of a checkout: --recipes FOLDER."
        )
    there = recipe.result
    if (less or in_parts) and there is not None and not there.shortened and there.parts == 1:
        raise ValueError(
            f"the recorded result of {recipe.name!r} is of a full run, and this one is "
            f"{'shortened' if less else 'a shorter one made longer'}. Leave --record out, or run it in full."
        )


def _train(
    recipe: Recipe,
    config: RunConfig,
    out: Path,
    *,
    device: str,
    extend: bool,
    report: Report,
    should_stop: Callable[[], bool],
) -> Fitted:
    """A new run, or the rest of the one that is in ``out``."""
    if not (out / "config.json").is_file():
        return train_run(config, out, device=device, report=report, should_stop=should_stop)
    there, steps = RunFolder.open(out).config, config.training.steps
    if not _same(there, config):
        raise ValueError(f"{out} holds another run than {recipe.name}'s. Give another --out.")
    held = there.training.steps
    if held != steps and not (extend and held < steps):
        ways = []
        if held < steps:
            ways = ["--extend to make it longer"]
        if held <= recipe.config.training.steps:
            ways += [f"--steps {held} to go on with it"]
        raise ValueError(
            f"{out} holds a run of {recipe.name} over {held} steps, and this one is over {steps}. Give "
            f"{', '.join([*ways, 'or another --out' if ways else 'another --out'])}."
        )
    return resume_run(
        out, data=config.data.source, steps=steps, device=device, report=report, should_stop=should_stop
    )


def _same(one: RunConfig, other: RunConfig) -> bool:
    """Whether a run differs from a recipe by the place of the data and the number of steps only.

    A recipe may leave options to the data, which a run states.
    """
    first, second = asdict(one), asdict(other)
    first["data"]["source"], first["training"]["steps"] = other.data.source, other.training.steps
    return one.model.kind == other.model.kind and _agree(first, second)


def _agree(stated: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(_agree(stated[name], value) for name, value in wanted.items())
    return wanted is None or bool(stated == wanted)


class _Machines:
    """A report that keeps, in the run's folder, on which machines the run was trained."""

    def __init__(self, out: Path, machine: str, report: Report | None) -> None:
        self.path = out / MACHINES
        self.machine = machine
        self.report = report
        self.noted = False

    def __call__(self, record: dict[str, Any]) -> None:
        # The folder is there once something has been recorded.
        if not self.noted and self.path.parent.is_dir():
            self._note()
        if self.report is not None:
            self.report(record)

    def all(self) -> str:
        """All of them, in order; the one that measures is the last."""
        self._note()
        names: list[str] = json.loads(self.path.read_text(encoding="utf-8"))
        return "; then ".join(names)

    def _note(self) -> None:
        self.noted = True
        names: list[str] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else []
        if self.machine not in names:
            write_text_atomically(self.path, json.dumps([*names, self.machine]) + "\n")
