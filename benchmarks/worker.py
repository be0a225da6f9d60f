"""The process of one contender: makes it, then answers each line of standard input with one of JSON.

A question is {"steps": n}, with "reset" to forget the peak of memory so far. Not for people: ``paired``
starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from typing import Any

import torch
from paired import Contender, made

from ancestral.experiments.bench import this_machine
from ancestral.experiments.bench.ceilings import synchronize
from ancestral.experiments.bench.memory import held, peak, reset_peak

_IMPORTED = [0]


def imported(device: torch.device) -> None:
    """Called by a contender when its libraries are imported, before anything is built: memory from here on
    is its own. torch's compiler is imported for all, as optimisers import a part of it anyway."""
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.compile_fx")
    _IMPORTED[0] = held(device)


def answer(contender: Contender, question: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Take steps."""
    if question.get("reset"):
        reset_peak(device)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(question["steps"]):
        contender.step()
    synchronize(device)
    seconds = time.perf_counter() - start
    return {
        "steps": question["steps"],
        "images": question["steps"] * contender.images,
        "seconds": seconds,
        "memory": peak(device) - _IMPORTED[0],
    }


def main() -> None:
    """Make the contender, tell what it is, and answer until standard input ends."""
    # Answers go to the real standard output; what libraries print goes beside it.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    contender = made(sys.argv[1], json.loads(sys.argv[2]))
    device = torch.device(contender.device)
    facts = {
        "version": contender.version,
        "parameters": contender.parameters,
        "flops": contender.flops,
        "machine": str(this_machine(device)),
    }
    print(json.dumps(facts), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(contender, json.loads(line), device)), file=out, flush=True)


if __name__ == "__main__":
    # Contenders import this module by its name, and must find this one.
    sys.modules["worker"] = sys.modules["__main__"]
    main()
