"""A data set as models see it: integer images or real vectors in three splits.

Integer data stay integers up to the likelihood. Binarisation (Salakhutdinov and Murray 2008 for the
dynamic kind) turns grey levels k in 0 … L − 1 into bits: drawn anew each time a training image is seen,
with P(bit = 1) = k / (L − 1), or cut at one half. Test and validation bits never change, so that numbers
of different runs compare; numbers of different kinds of binarisation do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.core.spec import DataSpec
from ancestral.data.augment import AUGMENTATIONS
from ancestral.data.bits import FixedBits, binarized, draw_bits
from ancestral.data.raw import Array
from ancestral.data.rows import Examples, Rows, pieces

Binarize = Literal["none", "dynamic", "threshold"]
Augmentation = Literal["flip", "shift"]
SPLITS = ("train", "validation", "test")
GIVEN = "given with the data"
"""The origin of a part that is not held out."""
SUBSET_SEED = 2
"""The seed that chooses n examples of a split."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples and their labels."""

    x: Examples
    """Images (N, C, H, W), uint8 for up to 256 levels and int32 above, or vectors (N, D), float32
    or, where differences within a column need them (``spec.double``), float64.

    A tensor, or ``Rows`` of a large file, which are read whenever they are asked for.
    """
    labels: Tensor | None = None
    """Classes counted from 0, (N,) int64, where the data have them."""
    rows: Array | None = None
    """The number of each example in its source, from 0, (N,); None for 0 … N − 1."""
    names: Array | None = None
    """The file of each example, relative to the source (``raw.name_at``), (N,); None where it has none."""
    keys: Array | None = None
    """The entry of each example in the key column (``raw.name_at``), (N,); None where none was chosen."""

    def __post_init__(self) -> None:
        for part in (self.labels, self.rows, self.names, self.keys):
            assert part is None or part.shape == (len(self.x),)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, key: slice) -> Split:
        """The examples of a slice, with their labels."""
        labels = None if self.labels is None else self.labels[key]
        return Split(self.x[key], labels, *self._identities(key))

    def take(self, places: Array) -> Split:
        """The examples at ``places``, (k,) whole numbers, in that order, with their labels."""
        index = torch.from_numpy(np.ascontiguousarray(places))
        rows = isinstance(self.x, Rows)
        x = self.x.take(places) if rows else self.x.index_select(0, index.to(self.x.device))  # type: ignore[arg-type]
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        return Split(x, labels, *self._identities(places))

    def some(self, n: int | None) -> Split:
        """``n`` examples drawn by ``subset``, in its order; all, in their order, for None or from N on."""
        return self if n is None or n >= len(self) else self.take(subset(len(self), n))

    def with_x(self, x: Examples) -> Split:
        """The same examples with other values, such as bits."""
        return replace(self, x=x)

    def to(self, device: str | torch.device) -> Split:
        """The same in memory, on ``device``."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, x=self.x.to(device), labels=labels)

    def _identities(self, key: slice | Array) -> tuple[Array, Array | None, Array | None]:
        rows = np.arange(len(self)) if self.rows is None else self.rows
        parts = (None if part is None else part[key] for part in (self.names, self.keys))
        names, keys = parts
        return rows[key], names, keys


def subset(total: int, n: int) -> Array:
    """The places of ``n`` of ``total`` examples, (n,): the first n of a permutation with a fixed seed.

    Every model and run is evaluated on the same ones, and those of n are the first of those of n + 1. The first
    n of the data themselves could be of one class.
    """
    return np.random.default_rng(SUBSET_SEED).permutation(total)[:n]


def chosen(n: int, total: int) -> dict[str, int | None]:
    """How n of ``total`` examples were chosen, as in the commands' JSON."""
    return {"n": n, "of": total, "seed": SUBSET_SEED if n < total else None}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in splits. ``load_data`` makes one; ``batch``, ``seen`` and ``split`` are how to read it."""

    name: str
    """A short name for reports."""
    spec: DataSpec
    """What one example is to a model; after binarisation its levels are 2."""
    train: Split
    """As stored: under dynamic binarisation its grey levels. Models see it through ``shown``."""
    validation: Split | None
    test: Split
    test_origin: str
    """``given with the data`` or ``held out, N of M, seed S``."""
    validation_origin: str = ""
    """The same of the validation part; empty without one."""
    binarize: Binarize = "none"
    source_levels: int | None = None
    """The number of levels before binarisation; None for real numbers."""
    levels_origin: str = ""
    """How the number of source levels is known, in words."""
    columns: tuple[str, ...] | None = None
    """The names of a vector's entries, where the source has them."""
    class_names: tuple[str, ...] | None = None
    """The names of the classes, where the source has them."""
    notes: tuple[str, ...] = ()
    """What to tell whoever loads the data."""
    augment: tuple[Augmentation, ...] = ()
    """What is done to training images when a batch of them is drawn."""
    options: dict[str, Any] | None = None
    """What ``load_data`` was given, by the names of a run's data options; None for arrays in memory."""

    def __post_init__(self) -> None:
        assert self.binarize == "none" or (self.spec.levels == 2 and self.source_levels is not None)
        for split in (self.train, self.validation, self.test):
            assert split is None or tuple(split.x.shape[1:]) == self.spec.shape

    def batch(self, index: Tensor) -> Tensor:
        """The training examples of ``index``, (n,) whole numbers, as a model is trained on them: (n, *shape).

        Augmentations, and the bits of dynamic binarisation, are drawn anew from the device's global random
        state, so seeding that fixes them. Raises ``IndexError`` for an index out of range.
        """
        return self.shown(self.train.x.index_select(0, index.to(self.train.x.device)))

    def shown(self, rows: Tensor) -> Tensor:
        """Training examples (n, *shape) from ``train`` as a model is trained on them; see ``batch``."""
        for name, change in AUGMENTATIONS.items():
            rows = change(rows) if name in self.augment else rows
        return self._as_bits(rows)

    def _as_bits(self, rows: Tensor) -> Tensor:
        if self.binarize != "dynamic":
            return rows
        assert self.source_levels is not None
        return draw_bits(rows, levels=self.source_levels)

    def split(self, name: str) -> Split:
        """The split ``train``, ``validation`` or ``test``, to evaluate on: its values are those of ``spec``.

        Under dynamic binarisation the bits of ``train`` are drawn once, with a fixed seed, as those of
        the others were. Raises ``ValueError`` for another name or a split that was not made.
        """
        checks.one_of("split", name, SPLITS)
        if name == "test":
            return self.test
        if name == "validation":
            if self.validation is None:
                raise ValueError(
                    f"{self.name!r} has no validation split: it was loaded with validation = 0. Use the "
                    "split train or test, or load it with a larger validation, such as 0.1."
                )
            return self.validation
        if self.binarize != "dynamic":
            return self.train
        assert self.source_levels is not None
        return self.train.with_x(binarized(self.train.x, FixedBits(name, self.source_levels)))

    def seen(self) -> Iterator[Tensor]:
        """All training examples, once, not augmented: pieces (n, *shape) of a bounded size, on the CPU.

        Under dynamic binarisation, one draw of the bits of each.
        """
        return (self._as_bits(piece) for piece in pieces(self.train.x))

    @property
    def stored_spec(self) -> DataSpec:
        """What an example of ``train`` is as stored: before its bits are drawn."""
        return replace(self.spec, levels=self.source_levels) if self.binarize == "dynamic" else self.spec

    @property
    def nbytes(self) -> int:
        """What the examples of all splits take in memory."""
        return sum(part.x.nbytes for part in (self.train, self.validation, self.test) if part is not None)

    def to(self, device: str | torch.device) -> Dataset:
        """The same data set in memory, with all its tensors on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    def describe(self) -> dict[str, Any]:
        """What the data are and where they come from, ready for JSON; ``labels`` counts the classes."""
        labels = self.train.labels
        return {
            "source": self.name,
            "train": len(self.train),
            "validation": 0 if self.validation is None else len(self.validation),
            "test": len(self.test),
            "test_origin": self.test_origin,
            "validation_origin": self.validation_origin,
            "shape": list(self.spec.shape),
            "levels": self.spec.levels,
            "source_levels": self.source_levels,
            "levels_origin": self.levels_origin,
            "labels": None if labels is None else len(labels.unique()),
            "binarize": self.binarize,
            "columns": None if self.columns is None else list(self.columns),
            "class_names": None if self.class_names is None else list(self.class_names),
            "notes": list(self.notes),
            "augment": list(self.augment),
        }


def content_hash(dataset: Dataset) -> str:
    """16 hexadecimal digits that change when anything a run reads of the data does, or what it does to them.

    The first digits of the SHA-256 of the spec, the binarisation, the augmentations and, for each
    split, the type, shape and bytes of examples and labels. Neither the device nor the place they were read
    from matters.
    """
    digest = hashlib.sha256(
        repr((dataset.spec.shape, dataset.spec.levels, dataset.source_levels, dataset.binarize)).encode()
    )
    digest.update(" ".join(sorted(dataset.augment)).encode())
    for name, split in zip(SPLITS, (dataset.train, dataset.validation, dataset.test), strict=True):
        parts = {} if split is None else {"x": split.x, "labels": split.labels}
        for what, part in parts.items():
            if part is not None:
                dtype = str(part.dtype).removeprefix("torch.")
                digest.update(f"{name} {what}: {dtype} {tuple(part.shape)}".encode())
                for piece in pieces(part):
                    digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def examples_hash(x: Examples) -> str:
    """16 hexadecimal digits that change when the type, the shape or a value of these examples does."""
    digest = hashlib.sha256(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}".encode())
    for piece in pieces(x):
        digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()[:16]
