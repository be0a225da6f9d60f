"""The trained weights of a chain in a few flat buffers.

A network has hundreds of parameters and most are small: an optimiser that walks over them one by one
spends more time between its kernels than in them. Here the parameters become views of one buffer for
each kind, so that the norm, the clip, AdamW and the average are each one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGNED = 16
"""Every parameter starts at a multiple of this many numbers: a whole vector register, or cache line."""
_SMALLEST = 8
"""Matrices with fewer rows or columns have hardly any directions to tell apart."""


@dataclass(frozen=True)
class Place:
    """Where in a buffer one tensor lies, and in which order of its axes."""

    offset: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    """The axes from the slowest to the fastest in memory: channels-last kernels stay channels-last."""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(torch.Size(self.shape).numel())

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of what is stored, with the slowest axis as the rows."""
        rows = self.shape[self.axes[0]]
        return rows, self.size // rows

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor, as a view of the buffer it lies in."""
        stored = buffer[self.offset : self.offset + self.size].view([self.shape[a] for a in self.axes])
        return stored.permute([self.axes.index(axis) for axis in range(len(self.axes))])

    def stored(self, value: Tensor) -> Tensor:
        """The numbers of ``value``, (size,), in the order of the buffer."""
        return value.permute(self.axes).reshape(-1)


class Bucket:
    """Parameters of one dtype that are treated alike: their weights, gradient and average, each flat."""

    def __init__(self, named: Mapping[str, nn.Parameter], *, decayed: bool, apart: bool = False) -> None:
        self.decayed = decayed
        self.apart = apart
        self.places: dict[str, Place] = {}
        end = 0
        for name, p in named.items():
            self.places[name] = Place(end, tuple(p.shape), _axes(p))
            end += -(-p.numel() // _ALIGNED) * _ALIGNED
        first = next(iter(named.values()))
        # Between the parameters lie zeros, which stay zeros under everything that is done to a bucket.
        self.weight = nn.Parameter(torch.zeros(end, dtype=first.dtype, device=first.device))
        self.gradient = torch.zeros_like(self.weight, requires_grad=False)
        with torch.no_grad():
            for name, p in named.items():
                view = self.places[name].view(self.weight.detach())
                view.copy_(p)
                p.data = view
                p.grad = self.places[name].view(self.gradient)
        self.weight.grad = self.gradient
        self.average = self.weight.detach().clone()

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The parameters' shares of a buffer laid out as this bucket, by name."""
        return {name: place.view(buffer) for name, place in self.places.items()}

    def flattened(self, values: Mapping[str, Tensor]) -> Tensor:
        """Tensors by parameter name, as one buffer laid out as this bucket: the inverse of ``views``."""
        parts: list[Tensor] = []
        end = 0
        for name, place in self.places.items():
            if place.offset > end:
                parts.append(self.weight.new_zeros(place.offset - end))
            parts.append(place.stored(values[name]))
            end = place.offset + place.size
        if len(self.weight) > end:
            parts.append(self.weight.new_zeros(len(self.weight) - end))
        return torch.cat(parts)


def buckets(
    named: Mapping[str, nn.Parameter], apart: Callable[[nn.Parameter], bool] = lambda p: False
) -> list[Bucket]:
    """Move the parameters into buckets: matrices and kernels, which are decayed, apart from the rest.

    Those for which ``apart`` holds have buckets of their own.

    The parameters stay what and where they are in their modules; from now on they are views, and their
    ``grad`` is kept and added to: clear it with ``Bucket.gradient.zero_``.
    """
    groups: dict[tuple[torch.dtype, bool, bool], dict[str, nn.Parameter]] = {}
    for name, p in named.items():
        groups.setdefault((p.dtype, p.ndim > 1, apart(p)), {})[name] = p
    return [Bucket(group, decayed=decayed, apart=own) for (_, decayed, own), group in groups.items()]


def is_matrix(p: nn.Parameter) -> bool:
    """Whether it is for an optimiser of matrices: one, or a kernel as outputs × all that an output reads.

    What has three axes is an image or a vector for each of several places, and no map.
    """
    return p.ndim in (2, 4) and min(len(p), p[0].numel()) >= _SMALLEST


def views(parts: Sequence[Bucket], buffers: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters' shares of one buffer for each bucket, by name."""
    return {
        name: view
        for part, buffer in zip(parts, buffers, strict=True)
        for name, view in part.views(buffer).items()
    }


def _axes(p: Tensor) -> tuple[int, ...]:
    """The axes of ``p`` from the slowest to the fastest in memory, where it is dense; else in order."""
    axes = tuple(sorted(range(p.ndim), key=lambda axis: (-p.stride()[axis], axis)))
    return axes if p.permute(axes).is_contiguous() else tuple(range(p.ndim))
