"""Sections to look at: samples and their distances, what latents hold, and how samples come about."""

from __future__ import annotations

import torch
from torch import Tensor

from ancestral.bounds import Estimate
from ancestral.core.spec import DataSpec
from ancestral.data import Dataset
from ancestral.evaluation import latent_walk, reconstruct
from ancestral.experiments.report import charts, images
from ancestral.experiments.report.page import Block, Picture, Scrub, Section, Table
from ancestral.experiments.report.subjects import Subject, Subjects
from ancestral.sampling import Ancestral, draw, quick_sampler, trajectory, usual_final

SAMPLES = 64
_NEAREST = 10
_SEARCHED = 20_000
_SHOWN = 8
_WALKS, _POINTS, _WALK_STEPS = 9, 10, 25
_FRAMES, _FEW = 16, 16
_SEED = 5
_STEPS = 50
"""The levels of a diffusion model that are visited."""
_PIXELS = 250_000
"""Of all channels, in one picture: large images are shown fewer at a time, so that the page stays light."""


def samples_of(one: Subject, n: int) -> Tensor:
    """n samples on the CPU, by ``sampling.quick_sampler``: means of p(x|z_1) for images, draws for vectors."""
    final = usual_final(one.chain)
    return draw(one.chain, n, sampler=quick_sampler(one.chain), final=final, seed=_SEED)


def sample_grids(subjects: Subjects, samples: dict[str, Tensor]) -> Section | None:
    """Grids of test images and of each model's samples; None for vectors."""
    spec = subjects.data.spec
    if not spec.is_image:
        return None
    count = room(SAMPLES, spec)
    sets = {"test data": subjects.data.test.some(count).x.to("cpu")}
    sets |= {name: x[:count] for name, x in samples.items()}
    blocks: list[Block] = [
        Picture(
            images.grid(x, spec, columns=16), f"A grid of {name}", f"{name}, {len(x)} of them", pixels=True
        )
        for name, x in sets.items()
    ]
    return Section("samples", "Samples", blocks, "Not chosen: the first ones of a fixed seed.")


def distances(subjects: Subjects) -> Section | None:
    """Distances of samples beside their floor; None where none were measured."""
    rows, notes = [], []
    for one in subjects.models:
        first = one.figures["sample_quality"]
        for quality in [first, *one.figures.get("sample_quality_also", [])] if first else []:
            found, floor = quality["distance"], quality["floor"]
            rows.append(
                [
                    one.name,
                    quality["features"],
                    f"{found['frechet']:.3g} ({floor['frechet']:.3g})",
                    f"{Estimate.from_json(found['kernel'])} ({Estimate.from_json(floor['kernel'])})",
                    f"{found['precision']:.2f} ({floor['precision']:.2f})",
                    f"{found['recall']:.2f} ({floor['recall']:.2f})",
                ]
            )
            right = quality["accuracy"]
            told = "" if right is None else f", {right:.1%} right on training examples kept from it"
            notes.append(f"{quality['features']}: {quality['description']}{told}")
    if not rows:
        return None
    quality = next(one.figures["sample_quality"] for one in subjects.models if one.figures["sample_quality"])
    heads = ["Model", "Features", "Fréchet (floor)", "Kernel (floor)", "Precision (floor)", "Recall (floor)"]
    caption = (
        f"{quality['n']} samples against the same number of test examples. {'; '.join(dict.fromkeys(notes))}."
    )
    return Section(
        "distances",
        "Sample quality",
        [Table(heads, rows, caption)],
        "The floor is the same figure with training examples in the place of samples: a perfect model "
        "reaches it, and not 0 (or 1). Figures of other features or counts do not compare.",
    )


def nearest(subjects: Subjects, samples: dict[str, Tensor]) -> Section:
    """The training examples nearest to samples, beside how near test examples come."""
    data = subjects.data
    searched = _searched(data)
    test = _least(data.test.some(SAMPLES).x.to("cpu"), searched)[0]
    blocks: list[Block] = []
    rows = [["test examples", f"{float(test.median()):.3g}", f"{float(test.min()):.3g}"]]
    for name, x in samples.items():
        distance, index = _least(x[:SAMPLES], searched)
        rows.append([name, f"{float(distance.median()):.3g}", f"{float(distance.min()):.3g}"])
        if data.spec.is_image:
            pairs = torch.cat([x[:_NEAREST].double(), searched[index[:_NEAREST]].double()])
            blocks.append(
                Picture(
                    images.grid(pairs, data.spec, columns=_NEAREST),
                    f"Samples of the {name} above their nearest training images",
                    f"{name}: samples above, the nearest training image of each below.",
                    pixels=True,
                )
            )
    heads = ["Nearest training example of", "median distance", "least distance"]
    caption = (
        f"Euclidean distance in the data's units (columns over their standard deviation for vectors), "
        f"{min(SAMPLES, len(data.test))} examples each, {len(searched):,} training examples searched."
    )
    return Section(
        "nearest",
        "Nearest training examples",
        [Table(heads, rows, caption), *blocks],
        "A check for memorisation: samples that lie much nearer to training examples than test examples do "
        "are copies.",
    )


