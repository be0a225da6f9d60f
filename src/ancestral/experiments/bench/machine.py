"""What a measurement was made on: processor or GPU, threads, instruction sets, the version of torch."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

_TOLD = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512_fp16", "avx512f", "avx2", "bf16", "sve", "asimd")
"""Instruction sets that decide how fast matrix products are."""


@dataclass(frozen=True)
class Machine:
    """A machine, in words that tell it from others."""

    device: str
    """The GPU's name, or the processor's."""
    cores: int
    """Threads that torch computes with on the CPU."""
    instructions: tuple[str, ...]
    """The processor's, of those that matter; nothing for a GPU or where the system does not say."""
    torch: str

    def __str__(self) -> str:
        sets = f" ({', '.join(self.instructions)})" if self.instructions else ""
        cores = f"{self.cores} thread{'' if self.cores == 1 else 's'}"
        return f"{self.device}{sets}, {cores}, torch {self.torch}"

    def json(self) -> dict[str, object]:
        """As in the commands' JSON."""
        return {**asdict(self), "instructions": list(self.instructions)}


def this_machine(device: torch.device) -> Machine:
    """The machine that ``device`` is of."""
    threads, version = torch.get_num_threads(), torch.__version__
    if device.type == "cuda":
        return Machine(torch.cuda.get_device_name(device), threads, (), version)
    name, flags = processor(_cpuinfo())
    return Machine(name or platform.processor() or platform.machine(), threads, flags, version)


def processor(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """The processor's name (empty when not given) and instruction sets, from the text of /proc/cpuinfo."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return facts.get("model name", ""), tuple(name for name in _TOLD if name in flags)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
