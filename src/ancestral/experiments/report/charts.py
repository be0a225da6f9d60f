"""Charts in a page, drawn by matplotlib, as data URIs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ancestral.evaluation.gap import draw_gaps, gaps_height
from ancestral.evaluation.pictures import as_written, tick_name
from ancestral.experiments.report.images import data_uri

_STYLE: Any = {
    "svg.hashsalt": "ancestral",  # equal charts are equal files
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
_BINS = 50
"""Of the terms of a chain with more levels than these."""
_HIST = 40
Z95 = 1.96


def chart(draw: Callable[[Any], None], *, wide: float = 6.4, high: float = 3.2, vector: bool = True) -> str:
    """What ``draw`` makes of a figure; a picture of points and not of lines is smaller as pixels."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(wide, high), layout="constrained")
        draw(figure)
        as_written(figure)
        file = io.BytesIO()
        if vector:
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            return data_uri(file.getvalue(), "image/svg+xml")
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return data_uri(file.getvalue(), "image/png")


def terms(models: Mapping[str, Mapping[str, float]]) -> str:
    """The costs that −ELBO is the sum of, by model."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        names = ["reconstruction", "matching", "prior"]
        height = 0.8 / len(models)
        for index, (model, costs) in enumerate(models.items()):
            places = [place + index * height for place in range(len(names))]
            axes.barh(places, [costs[name] for name in names], height=0.9 * height, label=model)
        axes.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_xlabel("nats per example")
        if len(models) > 1:
            axes.legend()

    return chart(draw, high=2.6)


def bounds(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Each model's ELBO and its importance-weighted bounds over the number of draws, with 95 % intervals."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for index, (model, figures) in enumerate(models.items()):
            colour, elbo = f"C{index}", figures["elbo"]
            axes.axhline(elbo["mean"], color=colour, linestyle=":", linewidth=1)
            tighter = figures["log_likelihood"]
            points = [] if tighter is None else tighter["curve"]
            places = [point["k"] for point in points] or [1]
            means = [point["mean"] for point in points] or [elbo["mean"]]
            errors = [Z95 * (point["stderr"] or 0.0) for point in points] or [Z95 * (elbo["stderr"] or 0.0)]
            axes.errorbar(
                places, means, yerr=errors, color=colour, marker="o", markersize=3, capsize=2, label=model
            )
        axes.set_xscale("log")
        axes.set_xlabel("k, draws of q per example")
        axes.set_ylabel("bound on log p(x), nats")
        axes.legend()

    return chart(draw)


def gaps(found: dict[str, Any]) -> str:
    """The bounds on log p(x) on one axis, and the parts of the ELBO's gap."""
    return chart(lambda figure: draw_gaps(figure, found), high=gaps_height(found))


def levels(costs: Sequence[float], *, first: int, xlabel: str) -> str:
    """What each level costs; levels ``first``, ``first`` + 1, …, many of them averaged in bins."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        if len(costs) <= _BINS:
            axes.bar(range(first, first + len(costs)), costs, width=0.8)
            if len(costs) <= 20:
                axes.set_xticks(range(first, first + len(costs)))
        else:
            parts = np.array_split(np.asarray(costs, dtype=float), _BINS)
            edges = first + np.cumsum([0, *(len(part) for part in parts)])
            axes.stairs([part.mean() for part in parts], edges, fill=True)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("nats per example")

    return chart(draw, high=2.6)


def training(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Losses and held-out ELBOs over steps, from the records of metrics.jsonl."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        shown: list[float] = []
        for index, (model, records) in enumerate(models.items()):
            taken = [record for record in records if record["kind"] == "train"]
            held = [record for record in records if record["kind"] == "validation"]
            steps, losses = [record["step"] for record in taken], [record["loss"] for record in taken]
            left.plot(steps, losses, color=f"C{index}", linewidth=1, label=model)
            shown += losses[len(losses) // 10 :]
            means = [record["elbo"]["mean"] for record in held]
            errors = [Z95 * (record["elbo"]["stderr"] or 0.0) for record in held]
            right.errorbar(
                [record["step"] for record in held],
                means,
                yerr=errors,
                color=f"C{index}",
                marker="o",
                markersize=3,
                label=model,
            )
            _mark(right, held, colour=f"C{index}")
        if shown:
            low, high = np.quantile(shown, [0.0, 0.98])
            margin = 0.05 * (high - low) or 1.0
            left.set_ylim(low - margin, high + margin)
        left.set_title("training loss", fontsize=9)
        right.set_title("held-out ELBO, nats", fontsize=9)
        for axes in (left, right):
            axes.set_xlabel("step")
        left.legend()
        _explain_marks(right)

    return chart(draw)


_MARKS: dict[str, dict[str, Any]] = {
    "best": {"marker": "*", "markersize": 12},
    "last": {"marker": "s", "markersize": 8, "fillstyle": "none"},
}
"""Of the checkpoints in the chart of held-out ELBOs."""


def _mark(axes: Any, held: Sequence[Mapping[str, Any]], *, colour: str) -> None:
    """Mark the best evaluation, where the records name one, and the last."""
    best = held[-1].get("best") if held else None
    if best is None:
        return
    at = {"best": [one for one in held if one["step"] == best["step"]], "last": [held[-1]]}
    for name, found in at.items():
        for one in found:
            axes.plot([one["step"]], [one["elbo"]["mean"]], color=colour, linestyle="none", **_MARKS[name])


def _explain_marks(axes: Any) -> None:
    from matplotlib.lines import Line2D

    if any(line.get_marker() == _MARKS["best"]["marker"] for line in axes.lines):
        handles = [
            Line2D([], [], color="0.3", linestyle="none", label=name, **style)
            for name, style in _MARKS.items()
        ]
        axes.legend(handles=handles)


def marginals(sets: Mapping[str, np.ndarray], names: Sequence[str], numbers: Sequence[int]) -> str:
    """Histograms of some columns of the data and of each model's samples."""
    columns = min(3, len(numbers))
    lines = math.ceil(len(numbers) / columns)

    def draw(figure: Any) -> None:
        for place, number in enumerate(numbers):
            axes = figure.add_subplot(lines, columns, place + 1)
            data = next(iter(sets.values()))[:, number]
            low, high = np.quantile(data, [0.005, 0.995])
            edges = np.linspace(low, high if high > low else low + 1.0, _HIST + 1)
            for index, (name, values) in enumerate(sets.items()):
                style = {"color": "0.8", "fill": True} if index == 0 else {"color": f"C{index - 1}"}
                heights, _ = np.histogram(values[:, number], edges)
                axes.stairs(heights / (len(values) * np.diff(edges)), edges, label=name, **style)
            axes.set_title(names[number], fontsize=8)
            axes.set_yticks([])
            if place == 0:
                axes.legend(fontsize=7)

    return chart(draw, high=1.7 * lines)