def reconstructions(subjects: Subjects) -> Section:
    """Test examples beside what latents from a level upwards keep of them."""
    data = subjects.data
    x = data.test.some(_SHOWN).x.to("cpu")
    blocks: list[Block] = []
    rows = []
    for one in subjects.models:
        found = reconstruct(one.chain, x, steps=_STEPS)
        rows += [
            [one.name, str(level), f"{rmse:.4g}"]
            for level, rmse in zip(found.levels, found.rmse, strict=True)
        ]
        if data.spec.is_image:
            levels = ", ".join(map(str, found.levels))
            blocks.append(
                Picture(
                    images.grid(
                        torch.cat([x.double(), *(part.double() for part in found.x)]),
                        data.spec,
                        columns=len(x),
                    ),
                    f"Test images and their reconstructions by the {one.name}",
                    f"{one.name}: test images above; below them coded by z_t and above, for t = {levels}.",
                    pixels=True,
                )
            )
    heads = ["Model", "coded from level", "root mean square error"]
    return Section(
        "reconstructions",
        "Reconstructions",
        [*blocks, Table(heads, rows, f"Of {len(x)} test examples, in the data's units.")],
        "q codes an example down to level t and p fills in what lies below: what the upper levels know.",
    )


def walks(subjects: Subjects) -> Section | None:
    """From one draw of the prior to another; None where it cannot be shown."""
    data = subjects.data
    if not data.spec.is_image:
        return None
    blocks: list[Block] = []
    for one in subjects.models:
        count = room(_WALKS, data.spec, share=_WALKS * _POINTS)
        found = latent_walk(one.chain, count, points=_POINTS, steps=_WALK_STEPS, seed=_SEED)
        source, ratio = images.frames([found[:, i] for i in range(_POINTS)], data.spec)
        labels = [f"{i / (_POINTS - 1):.0%} of the way" for i in range(_POINTS)]
        blocks.append(
            Scrub(
                source,
                labels,
                ratio,
                f"A latent walk of the {one.name}",
                f"{one.name}: {count} walks.",
                pixels=True,
            )
        )
    return Section(
        "walk",
        "Latent walk",
        blocks,
        "Along the spherical path between two draws from the prior, all levels at once. Move the slider.",
    )


def denoising(subjects: Subjects) -> Section | None:
    """How samples come out of noise; None without a DDPM, or where it cannot be shown."""
    spec = subjects.data.spec
    blocks: list[Block] = []
    for one in subjects.models:
        if not one.chain.denoises or not (spec.is_image or spec.dims == 2):
            continue
        steps = min(one.chain.T, _STEPS)
        count = room(_FEW, spec, share=_FEW * _FRAMES) if spec.is_image else 400
        found = trajectory(
            one.chain,
            count,
            sampler=Ancestral(steps),
            final="mean",
            frames=min(_FRAMES, steps),
            seed=_SEED,
        )
        levels, states = found.levels, found.states
        if spec.is_image:
            source, ratio = images.frames([state.cpu() for state in states], spec)
        else:
            extent = extent_of(subjects.data)
            source, ratio = charts.point_frames([state.cpu().double().numpy() for state in states], extent)
        labels = [f"t = {level}" for level in levels]
        caption = f"{one.name}: from noise at t = {levels[0]} to samples, {steps} of {one.chain.T} levels."
        blocks.append(Scrub(source, labels, ratio, "The denoising trajectory", caption, pixels=spec.is_image))
    if not blocks:
        return None
    return Section("denoising", "Denoising", blocks, "The states of ancestral sampling. Move the slider.")


def room(n: int, spec: DataSpec, *, share: int = SAMPLES) -> int:
    """How many of n images are shown, so that a picture of ``share`` of them stays within ``_PIXELS``."""
    return max(1, min(n, n * _PIXELS // (share * spec.dims)))


def extent_of(data: Dataset) -> list[float]:
    """The part of the plane that the data lie in, with a margin: left, right, bottom, top."""
    x = data.test.some(2000).x.to("cpu").double()
    low, high = x.amin(dim=0), x.amax(dim=0)
    margin = 0.1 * torch.where(high > low, high - low, torch.ones_like(low))
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return [left, right, bottom, top]


def _searched(data: Dataset) -> Tensor:
    """Training examples as they are evaluated on, at most so many, evenly spread."""
    x = data.split("train").x
    count = min(len(x), _SEARCHED)
    return x.index_select(0, (torch.arange(count) * len(x) // count).to(x.device)).cpu()


def _least(x: Tensor, searched: Tensor) -> tuple[Tensor, Tensor]:
    """For each of x the distance to the nearest of ``searched``, and its number."""
    shift, scale = torch.zeros(()), torch.ones(())
    if searched.dtype.is_floating_point:
        shift, scale = searched.double().mean(dim=0), searched.double().std(dim=0)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    a, b = (((v.flatten(1).double() - shift) / scale).float() for v in (x, searched))
    found = torch.cdist(a, b).min(dim=1)
    return found.values, found.indices
