"""Tensors from a file whose path may hold bytes that are not UTF-8, which safetensors does not open by name."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from safetensors.torch import load, load_file
from torch import Tensor


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises as ``safetensors.torch.load_file``."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return load(path.read_bytes())
    return load_file(path)


def count_numbers(path: Path, prefix: str) -> int:
    """The number of entries of the tensors whose names begin with ``prefix``, from the file's header alone.

    ``ValueError`` where it has none, ``OSError`` where it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("the file is cut short")
        length = struct.unpack("<Q", head)[0]
        if length > path.stat().st_size:
            raise ValueError("the file is cut short")
        header = json.loads(file.read(length))
    return sum(math.prod(one["shape"]) for name, one in header.items() if name.startswith(prefix))