def correlations(sets: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """The correlation matrix of each set."""

    def draw(figure: Any) -> None:
        drawn = None
        everyone = figure.subplots(1, len(sets), squeeze=False)[0]
        for axes, (name, values) in zip(everyone, sets.items(), strict=True):
            with np.errstate(invalid="ignore", divide="ignore"):
                matrix = np.nan_to_num(np.corrcoef(values, rowvar=False))
            drawn = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            axes.set_title(name, fontsize=9)
            axes.grid(visible=False)
            some = range(len(names)) if len(names) <= 12 else []
            axes.set_xticks(some, [tick_name(names[i]) for i in some], rotation=90, fontsize=6)
            axes.set_yticks(some, [tick_name(names[i]) for i in some], fontsize=6)
        figure.colorbar(drawn, ax=everyone, shrink=0.8)

    return chart(draw, wide=2.2 * len(sets) + 1.0, high=3.0, vector=False)


def densities(grids: Mapping[str, np.ndarray], extent: Sequence[float], points: np.ndarray) -> str:
    """Densities on a grid in the plane, (rows from below, columns), under points of the data."""

    def draw(figure: Any) -> None:
        # The estimates are noisy: the largest of all is one of the noisiest.
        top = max(float(np.quantile(grid, 0.99)) for grid in grids.values()) or 1.0
        for axes, (name, grid) in zip(
            figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True
        ):
            axes.imshow(grid, origin="lower", extent=extent, cmap="Blues", vmin=0, vmax=top, aspect="auto")
            axes.scatter(points[:, 0], points[:, 1], s=2, color="C3", alpha=0.5, linewidths=0)
            axes.set_xlim(extent[0], extent[1])
            axes.set_ylim(extent[2], extent[3])
            axes.set_title(name, fontsize=9)
            axes.grid(visible=False)

    return chart(draw, wide=3.0 * len(grids), high=3.0, vector=False)


def scatters(sets: Mapping[str, np.ndarray], extent: Sequence[float]) -> str:
    """Sets of points in the plane, one beside the other."""

    def draw(figure: Any) -> None:
        for axes, (name, values) in zip(
            figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True
        ):
            axes.scatter(values[:, 0], values[:, 1], s=2, alpha=0.5, linewidths=0)
            axes.set_xlim(extent[0], extent[1])
            axes.set_ylim(extent[2], extent[3])
            axes.set_title(name, fontsize=9)

    return chart(draw, wide=2.4 * len(sets), high=2.6, vector=False)


def point_frames(states: Sequence[np.ndarray], extent: Sequence[float]) -> tuple[str, float]:
    """Scatters of the plane beside one another without a gap, to be shown one by one; one's width /
    height."""

    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")
        for index, values in enumerate(states):
            axes = figure.add_axes((index / len(states), 0.0, 1.0 / len(states), 1.0))
            axes.scatter(values[:, 0], values[:, 1], s=3, linewidths=0)
            axes.set_xlim(extent[0], extent[1])
            axes.set_ylim(extent[2], extent[3])
            axes.set_axis_off()

    return chart(draw, wide=2.6 * len(states), high=2.6, vector=False), 1.0
