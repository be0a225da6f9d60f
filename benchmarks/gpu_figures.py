"""A few figures of a GPU in minutes: what compiling brings, and diffusers beside it. For gpu_check.py.

    python benchmarks/gpu_figures.py PART OUT.json

Parts: "vae" and "ddpm" time training steps, compiled (on a GPU, replayed as a CUDA graph) and plain; "equal"
takes steps both ways and compares the losses; "sampling" times 20 DDIM steps. The DDPM is the U-Net of
``gpu.py`` at 32×32×3 in bf16. All sides of a part are started and compiled at once, and timed in turns.
``--dry-run`` does it on the CPU with tiny shapes; what it prints means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ours
import torch
from gpu import DIFFUSERS, OURS, SHAPE, TINY
from paired import Candidate, Contender, Side, Worker, check_same_size, compare, rounds
from vae_training import BATCH as VAE_BATCH
from vae_training import OURS as VAE
from vae_training import SHAPE as VAE_SHAPE

CALLS, EQUAL_STEPS = 20, 10
ALLOWED = 0.02
"""How far apart, as a share, losses in bf16 may be whose sums are in another order."""
BF16 = {"layout": True, "bf16": True}
"""diffusers at its best on a GPU: channels-last memory and bf16."""


def training(**options: Any) -> Contender:
    """As ``ours.training``, but an error where steps are not compiled that should be."""
    warnings.filterwarnings("error", message="steps are not compiled")
    return ours.training(**options)


def sampling(**options: Any) -> Contender:
    """As ``ours.sampling``, likewise."""
    contender = ours.sampling(**options)

    def step() -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            contender.step()
        if "not compiled" in said.getvalue():
            raise RuntimeError(said.getvalue())

    return replace(contender, step=step)


class Found:
    """What a part gives: records of figures, which of our sides failed, and which peers were left out."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def sides(self, candidates: list[Candidate], options: argparse.Namespace) -> dict[str, Side]:
        """The sides that run here, by label."""
        if importlib.util.find_spec("diffusers") is None:
            candidates = [one for one in candidates if not one[0].startswith("diffusers")]
            self.left_out["diffusers"] = "not installed"
        with ThreadPoolExecutor(len(candidates)) as pool:
            started = list(pool.map(_started, candidates))
        workers = []
        for (label, *_), one in zip(candidates, started, strict=True):
            if isinstance(one, Worker):
                workers.append(one)
            else:
                (self.failed if label.startswith("ancestral") else self.left_out)[label] = one
        return {side.label: side for side in rounds(workers, options)} if workers else {}

    def compare(
        self, name: str, candidates: list[Candidate], options: argparse.Namespace, *, checked: bool = True
    ) -> None:
        """One record of the first of our sides that runs beside each of the others."""
        sides = list(self.sides(candidates, options).values())
        if not sides or not sides[0].label.startswith("ancestral"):
            return
        first, *others = sides
        for other in others:
            if checked and not options.dry_run:
                check_same_size(first, other)
            batch = candidates[0][2].get("batch")
            more = {"steps_per_second": [side.rate / batch for side in (first, other)]} if batch else {}
            record = compare(f"{name}: {first.label}", first, other, **more)
            self.records.append({**record, "note": "Of a short run, `make test-gpu`."})


def _started(candidate: Candidate) -> Worker | str:
    """A worker that has taken its first steps, so that it is compiled; or why there is none."""
    try:
        worker = Worker(*candidate)
        worker.ask(steps=3)
    except (SystemExit, OSError) as failed:
        return str(failed)
    return worker


def vae(found: Found, options: argparse.Namespace) -> None:
    """Training of the small VAE, compiled and plain, beside the bare eager loop."""
    here = {"shape": VAE_SHAPE, "batch": VAE_BATCH, "device": options.device}
    given = {"kind": VAE["kind"], "levels": VAE["levels"], "model": VAE["model"], **here}
    candidates = [
        *_compiled_and_plain("gpu_figures:training", given, VAE["options"]),
        ("bare loop", "vae_training:bare_training", {"batch": VAE_BATCH, "device": options.device}),
    ]
    found.compare(f"VAE training, 784-200-200-50, batch {VAE_BATCH}", candidates, options)


