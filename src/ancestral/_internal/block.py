"""The same random numbers for an example, however a block of examples is cut into batches.

Distributions draw for all rows of a batch at once, from one generator. Where only some rows of a block are
computed, ``part_of_block`` has torch draw for the whole block, from the same state of the generator, and
keeps the rows of the part. What is drawn thus depends on the block and the position in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_OF_SIZE = {torch.randn, torch.rand}
"""Functions of a shape."""
_OF_BOUNDS = {torch.randint}
"""Functions of bounds and a shape."""
_LIKE = {torch.randn_like, torch.rand_like, torch.randint_like, torch.bernoulli, torch.poisson, torch.normal}
"""Functions of tensors, whose first axis is that of the result."""
_LIKE |= {torch.multinomial, torch.binomial, torch._standard_gamma}
_FILLS = {
    getattr(torch.Tensor, name)
    for name in (
        "normal_",
        "uniform_",
        "exponential_",
        "bernoulli_",
        "cauchy_",
        "geometric_",
        "log_normal_",
        "random_",
    )
}
"""Methods that fill a tensor."""


class _Part(TorchFunctionMode):
    """Draws for a block of ``total`` examples, and returns the rows of ``count`` of them from ``first`` on.

    The first axis of what is drawn must be the examples', with the same number of consecutive rows for each.
    A shape whose first axis is not a multiple of ``count`` is drawn as it is.
    """

    def __init__(self, first: int, count: int, total: int) -> None:
        super().__init__()
        self.first, self.count, self.total = first, count, total
        self.whole = False
        """Whether the caller draws for the whole block (``of_block``)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.whole and func.__hash__ is not None:
            if func in _FILLS and self._per_row(args[0].shape):
                return self._filled(func, args, kwargs)
            if func in _LIKE:
                return self._like(func, args, kwargs)
            if func in _OF_SIZE or func in _OF_BOUNDS:
                return self._sized(func, args, kwargs)
        return func(*args, **kwargs)

    def _per_row(self, shape: Any) -> bool:
        return len(shape) > 0 and shape[0] > 0 and shape[0] % self.count == 0

    def _block(self, shape: Any) -> tuple[int, ...]:
        """The shape for the whole block."""
        return (shape[0] // self.count * self.total, *shape[1:])

    def _mine(self, drawn: Tensor) -> Tensor:
        each = len(drawn) // self.total
        return drawn.narrow(0, self.first * each, self.count * each).clone()

    def _filled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        target: Tensor = args[0]
        others = [self._padded(arg, target.shape) for arg in args[1:]]
        with torch.no_grad():
            return target.copy_(
                self._mine(func(target.new_empty(self._block(target.shape)), *others, **kwargs))
            )

    def _like(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [*args, *kwargs.values()]
        shape = next((arg.shape for arg in given if isinstance(arg, Tensor)), None)
        if shape is None or not self._per_row(shape):
            sized = func is torch.normal and "size" in kwargs
            return self._sized(func, args, kwargs) if sized else func(*args, **kwargs)
        args = tuple(self._padded(arg, shape) for arg in args)
        return self._mine(func(*args, **{name: self._padded(arg, shape) for name, arg in kwargs.items()}))

    def _sized(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of a shape, which is given by name, as the last parameter, or as all of them."""
        if "size" in kwargs:
            shape = tuple(kwargs["size"])
            rest: tuple[Any, ...] = args
        elif args and not isinstance(args[-1], int):
            shape, rest = tuple(args[-1]), args[:-1]
        else:
            shape, rest = args, ()
        if not self._per_row(shape):
            return func(*args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name != "size"}
        return self._mine(func(*rest, self._block(shape), **kwargs))

    def _padded(self, arg: Any, shape: Any) -> Any:
        """Parameters of the rows at their places in the block; the others have those of the first row."""
        if not isinstance(arg, Tensor) or arg.shape[:1] != shape[:1]:
            return arg
        each = len(arg) // self.count
        block = arg[:1].repeat(self.total * each, *[1] * (arg.ndim - 1))
        block[self.first * each : (self.first + self.count) * each] = arg
        return block


_PART: ContextVar[_Part | None] = ContextVar("_PART", default=None)


@contextlib.contextmanager
def part_of_block(first: int, count: int, total: int) -> Iterator[None]:
    """Inside, torch draws for ``total`` examples and keeps those of ``count`` from ``first`` on.

    Draws by rejection (gamma distributions) depend on the part all the same.
    """
    if count == total:
        yield
        return
    mode = _Part(first, count, total)
    token = _PART.set(mode)
    try:
        with mode:
            yield
    finally:
        _PART.reset(token)


def block_size(n: int) -> int:
    """The number of examples of the block that n examples are a part of, or are."""
    part = _PART.get()
    return n if part is None else part.total


def of_block(draw: Callable[[int], Tensor], n: int) -> Tensor:
    """The rows of n examples of what ``draw`` draws for a number of examples, (number, …)."""
    part = _PART.get()
    if part is None:
        return draw(n)
    assert n == part.count
    part.whole = True
    try:
        return draw(part.total)[part.first : part.first + n]
    finally:
        part.whole = False
