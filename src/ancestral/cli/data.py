"""``ancestral data``: what a source of data holds, and what would be done with it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ancestral._internal import checks
from ancestral.cli.options import DataChoices, Flag
from ancestral.cli.parsing import parse
from ancestral.config import DDPMConfig, HVAEConfig, ModelConfig, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Data(DataChoices):
    """Look at data before a model is trained on them."""

    data: Annotated[str, tyro.conf.Positional]
    """digits, swiss-roll, moons, a folder of IDX files or of images, a .npy, .npz, .csv or .parquet file, or
    hf:NAME[:COLUMN]."""
    out: Path | None = None
    """Write the first training examples here as a .png, as a model is trained on them: a grid of images, a
    scatter of points."""
    n: int = 64
    """How many of them."""
    json: Flag = False
    """Print one JSON object on standard output."""

    def __post_init__(self) -> None:
        checks.integer("n", self.n, low=1, high=10_000)
        if self.out is not None:
            checks.suffix("--out", self.out, (".png",))


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Data, arguments, prog="ancestral data")
    config = options.data_config
    from ancestral.cli.progress import reading_progress
    from ancestral.experiments.runs.loading import load_configured

    with reading_progress() as progress:
        data = load_configured(config, progress=progress)
    facts = {
        **data.describe(),
        "dims": data.spec.dims,
        "classes": _classes(data),
        "models": _models(data.spec),
    }
    if options.out is not None:
        _picture(data, options)
    if options.json:
        print(json.dumps(facts))
    else:
        _tell(facts)


def _classes(data: Any) -> dict[str, int] | None:
    """How many training examples each class has."""
    labels = data.train.labels
    if labels is None:
        return None
    counts = labels.bincount(minlength=len(data.class_names or ()))
    names = data.class_names or [str(number) for number in range(len(counts))]
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _models(spec: Any) -> dict[str, str]:
    """What each model would be, with the options it has by default."""
    import torch

    from ancestral.experiments.build import build_chain
    from ancestral.training.objective import objective_of

    kinds: dict[str, ModelConfig] = {"vae": VAEConfig(), "hvae": HVAEConfig(), "ddpm": DDPMConfig()}
    found = {}
    for name, config in kinds.items():
        try:
            with torch.random.fork_rng():
                chain = build_chain(config, spec)
        except ValueError as error:
            found[name] = f"cannot be built: {error}"
            continue
        weights = sum(parameter.numel() for parameter in chain.parameters())
        found[name] = (
            f"{type(chain).__name__}, {weights:,} parameters, p(x|z_1) {chain.summary.likelihood}; "
            f"loss: {objective_of(chain).name}"
        )
    return found


def _picture(data: Any, options: Data) -> None:
    import torch

    from ancestral.evaluation import save_picture

    assert options.out is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of dynamic bits and augmentations
        x = data.batch(torch.arange(min(options.n, len(data.train))))
    save_picture(options.out, x, data.spec)
    print(f"written: {options.out}, {len(x)} training examples as a model sees them", file=sys.stderr)


def _tell(facts: dict[str, Any]) -> None:
    shape, levels = facts["shape"], facts["levels"]
    what = (
        f"images, {shape[2]} wide, {shape[1]} high, {'grey' if shape[0] == 1 else f'{shape[0]} channels'}"
        if len(shape) == 3
        else f"vectors of {shape[0]} real numbers"
    )
    lines = {
        "source": facts["source"],
        "examples": f"{what} (D = {facts['dims']:,})",
        "levels": f"{levels} ({facts['levels_origin']})" if levels else facts["levels_origin"],
        "training": f"{facts['train']:,}",
        "validation": ", ".join(filter(None, [f"{facts['validation']:,}", facts["validation_origin"]])),
        "test": f"{facts['test']:,}, {facts['test_origin']}",
        "labels": _counted(facts["classes"]),
        "columns": ", ".join(facts["columns"] or []),
        "binarize": facts["binarize"],
        "augment": " ".join(facts["augment"]) or "none; a likelihood is always of data as they are",
    }
    for name, text in lines.items():
        if text:
            print(f"{name:<12} {text}")
        if name == "test":
            for note in facts["notes"]:
                print(f"note         {note}")
    print("with their default options:")
    for name, text in facts["models"].items():
        print(f"  {name:<10} {text}")


def _counted(classes: dict[str, int] | None) -> str:
    if classes is None:
        return "none"
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(classes.items())[:20])
    return f"{len(classes)} classes: {shown}{', …' if len(classes) > 20 else ''}"
