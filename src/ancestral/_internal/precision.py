"""The one place that decides in which precision networks compute, in training and in sampling.

Weights, the optimiser, laws (with the flows in them) and likelihoods are in fp32 whatever is decided here:
only matrix products and convolutions inside the networks move to bf16, through autocast. Bounds are never
autocast.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

NAMES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WORTH = 1.3
"""How many times faster bf16 must be than fp32 before it is taken for it."""
_THIN = 3
"""Images with a shorter side are computed in fp32 on a CPU: in bf16 torch 2.13 computes gradients of
convolutions of stride 2 from memory that was never written, where their images are one or two pixels wide."""
MANY_ROWS = 1000
"""From so many rows at once on, an mlp's weights are cast for little beside what its products save."""


def compute_dtype(precision: str, device: torch.device, chain: nn.Module, *, rows: int = 0) -> torch.dtype:
    """fp32 or bf16 for "fp32", "bf16" or "auto".

    "auto" is bf16 on a GPU that has it, and on a CPU that is faster in it: for chains with convolutions, and
    for others where ``rows``, how many go through the networks at once, are ``MANY_ROWS`` or more, as with
    many draws of a latent for each example.
    """
    if precision != "auto":
        return NAMES[precision]
    if any(p.dtype == torch.float64 for p in chain.parameters()):
        return torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        convolves = any(isinstance(m, nn.Conv2d) for m in chain.modules())
        if convolves and min(_sides(chain)) < _THIN:
            return torch.float32
        fast = (convolves or rows >= MANY_ROWS) and _cpu_is_faster_in_bf16("conv" if convolves else "mlp")
    return torch.bfloat16 if fast else torch.float32


def _sides(chain: nn.Module) -> tuple[int, ...]:
    """Height and width of a chain's images; such as need no care where it has none."""
    shape = getattr(getattr(chain, "spec", None), "shape", ())
    return tuple(shape[1:]) or (_THIN,)


def name_of(dtype: torch.dtype) -> str:
    """ "fp32" or "bf16", as options and reports name what ``compute_dtype`` decided."""
    return next(name for name, named in NAMES.items() if named == dtype)


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast to bf16, or nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """In the precision of the tensors themselves, for a law that computes with networks of its own."""
    return torch.autocast(device.type, enabled=False)


def _cpu_is_faster_in_bf16(network: str) -> bool:
    # These two are torch's own probes of the processor; a torch without them is taken to have none.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes) and (
        _cpu_gain(network) > _WORTH
    )


@functools.cache
def _cpu_gain(network: str) -> float:
    """How many times faster a "conv" or an "mlp" is in bf16 than in fp32, measured once, in milliseconds.

    That a processor has the instructions does not say so: there are those on which it is half as fast,
    and those on which it is three or, with AMX, four times as fast.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        call = _convolution(dtype) if network == "conv" else _product(dtype)
        laps = []
        for _ in range(6):
            start = time.perf_counter()
            call()
            laps.append(time.perf_counter() - start)
        seconds[dtype] = min(laps)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _convolution(dtype: torch.dtype) -> Callable[[], object]:
    x = torch.zeros(16, 64, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1)


def _product(dtype: torch.dtype) -> Callable[[], object]:
    x, weight = torch.zeros(MANY_ROWS, 256, dtype=dtype), torch.zeros(256, 256, dtype=dtype)
    return lambda: F.linear(x, weight)
