"""Arrays in memory as a source of data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ancestral.data.raw import Array, Raw
from ancestral.data.readers.arrays import roles_of

Source = str | os.PathLike[str] | Tensor | Array | tuple[Any, Any] | Mapping[str, Any]
"""What ``load_data`` reads."""
NAME = "arrays in memory"
"""The name of a data set that has no other."""


def in_memory(source: Any) -> bool:
    """Whether a source is arrays, and not a name."""
    return isinstance(source, Tensor | np.ndarray | tuple | Mapping)


def raw_of(source: Any) -> Raw:
    """The arrays of a tensor, an array, a pair (examples, labels), or a mapping with the names of a .npz file.

    A tensor of images is (N, H, W) or (N, C, H, W), as in torch; an array (N, H, W) or (N, H, W, C), as in files.
    Raises ``TypeError`` for anything else in their place.
    """
    if isinstance(source, Mapping):
        return _mapped(dict(source))
    x, y = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if isinstance(x, tuple):
        raise TypeError(
            f"the data are a tuple of {len(x)} parts; a tuple must be a pair (examples, labels). For a test part "
            "give a mapping: {'x_train': …, 'x_test': …}."
        )
    return Raw(NAME, _array(x, "the examples"), None if y is None else _labels(y, "the labels"))


def _mapped(parts: dict[str, Any]) -> Raw:
    levels = parts.pop("levels", None)
    roles = roles_of(list(parts), "in memory")

    def part(name: str, kind: str = "x") -> Array | None:
        key = roles.get((name, kind))
        if key is None or parts[key] is None:
            return None
        return _labels(parts[key], repr(key)) if kind == "y" else _array(parts[key], repr(key))

    train_x = part("train")
    if train_x is None:
        raise TypeError(
            f"{roles['train', 'x']!r} is None; it must be a tensor or an array. Give the examples."
        )
    return Raw(
        NAME,
        train_x,
        part("train", "y"),
        part("test"),
        part("test", "y"),
        levels=None if levels is None else int(levels),
        validation_x=part("validation"),
        validation_labels=part("validation", "y"),
    )


def _array(x: Any, where: str) -> Array:
    if isinstance(x, Tensor):
        return _from_tensor(x.detach().cpu(), where)
    if not isinstance(x, np.ndarray):
        raise TypeError(
            f"{where} are a {type(x).__name__}; they must be a torch tensor or a NumPy array. Convert them: "
            "numpy.asarray(…)."
        )
    return x


def _from_tensor(x: Tensor, where: str) -> Array:
    if x.is_complex():
        raise TypeError(f"{where} are complex numbers; they must be real. Give two real columns for each.")
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    if x.ndim == 4 and x.shape[1] in (1, 3, 4):
        x = x.movedim(1, -1)
    elif x.ndim == 4:
        raise ValueError(
            f"{where} are a tensor of shape {tuple(x.shape)}; a tensor of images is (N, C, H, W) with C = 1, 3 or "
            "4 channels. Use x.permute(0, 3, 1, 2), or give a NumPy array (N, H, W, C)."
        )
    return x.numpy()


def _labels(y: Any, where: str) -> Array:
    if isinstance(y, Tensor):
        return y.detach().cpu().numpy()
    return np.asarray(y)
