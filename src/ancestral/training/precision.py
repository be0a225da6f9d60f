"""The one place that decides in which precision the networks of a training step compute.

Weights, the optimiser, laws and likelihoods are in fp32 whatever is decided here: only matrix products
and convolutions inside the networks move to bf16, through autocast.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn


def training_dtype(precision: str, device: torch.device, chain: nn.Module) -> torch.dtype:
    """fp32 or bf16 for "fp32", "bf16" or "auto".

    "auto" is bf16 on a GPU that has it, and on a CPU with bf16 instructions for chains with
    convolutions: casting the weights of a small mlp costs more there than its products save.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if any(p.dtype == torch.float64 for p in chain.parameters()):
        return torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = _cpu_multiplies_bf16() and any(isinstance(m, nn.Conv2d) for m in chain.modules())
    return torch.bfloat16 if fast else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast to bf16, or nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def _cpu_multiplies_bf16() -> bool:
    # These two are torch's own probes of the processor; a torch without them is taken to have none.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
