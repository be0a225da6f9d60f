"""From a folder to its report.html."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import ancestral
from ancestral._internal.atomic import write_text_atomically
from ancestral.experiments.bench.machine import this_machine
from ancestral.experiments.report import bounds, samples, vectors
from ancestral.experiments.report.command import compare_command, train_command
from ancestral.experiments.report.page import Block, Code, Page, Section, Table, Text
from ancestral.experiments.report.samples import SAMPLES, samples_of
from ancestral.experiments.report.subjects import Subjects, open_subjects
from ancestral.experiments.runs.measuring import Plan
from ancestral.experiments.runs.threads import stored_threads

Told = Callable[[str], None]


def report(
    path: Path,
    *,
    out: Path | None = None,
    source: str | None = None,
    plan: Plan | None = None,
    device: str = "auto",
    checkpoint: int | str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    told: Told = lambda what: None,
) -> Path:
    """Write the report of a run or a comparison at ``path``, by default to report.html in it; returns where.

    A run is measured for it (``plan``), with the weights of its ``checkpoint``; a comparison's figures are
    there. ``told`` hears what is made next. The page is one file without anything to load.
    ``ValueError`` as ``open_subjects`` raises it.
    """
    told("measuring" if not (path / "comparison.json").is_file() else "reading")
    subjects = open_subjects(
        path, source=source, plan=plan, device=device, checkpoint=checkpoint, progress=progress
    )
    told("drawing samples")
    count = SAMPLES if subjects.data.spec.is_image else vectors.ROWS
    drawings = {one.name: samples_of(one, count) for one in subjects.models}
    makers: list[tuple[str, Callable[[], Section | None]]] = [
        ("table", lambda: bounds.overview(subjects)),
        ("likelihood", lambda: bounds.likelihood(subjects)),
        ("levels", lambda: bounds.levels(subjects)),
        ("training", lambda: bounds.training(subjects)),
        ("samples", lambda: samples.sample_grids(subjects, drawings)),
        ("densities", lambda: vectors.plane(subjects, drawings)),
        ("columns", lambda: vectors.columns(subjects, drawings)),
        ("distances", lambda: samples.distances(subjects)),
        ("nearest examples", lambda: samples.nearest(subjects, drawings)),
        ("reconstructions", lambda: samples.reconstructions(subjects)),
        ("walks", lambda: samples.walks(subjects)),
        ("denoising", lambda: samples.denoising(subjects)),
        ("data", lambda: _data(subjects)),
        ("reproduction", lambda: _reproduction(subjects)),
    ]
    sections = []
    for name, make in makers:
        told(name)
        section = make()
        if section is not None:
            sections.append(section)
    where = path / "report.html" if out is None else out
    where.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(where, Page(_title(subjects), _subtitle(subjects), sections).html())
    return where


def _title(subjects: Subjects) -> str:
    names = [one.name for one in subjects.models]
    told = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{told} on {subjects.models[0].figures['data']}"


def _subtitle(subjects: Subjects) -> str:
    spec, data = subjects.data.spec, subjects.data
    return (
        f"{spec.words}; {len(data.train):,} training and {len(data.test):,} test examples. Everything "
        "here is measured by ancestral."
    )


def _data(subjects: Subjects) -> Section:
    facts = subjects.data.describe()
    rows = [
        ["source", subjects.models[0].figures["data"]],
        [
            "splits",
            f"{facts['train']:,} training, {facts['validation']:,} validation, {facts['test']:,} test",
        ],
        ["test part", facts["test_origin"]],
        ["values", facts["levels_origin"] or "real numbers"],
        ["binarisation", facts["binarize"]],
        ["classes", "none" if facts["labels"] is None else str(facts["labels"])],
        ["augmentation", " ".join(facts["augment"]) or "none"],
        ["content", subjects.models[0].folder.facts["content"] or "not known: trained from a DataLoader"],
    ]
    notes: list[Block] = [Text(note) for note in facts["notes"]]
    lead = (
        "Augmentations are of training examples alone. A likelihood is always of test data as they are; "
        "that of binarised data is of their bits, and does not compare with that of grey levels."
    )
    return Section("data", "Data", [Table(["What", ""], rows), *notes], lead)


def _reproduction(subjects: Subjects) -> Section:
    """Commands, options, versions, machine."""
    configs = [one.folder.config for one in subjects.models]
    first = configs[0]
    if subjects.comparison is not None:
        models = [config.model for config in configs]
        command = compare_command(first.data, models, first.training, str(subjects.path))
    else:
        command = train_command(first, str(subjects.path))
    device = next(subjects.models[0].chain.parameters()).device
    trained = sorted({one.folder.facts["version"] for one in subjects.models})
    threads = stored_threads(subjects.models[0].folder.path)
    rows = [
        ["ancestral", f"{ancestral.__version__} (trained with {', '.join(trained)})"],
        ["torch", torch.__version__],
        ["Python", platform.python_version()],
        ["this page's machine", str(this_machine(device))],
        ["seed", str(first.training.seed)],
        ["threads", "–" if threads is None else f"{threads}, for the same bits: --threads {threads}"],
    ]
    blocks: list[Block] = [Code(f"{command}\nancestral report {subjects.path}"), Table(["What", ""], rows)]
    for one in subjects.models:
        blocks.append(Code(json.dumps(one.folder.facts, indent=1), f"all options of the {one.name}"))
    return Section(
        "reproduce",
        "How to get it again",
        blocks,
        "On a CPU with the same number of threads a run is bit-identical.",
    )
