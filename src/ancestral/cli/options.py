"""Options that several commands share, and what they name, opened."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ancestral._internal import checks
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import Augmentation, Binarize, DataConfig, Device

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
AllLevels = Literal["all"]


@dataclass(frozen=True, kw_only=True)
class DataChoices:
    """Which data, and how they are prepared."""

    data: str
    """digits, swiss-roll, moons, a folder of IDX files or of images, a .npy, .npz, .csv or .parquet file, or
    hf:NAME[:COLUMN]."""
    binarize: Binarize = "none"
    """dynamic draws the bits of a training image anew each time; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split that is only watched (at most 1,000 examples); 0 for none."""
    image_size: int | None = None
    """Image files: the side of the square that each is made to; by default they must be of one size."""
    channels: Literal[1, 3] | None = None
    """Image files: 1 for grey, 3 for colour; by default 1 where all are grey."""
    skip_bad: Flag = False
    """Image files: leave out, count and list those that cannot be read, in place of stopping."""
    label: str | None = None
    """Tables and hf: the column that holds the class, in whole numbers or text; it is not modelled."""
    grey_levels: Annotated[int | None, tyro.conf.arg(name="levels")] = None
    """Integer images: the number of grey levels, 0 … N − 1; by default what their type and values say."""
    header: Literal["yes", "no"] | None = None
    """Text tables: whether the first line holds the names of the columns; by default the lines tell it."""
    augment: tuple[Augmentation, ...] = ()
    """Of training images, when they are drawn: flip mirrors half of them from left to right, shift moves each
    by up to an eighth of its side. Never of those that are evaluated on."""
    deduplicate: Flag = False
    """Remove from the training and validation parts what also occurs in the test part, value for value."""
    key: str | None = None
    """Tables: the column that names each row. It is not modelled; score shows it."""

    @property
    def data_config(self) -> DataConfig:
        """The data's options, checked."""
        names = [field.name for field in fields(DataConfig) if field.name not in ("source", "levels")]
        given = {name: getattr(self, name) for name in names}
        return DataConfig(self.data, levels=self.grey_levels, **given)


@dataclass(frozen=True, kw_only=True)
class DataOptions(ThreadOptions, DataChoices):
    """Which data, how they are prepared, and where they are worked on."""

    device: Device = "auto"
    """auto takes a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOption:
    """Which weights of a run are read."""

    checkpoint: str | None = None
    """The weights to use: best (the best held-out ELBO), last, or the number of a step that is stored. By default
    best, or last where the run has no validation part."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(ThreadOptions, CheckpointOption):
    """A run, and which examples to ask it of."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the data."""
    data: str | None = None
    """Where the data are now, if they moved; or new data of the same shape, of which all examples are read."""
    seed: int = 0
    """Decides every random draw."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, low=0)
        self.check_threads()


@dataclass(frozen=True)
class Asked:
    """What a command's ``ExampleOptions`` name, opened."""

    folder: Any
    chain: Any
    """On its device."""
    data: Any
    splits: dict[str, Any]
    """By name: one split, or all."""
    source: str
    new: bool = False
    """Whether the source is not the run's data: all its examples are one split, "all"."""

    @property
    def split(self) -> Any:
        """The one split."""
        (found,) = self.splits.values()
        return found

    @property
    def words(self) -> str:
        """What the examples are called: by their split, or "all"."""
        return next(iter(self.splits)) if len(self.splits) == 1 else "all"


def say_checkpoint(folder: Any) -> None:
    """Print which checkpoint of a ``RunFolder`` is used, on standard error."""
    print(f"{folder.path}: {folder.chosen.words}", file=sys.stderr)


def opened(options: ExampleOptions, *, needs: int = 1, key: str | None = None) -> Asked:
    """The run, its chain and the examples asked for, of which there must be ``needs`` in each split.

    ``key`` is the column that names each row of a table.
    """
    from ancestral.cli.progress import reading_progress
    from ancestral.experiments.runs import RunFolder, examples_of, load_run, pick_device

    folder = RunFolder.open(options.run, checkpoint=options.checkpoint)
    use_threads(options, options.run)
    source = folder.config.data.source if options.data is None else options.data
    chain = load_run(folder).to(pick_device(options.device))
    say_checkpoint(folder)
    with reading_progress() as progress:
        asked = examples_of(folder, options.split, source=options.data, key=key, progress=progress)
    for name, split in asked.splits.items():
        if len(split) < needs:
            raise ValueError(
                f"the {name} part of {source} has {len(split)} examples, and {needs} are asked for. "
                "Ask for fewer, or take another --split."
            )
    say_new(asked, source)
    return Asked(folder, chain, asked.data, asked.splits, source, asked.new)


def say_new(asked: Any, source: str) -> None:
    """Print on standard error that a source is new to the run, and what there is to note of it."""
    if asked.new:
        count = len(asked.data.test)
        print(f"{source} is not the run's data: all its {count:,} examples are read", file=sys.stderr)
        for note in asked.data.notes:
            print(f"note: {note}", file=sys.stderr)