def ddpm(found: Found, options: argparse.Namespace) -> None:
    """Training of the U-Net, compiled and plain, beside diffusers at its best, likewise."""
    here = {"shape": SHAPE, "batch": options.batch, "device": options.device}
    candidates = [
        *_compiled_and_plain("gpu_figures:training", {**here, "model": options.ours}, {"precision": "bf16"}),
        *_diffusers("peers:diffusers_training", {**here, **options.diffusers}),
    ]
    found.compare(f"DDPM training, 32×32×3, batch {options.batch}", candidates, options)


def sampling_(found: Found, options: argparse.Namespace) -> None:
    """Sampling by the U-Net, compiled and plain, beside diffusers at its best, likewise."""
    here = {"shape": SHAPE, "n": 2 * options.batch, "steps": options.calls, "device": options.device}
    given = {**here, "model": options.ours}
    candidates: list[Candidate] = [
        ("ancestral, compiled", "gpu_figures:sampling", {**given, "compile": "on"}),
        ("ancestral, plain", "gpu_figures:sampling", {**given, "compile": "off"}),
        *_diffusers("peers:diffusers_sampling", {**here, **options.diffusers}),
    ]
    found.compare(f"DDPM sampling, 32×32×3, {options.calls} network calls", candidates, options)


def equal(found: Found, options: argparse.Namespace) -> None:
    """The losses of the U-Net's first steps, compiled and plain, from the same weights and draws."""
    from torch._dynamo.utils import counters

    losses, norms = {}, {}
    for compile_ in ("off", "on"):
        contender = training(
            shape=SHAPE,
            batch=options.batch,
            model=options.ours,
            device=options.device,
            options={"compile": compile_, "precision": "bf16", "learning_rate": 1e-3},
        )
        records: list[Any] = [contender.step() for _ in range(EQUAL_STEPS)]
        losses[compile_] = [float(record.loss) for record in records]
        norms[compile_] = [float(record.gradient_norm) for record in records]
    apart, norms_apart = (
        max(abs(a / b - 1.0) for a, b in zip(of["on"], of["off"], strict=True)) for of in (losses, norms)
    )
    skips = int(counters["inductor"]["cudagraph_skips"])
    name = f"DDPM, compiled and plain, {EQUAL_STEPS} steps"
    print(
        f"{name}: losses {apart:.2g} apart, gradients' norms {norms_apart:.2g}, graphs not captured: {skips}"
    )
    found.records.append(
        {
            "name": name,
            "losses_apart": apart,
            "allowed": ALLOWED,
            "norms_apart": norms_apart,
            "cudagraph_skips": skips,
            "cudagraph_partitions": int(counters["inductor"]["cudagraph_partitions"]),
            "losses": losses,
        }
    )
    if not apart <= ALLOWED:
        found.failed["compiled equals plain"] = f"losses are {apart:.2g} apart; {ALLOWED:g} is allowed"
    if skips:
        found.failed["replayed as a CUDA graph"] = f"torch left out {skips} graphs: TORCH_LOGS=perf_hints"


PARTS = {"vae": vae, "ddpm": ddpm, "equal": equal, "sampling": sampling_}


def _compiled_and_plain(make: str, given: dict[str, Any], training: dict[str, Any]) -> list[Candidate]:
    return [
        (f"ancestral, {name}", make, {**given, "options": {**training, "compile": compile_}})
        for name, compile_ in (("compiled", "on"), ("plain", "off"))
    ]


def _diffusers(make: str, given: dict[str, Any]) -> list[Candidate]:
    return [
        (f"diffusers, {name}", make, {**given, "best": {**BF16, "compiled": compiled}})
        for name, compiled in (("layout, bf16, compiled", True), ("layout, bf16", False))
    ]


def main() -> int:
    """Take one part and write what it found; exit status 1 where one of our sides failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    dry = options.dry_run
    options.device, options.batch, options.calls = ("cpu", 2, 2) if dry else ("cuda", 128, CALLS)
    options.rounds, options.warm_up, options.seconds = (2, 1, 0.01) if dry else (3, 20, 1.5)
    options.ours = {**ours.NOTES, **(TINY if dry else OURS)}
    options.diffusers = TINY if dry else DIFFUSERS
    if not dry and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_figures.py needs a CUDA GPU, and torch sees none here; try --dry-run.")
    found = Found()
    PARTS[options.part](found, options)
    options.out.write_text(json.dumps(vars(found)), encoding="utf-8")
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
