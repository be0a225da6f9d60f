"""Batches of a DataLoader, as the training loop takes them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ancestral.core.batch import Batch
from ancestral.core.spec import DataSpec


class Stream:
    """The batches of a DataLoader, over and over, checked to be examples of ``spec``.

    Their order is the loader's, so a run is not a function of its options: it cannot be resumed. A batch is a
    tensor of examples, or a tuple or list whose first entry is one. Smaller batches than ``batch_size``, such as
    the last of a pass, are left out.
    """

    columns = class_names = source_levels = validation = None
    binarize = "none"
    notes: tuple[str, ...] = ()

    def __init__(self, loader: DataLoader[Any], spec: DataSpec, *, batch_size: int) -> None:
        self.loader: Iterable[Any] = loader
        self.spec = spec
        self.batch_size: int = batch_size if loader.batch_size is None else loader.batch_size

    def batches(self, device: torch.device) -> Generator[Batch, None, None]:
        """Batches on ``device``, without end.

        Raises ``ValueError`` for values that are no examples of the spec, and where a pass has no batch of
        ``batch_size``.
        """
        while True:
            taken = 0
            for given in self.loader:
                x = given[0] if isinstance(given, tuple | list) and given else given
                if not isinstance(x, Tensor):
                    raise TypeError(
                        f"the DataLoader gives a {type(x).__name__}; a batch must be a tensor of examples, or a "
                        "tuple that begins with one. Write a collate_fn."
                    )
                if len(x) == self.batch_size:
                    taken += 1
                    yield Batch(self._checked(x).to(device, non_blocking=True))
            if not taken:
                raise ValueError(
                    f"the DataLoader gives no batch of {self.batch_size} examples. Choose a smaller batch_size."
                )

    def _checked(self, x: Tensor) -> Tensor:
        spec = self.spec
        if tuple(x.shape[1:]) != spec.shape:
            raise ValueError(
                f"the DataLoader gives batches of shape {tuple(x.shape)}; the chain is for {spec.words}, "
                f"(n, {', '.join(map(str, spec.shape))}). Reshape them in the data set or in a collate_fn."
            )
        if spec.levels is None:
            if not x.is_floating_point() or not bool(torch.isfinite(x).all()):
                raise ValueError(
                    f"the DataLoader gives {_type(x)} values, or some that are not finite; "
                    f"the chain is for {spec.words}. Convert them to finite floats."
                )
            return x.float()
        low, high = float(x.min()), float(x.max())
        if x.is_floating_point() or x.is_complex() or low < 0 or high >= spec.levels:
            raise ValueError(
                f"the DataLoader gives {_type(x)} values from {low:g} to {high:g}; the chain "
                f"is for integers from 0 to {spec.levels - 1}. Leave transforms to floats out, such as ToTensor."
            )
        return x.to(torch.uint8 if spec.levels <= 256 else torch.int32)


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
