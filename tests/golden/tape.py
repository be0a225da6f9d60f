"""Numbers that depend on their names alone, and noise that comes from them in the place of torch's."""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from unittest import mock

import numpy as np
import torch

REFUSED = ("normal", "bernoulli", "multinomial", "poisson", "randint", "randint_like", "randperm")
REFUSED_IN_PLACE = ("bernoulli_", "exponential_", "random_", "cauchy_", "geometric_", "log_normal_")


def numpy_for(key):
    """A numpy generator that the text ``key`` seeds; numpy keeps the streams of this kind as they are."""
    return np.random.RandomState(zlib.crc32(key.encode()))


class Tape:
    """Tensors by (seed, kind, shape, index): the index counts the draws of one kind and shape.

    So draws of different shapes may change places. The kind is "normal" or "uniform", whatever function asks:
    ``randn_like(x)`` and ``randn(x.shape, generator=g)`` give the same numbers.
    """

    def __init__(self, seed):
        self.seed = seed
        self.drawn = Counter()

    def numbers(self, kind, shape):
        """The next tensor of a kind and shape, in float64."""
        index = self.drawn[kind, tuple(shape)]
        self.drawn[kind, tuple(shape)] += 1
        generator = numpy_for(f"{self.seed} {kind} {tuple(shape)} {index}")
        draw = generator.standard_normal if kind == "normal" else generator.random_sample
        return torch.from_numpy(np.array(draw(tuple(shape)), dtype=np.float64))

    def maker(self, kind):
        """In the place of ``torch.randn`` or ``torch.rand``."""

        def make(*size, out=None, dtype=None, **_):
            shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
            values = self.numbers(kind, shape)
            if out is not None:
                return out.resize_(values.shape).copy_(values)
            return values.to(dtype or torch.get_default_dtype())

        return make

    def liker(self, kind):
        """In the place of ``torch.randn_like`` or ``torch.rand_like``."""

        def like(x, *, dtype=None, **_):
            return self.numbers(kind, x.shape).to(dtype or x.dtype)

        return like

    def filler(self, kind):
        """In the place of ``Tensor.normal_`` or ``Tensor.uniform_``."""

        def fill(x, first=0.0, second=1.0, *, generator=None):
            values = self.numbers(kind, x.shape)
            with torch.no_grad():
                return x.copy_(first + values * (second if kind == "normal" else second - first))

        return fill


def _refused(name):
    def refuse(*_, **__):
        raise AssertionError(f"{name} draws, and is not on the tape: add it to tape.py")

    return refuse


@contextlib.contextmanager
def tape(seed):
    """Have torch draw from a ``Tape`` on the CPU. Draws that would escape it are errors."""
    reel = Tape(seed)
    before = torch.default_generator.get_state()
    with contextlib.ExitStack() as stack:

        def put(owner, name, function):
            stack.enter_context(mock.patch.object(owner, name, function))

        for stem, kind in (("randn", "normal"), ("rand", "uniform")):
            put(torch, stem, reel.maker(kind))
            put(torch, f"{stem}_like", reel.liker(kind))
            put(torch.Tensor, f"{kind}_", reel.filler(kind))
        for name in REFUSED:
            put(torch, name, _refused(f"torch.{name}"))
        for name in REFUSED_IN_PLACE:
            put(torch.Tensor, name, _refused(f"Tensor.{name}"))
        yield reel
    assert torch.equal(before, torch.default_generator.get_state()), "something drew beside the tape"
