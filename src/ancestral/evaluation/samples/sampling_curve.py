"""Sample distance against network calls: what each sampler makes of as many calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ancestral._internal import checks
from ancestral.evaluation.pictures import save_figure
from ancestral.evaluation.samples.quality import Distances, Quality, Ruler

DrawSamples = Callable[[str, int], tuple[Tensor, int]]
"""Called with a sampler's name and its steps; returns as many samples as the ruler has examples, (n, *shape)
in the data's units, and the network calls that one sample took."""

_ROWS = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
}
"""The figures of a distance that a curve can show."""


@dataclass(frozen=True)
class CurvePoint:
    """One sampler at one number of steps."""

    sampler: str
    steps: int
    network_calls: int
    """Network calls for one sample: more than ``steps`` where a step takes several."""
    seconds: float
    """Wall-clock time of drawing all samples."""
    quality: Quality

    def json(self) -> dict[str, Any]:
        """Ready for JSON, without the feature space and the floor, which all points share."""
        return {
            "sampler": self.sampler,
            "steps": self.steps,
            "network_calls": self.network_calls,
            "seconds": self.seconds,
            "distance": self.quality.sample.json(),
        }


@dataclass(frozen=True)
class SamplerCurve:
    """Points in the order they were asked for, all measured with one ruler."""

    points: list[CurvePoint]

    @property
    def samplers(self) -> list[str]:
        """The samplers' names, each once."""
        return list(dict.fromkeys(point.sampler for point in self.points))

    @property
    def ruler(self) -> Quality:
        """A quality whose feature space, n and floor are those of every point."""
        return self.points[0].quality

    def json(self) -> dict[str, Any]:
        """Ready for JSON."""
        facts = self.ruler.json()
        del facts["distance"]
        return {**facts, "points": [point.json() for point in self.points]}

    def table(self) -> list[list[str]]:
        """Rows of text, the first of them the heads, the last the floor."""
        heads = ["sampler", "steps", "network calls", *_ROWS.values()]
        rows = [
            [point.sampler, str(point.steps), str(point.network_calls), *_entries(point.quality.sample)]
            for point in self.points
        ]
        return [heads, *rows, ["floor", "–", "–", *_entries(self.ruler.floor)]]


def sampler_curve(draw: DrawSamples, ruler: Ruler, *, steps: Mapping[str, Sequence[int]]) -> SamplerCurve:
    """Measure ``draw(sampler, count)`` for each sampler and each of its numbers of ``steps``.

    Which random numbers ``draw`` uses is its own matter: with the same ones for all, the points differ by
    the sampler alone. ``ValueError`` without a sampler or without steps for one, a number of steps below 1,
    or samples that the ruler refuses.
    """
    if not steps or not all(steps.values()):
        raise ValueError(
            f"steps is {dict(steps)}; name at least one sampler, and a number of steps for each."
        )
    wanted = [(sampler, count) for sampler, counts in steps.items() for count in counts]
    for _, count in wanted:
        checks.integer("steps", count, low=1)
    points = []
    for sampler, count in wanted:
        start = time.perf_counter()
        samples, calls = draw(sampler, count)
        # Copying to the host waits for the device.
        samples = samples.cpu()
        seconds = time.perf_counter() - start
        points.append(CurvePoint(sampler, count, calls, seconds, ruler.measure(samples)))
    return SamplerCurve(points)


def save_curve(path: Path, found: dict[str, Any], *, figure: str = "frechet") -> None:
    """Write a plot of one figure of the distance ("frechet", "kernel", "precision" or "recall") as a PNG.

    ``found`` is ``SamplerCurve.json``. A line per sampler over its network calls, and the floor as a dashed
    one; logarithmic in the calls and, for the Fréchet distance, in the distance. The kernel distance has its
    standard errors. Written whole or not at all.
    """
    from matplotlib.figure import Figure

    checks.one_of("figure", figure, _ROWS)
    sheet = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = sheet.add_subplot()
    points = sorted(found["points"], key=lambda point: int(point["network_calls"]))
    for name in dict.fromkeys(point["sampler"] for point in found["points"]):
        own = [point for point in points if point["sampler"] == name]
        errors = [p["distance"]["kernel"]["stderr"] or 0.0 for p in own] if figure == "kernel" else None
        axes.errorbar(
            [point["network_calls"] for point in own],
            [_value(point["distance"], figure) for point in own],
            yerr=errors,
            marker="o",
            capsize=2,
            label=name,
        )
    floor = _value(found["floor"], figure)
    axes.axhline(floor, color="gray", linestyle="--", label="floor")
    axes.set_xscale("log")
    calls = _ticks({point["network_calls"] for point in points})
    axes.set_xticks(calls, [str(count) for count in calls])
    axes.set_xticks([], minor=True)
    # A floor of 0 has no logarithm.
    if figure == "frechet" and floor > 0:
        axes.set_yscale("log")
    axes.set_xlabel("network calls per sample")
    axes.set_ylabel(_ROWS[figure])
    axes.set_title(f"{found['features']}, n = {found['n']}", fontsize=9)
    axes.legend(fontsize=8)
    save_figure(path, sheet)


def _ticks(calls: set[int]) -> list[int]:
    """From the most down, those that are far enough from one another to be written side by side."""
    kept: list[int] = []
    for count in sorted(calls, reverse=True):
        if not kept or count <= 0.85 * kept[-1]:
            kept.append(count)
    return kept


def _value(distances: dict[str, Any], figure: str) -> float:
    value = distances[figure]
    return float(value["mean"] if figure == "kernel" else value)


def _entries(distances: Distances) -> list[str]:
    return [
        f"{distances.frechet:.4g}",
        f"{distances.kernel}",
        f"{distances.precision:.3f}",
        f"{distances.recall:.3f}",
    ]
