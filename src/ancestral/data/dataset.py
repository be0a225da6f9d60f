"""A data set as models see it: integer images or real vectors in three splits, and how bits are drawn.

Integer data stay integers up to the likelihood. Binarisation (Salakhutdinov and Murray 2008 for the
dynamic kind) turns grey levels k in 0 … L − 1 into bits: drawn anew each time a training image is seen,
with P(bit = 1) = k / (L − 1), or cut at one half. Test and validation bits never change, so that numbers
of different runs compare; numbers of different kinds of binarisation do not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ancestral import checks
from ancestral.spec import DataSpec

Binarize = Literal["none", "dynamic", "threshold"]
SPLITS = ("train", "validation", "test")
BIT_SEEDS = {"train": 1, "validation": 2, "test": 3}
"""The seeds with which a split's fixed bits are drawn, on the CPU, under ``binarize="dynamic"``."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some examples and their labels."""

    x: Tensor
    """Images (N, C, H, W), uint8 for up to 256 levels and int32 above, or vectors (N, D), float32."""
    labels: Tensor | None = None
    """Classes counted from 0, (N,) int64, where the data have them."""

    def __post_init__(self) -> None:
        assert self.labels is None or self.labels.shape == (len(self.x),)

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: str | torch.device) -> Split:
        """The same on another device."""
        return Split(self.x.to(device), None if self.labels is None else self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in splits. ``load_data`` makes one; ``batch`` and ``split`` are how to read it."""

    name: str
    """A short name for reports."""
    spec: DataSpec
    """What one example is to a model; after binarisation its levels are 2."""
    train: Split
    """As stored: under dynamic binarisation its grey levels. Models see it through ``batch``."""
    validation: Split | None
    test: Split
    test_origin: str
    """``given with the data`` or ``held out, N of M, seed S``."""
    binarize: Binarize = "none"
    source_levels: int | None = None
    """The number of levels before binarisation; None for real numbers."""
    levels_origin: str = ""
    """How the number of source levels is known, in words."""

    def __post_init__(self) -> None:
        assert self.binarize == "none" or (self.spec.levels == 2 and self.source_levels is not None)
        for split in (self.train, self.validation, self.test):
            assert split is None or tuple(split.x.shape[1:]) == self.spec.shape

    def batch(self, index: Tensor) -> Tensor:
        """The training examples of ``index``, (n,) whole numbers, as a model sees them: (n, *shape).

        Under dynamic binarisation the bits are drawn anew from the device's global random state, so
        seeding that fixes them. Raises ``IndexError`` for an index out of range.
        """
        rows = self.train.x.index_select(0, index.to(self.train.x.device))
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
        return Split(fixed_bits(self.train.x, name, levels=self.source_levels), self.train.labels)

    def seen(self) -> Tensor:
        """All training examples as a model sees them, (N, *shape): under dynamic binarisation, one draw."""
        return self.batch(torch.arange(len(self.train), device=self.train.x.device))

    def to(self, device: str | torch.device) -> Dataset:
        """The same data set with all its tensors on ``device``."""
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
            "shape": list(self.spec.shape),
            "levels": self.spec.levels,
            "source_levels": self.source_levels,
            "levels_origin": self.levels_origin,
            "labels": None if labels is None else len(labels.unique()),
            "binarize": self.binarize,
        }


def draw_bits(grey: Tensor, *, levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Bits (uint8 0 or 1) ~ Bernoulli(k / (levels − 1)) of the grey levels k, of the same shape.

    Exact in integers: with r uniform on 0 … levels − 2, P(r < k) = k / (levels − 1). Without a
    ``generator`` the global random state of the device is used.
    """
    r = torch.randint(0, levels - 1, grey.shape, dtype=grey.dtype, device=grey.device, generator=generator)
    return (r < grey).to(torch.uint8)


def fixed_bits(grey: Tensor, split: str, *, levels: int) -> Tensor:
    """The bits of a split that never change, drawn with its seed in ``BIT_SEEDS`` on the CPU."""
    generator = torch.Generator().manual_seed(BIT_SEEDS[split])
    return draw_bits(grey.cpu(), levels=levels, generator=generator).to(grey.device)


def threshold_bits(grey: Tensor, *, levels: int) -> Tensor:
    """1 (uint8) where a grey level k is above (levels − 1) / 2, else 0."""
    return (grey > (levels - 1) / 2).to(torch.uint8)


def content_hash(dataset: Dataset) -> str:
    """16 hexadecimal digits that change when anything a run reads of the data does.

    The first digits of the SHA-256 of the spec, the binarisation and, for each split, the type, shape
    and bytes of examples and labels. Neither the device nor where the data were read from matters.
    """
    digest = hashlib.sha256(
        repr((dataset.spec.shape, dataset.spec.levels, dataset.source_levels, dataset.binarize)).encode()
    )
    for name, split in zip(SPLITS, (dataset.train, dataset.validation, dataset.test), strict=True):
        tensors = {} if split is None else {"x": split.x, "labels": split.labels}
        for what, tensor in tensors.items():
            if tensor is not None:
                array = tensor.cpu().contiguous().numpy()
                digest.update(f"{name} {what}: {array.dtype} {array.shape}".encode())
                digest.update(array.data)
    return digest.hexdigest()[:16]
