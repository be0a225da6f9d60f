"""The fastest that this machine goes: products, convolutions, memory and calls, measured in seconds.

A rate is the best of several repetitions: what slows one down (other processes, a cold cache) is not the
machine's ceiling. Each of the rates is of one large operation of torch, as networks call it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ancestral._internal.precision import NAMES

_LEAST = 3
"""Repetitions that are made however long they take, after one to warm up."""


@dataclass(frozen=True)
class Sizes:
    """How large the measured operations are."""

    matrix: int
    """Rows and columns of square matrices."""
    images: int
    channels: int
    """Of convolutions 3×3 on images of ``side`` × ``side``, as many in as out."""
    side: int
    copied: int
    """Bytes of the array that is copied; it must not fit in a cache."""


CPU = Sizes(matrix=1536, images=64, channels=64, side=32, copied=1 << 28)
CUDA = Sizes(matrix=8192, images=256, channels=256, side=32, copied=1 << 31)


@dataclass(frozen=True)
class Ceilings:
    """Measured rates, by precision ("fp32", "bf16") in FLOP/s where a precision matters."""

    products: dict[str, float]
    """Of a product of two square matrices."""
    convolutions: dict[str, float]
    """Of a 3×3 convolution of channels-last images, forward."""
    convolution_steps: dict[str, float]
    """The same, forward and backward (both gradients)."""
    bandwidth: float
    """Bytes/s of a large copy, read and written ones together."""
    call: float
    """Seconds that the smallest operation takes: what each call costs however little it does."""

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return asdict(self)


def measure_ceilings(device: torch.device, *, seconds: float = 8.0, sizes: Sizes | None = None) -> Ceilings:
    """Measure them, in about ``seconds`` (more where a single operation takes longer than its share)."""
    sizes = sizes or (CUDA if device.type == "cuda" else CPU)
    share = seconds / (3 * len(NAMES) + 2)
    generator = torch.Generator(device).manual_seed(0)

    def rate(flops: int, call: Callable[[Tensor, Tensor], object], a: Tensor, b: Tensor) -> float:
        return flops / best_time(lambda: call(a, b), device, seconds=share)

    products, forward, steps = {}, {}, {}
    for name, dtype in NAMES.items():
        shape = (sizes.matrix, sizes.matrix)
        a, b = (torch.randn(shape, device=device, generator=generator).to(dtype) for _ in range(2))
        products[name] = rate(2 * sizes.matrix**3, torch.matmul, a, b)
        x, kernel = _images(sizes, dtype, generator)
        flops = 2 * sizes.images * (sizes.side * sizes.channels) ** 2 * 9
        forward[name] = rate(flops, _without_gradients, x, kernel)
        steps[name] = rate(3 * flops, _with_gradients, x, kernel)
    return Ceilings(products, forward, steps, _bandwidth(device, sizes, share), _call(device, share))


def best_time(call: Callable[[], object], device: torch.device, *, seconds: float) -> float:
    """The least seconds of ``call`` in as many repetitions as fit in ``seconds``, and at least three."""
    call()
    best, end, count = math.inf, time.perf_counter() + seconds, 0
    while count < _LEAST or time.perf_counter() < end:
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _images(sizes: Sizes, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (sizes.images, sizes.channels, sizes.side, sizes.side)
    x = torch.randn(shape, device=generator.device, generator=generator).to(dtype)
    kernel = torch.randn((shape[1], shape[1], 3, 3), device=generator.device, generator=generator).to(dtype)
    layout = torch.channels_last
    return (
        x.contiguous(memory_format=layout).requires_grad_(),
        kernel.contiguous(memory_format=layout).requires_grad_(),
    )


def _without_gradients(x: Tensor, kernel: Tensor) -> None:
    with torch.no_grad():
        F.conv2d(x, kernel, padding=1)


def _with_gradients(x: Tensor, kernel: Tensor) -> None:
    out = F.conv2d(x, kernel, padding=1)
    torch.autograd.grad(out, (x, kernel), out.detach())


def _bandwidth(device: torch.device, sizes: Sizes, seconds: float) -> float:
    source = torch.zeros(sizes.copied // 4, device=device)
    target = torch.ones_like(source)
    return 2 * 4 * source.numel() / best_time(lambda: target.copy_(source), device, seconds=seconds)


def _call(device: torch.device, seconds: float) -> float:
    one, count = torch.ones(1, device=device), 200

    def calls() -> None:
        for _ in range(count):
            one.neg_()

    with torch.no_grad():
        return best_time(calls, device, seconds=seconds) / count
