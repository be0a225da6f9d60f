"""``ancestral sample``: samples from a run, as a picture or an array."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ancestral._internal import checks
from ancestral.cli.options import CheckpointOption, Flag, say_checkpoint
from ancestral.cli.parsing import parse
from ancestral.cli.saving import FORMS, TABLES, as_array, check_images_folder, save_array, save_images
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import Compile, Device, Precision

if TYPE_CHECKING:
    from ancestral.experiments.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Sample(ThreadOptions, CheckpointOption):
    """Draw samples from a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    out: Path
    """A .png (a grid of images, a scatter of points); a .npy, or a .npz with the array "samples": images (N, H, W)
    or (N, H, W, C), vectors (N, D); for vectors a .csv or .parquet, whose columns are named as the data's; for
    images a new or empty folder (a name without a suffix), which gets a file for each: 00000.png, 00001.png, …"""
    n: int | None = None
    """How many; by default 64, or 8 with --trajectory."""
    seed: int = 0
    """Decides every random number. Sample i follows from the seed and i alone: the first samples of a larger --n
    are the same."""
    final: Literal["mean", "draw"] | None = None
    """The last step: the mean of p(x|z_1), as the lecture notes decode, or a draw from it. The few-step
    samplers take the network's prediction of x for the mean. By default the mean for images and a draw for
    vectors. In draws, columns whose training values are all whole numbers are rounded, and limited to the range of
    these values."""
    sampler: Literal["ancestral", "ddim", "dpm++2m", "dpm++2m-sde", "heun"] = "ancestral"
    """ddpm: ancestral is the model itself; the others are made for few steps."""
    steps: int | None = None
    """ddpm: use this many of the T levels (fewer are faster, and no longer the same model). By default the
    ancestral sampler uses all, and the others at most 50."""
    eta: float | None = None
    """ddim: 0 (the default) adds no noise on the way, 1 as much as the ancestral sampler."""
    spacing: Literal["snr", "diffusers"] | None = None
    """The levels of the few-step samplers: snr (the default) for any schedule, or those diffusers takes."""
    trajectory: Flag = False
    """ddpm: the states on the way from noise to sample, in ten columns."""
    batch_size: int | None = None
    """Samples that go through the networks at once; by default 32 on a CPU and 256 on a GPU. Another number
    changes samples by rounding errors only."""
    precision: Precision = "auto"
    """Of the networks: auto is bf16 where the hardware is faster in it. Distributions and states are fp32."""
    compile: Compile = "auto"
    """ddpm: compile the network; auto does so on a GPU where it is called some thousands of times."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""

    @property
    def folder(self) -> bool:
        """Whether ``out`` is a folder of single images."""
        return self.out.suffix == "" or self.out.is_dir()

    def __post_init__(self) -> None:
        self.check_threads()
        if self.n is not None:
            checks.integer("n", self.n, low=1, high=10_000_000)
        checks.integer("seed", self.seed, low=0)
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, low=1)
        if self.out.suffix not in FORMS and not self.folder:
            raise ValueError(
                f"--out is {self.out}; it must end in {', '.join(FORMS[:-1])} or {FORMS[-1]}, or be a folder's "
                "name, without a suffix."
            )
        if self.trajectory and (self.folder or self.out.suffix not in (".png", ".npz")):
            raise ValueError(f"--out is {self.out}; with --trajectory it must end in .png or .npz.")


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Sample, arguments, prog="ancestral sample")
    from ancestral.experiments.runs import RunFolder, load_run, pick_device
    from ancestral.sampling import Sampler, usual_final

    sampler = Sampler.named(options.sampler, options.steps, options.eta, options.spacing)
    folder = RunFolder.open(options.run, checkpoint=options.checkpoint)
    use_threads(options, options.run)
    chain = load_run(folder).to(pick_device(options.device))
    if options.folder:
        check_images_folder(options.out, chain.spec)
    elif chain.spec.is_image and options.out.suffix in TABLES:
        raise ValueError(
            f"--out is {options.out}, and {options.run} is a model of images; tables are for vectors. Give a "
            ".png, .npy or .npz."
        )
    given = {
        "--sampler": options.sampler != "ancestral",
        "--steps": options.steps is not None,
        "--trajectory": options.trajectory,
        "--compile": options.compile == "on",
    }
    name = next((name for name, here in given.items() if here), None)
    if name is not None and not chain.denoises:
        raise ValueError(
            f"{name} is for a ddpm, and {options.run} is a {type(chain).__name__}. Leave it out."
        )
    sampler.check(chain)
    say_checkpoint(folder)
    final = options.final or usual_final(chain)
    found = _draw(chain, options, sampler, final)
    _save(options, chain.spec, found.levels, found.states, folder, final)
    print(f"{len(found.states[-1])} samples written to {options.out}", file=sys.stderr)


def _draw(chain: Any, options: Sample, sampler: Any, final: str) -> Any:
    """The states kept, as ``sampling.trajectory`` returns them."""
    from ancestral.cli.progress import example_progress
    from ancestral.sampling import trajectory

    with example_progress("sampling") as progress:
        return trajectory(
            chain,
            options.n or (8 if options.trajectory else 64),
            sampler=sampler,
            final=final,
            frames=10 if options.trajectory else 1,
            seed=options.seed,
            batch_size=options.batch_size,
            precision=options.precision,
            compile=options.compile,
            progress=progress,
        )


def _save(
    options: Sample, spec: Any, levels: list[int], states: list[Any], folder: RunFolder, final: str
) -> None:
    import numpy as np

    from ancestral.evaluation import save_picture, save_trajectory

    if options.folder:
        save_images(options.out, states[-1], spec)
        return
    if options.out.suffix == ".png":
        if options.trajectory:
            save_trajectory(options.out, levels, states, spec)
        else:
            save_picture(options.out, states[-1], spec)
        return

    arrays = {"samples": as_array(states[-1], spec)}
    whole = folder.whole if final == "draw" else None
    if whole is not None:
        arrays["samples"] = _rounded(arrays["samples"], whole, folder.columns)
    if options.trajectory:
        arrays["trajectory"] = np.stack([_as_floats(as_array(state, spec)) for state in states])
        arrays["trajectory_levels"] = np.array(levels)
    integers = None if whole is None else [ends is not None for ends in whole]
    save_array(options.out, arrays, columns=folder.columns, whole=integers)


def _as_floats(values: Any) -> Any:
    """float32, or float64 where the data are of 64 bits."""
    return values if values.dtype == "float64" else values.astype("float32")


def _rounded(samples: Any, whole: Any, columns: tuple[str, ...] | None) -> Any:
    """The samples with whole numbers where the training data have them, and a line that says so."""
    from ancestral.experiments.runs.whole import rounded

    out, outside = rounded(samples, whole)
    names = columns or [f"column {number}" for number in range(1, len(whole) + 1)]
    told = [
        f"{name} ({count} outside {ends[0]} … {ends[1]})" if count else name
        for name, count, ends in zip(names, outside, whole, strict=True)
        if ends is not None
    ]
    if told:
        print(
            f"rounded to whole numbers within the range of the training values: {', '.join(told)}",
            file=sys.stderr,
        )
    return out
