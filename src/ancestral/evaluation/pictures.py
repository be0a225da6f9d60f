"""Pictures to look at: grids of images, scatters of points, and the states of a sampling trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ancestral._internal.atomic import replacing
from ancestral.core.spec import DataSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 512
"""A grid is enlarged by a whole factor until its longer side is about this many pixels."""


def save_picture(path: str | Path, x: Tensor, spec: DataSpec, *, columns: int | None = None) -> None:
    """Write examples (n, *shape), in the data's units, as one PNG.

    Images become a grid, square unless ``columns`` says otherwise; vectors a scatter of their first two
    entries (a histogram for one). Written whole or not at all.
    """
    path, values = Path(path), x.detach().cpu().double().numpy()
    if spec.is_image:
        _save_image(path, image_grid(image_bytes(values, spec), columns))
    else:
        _save_points(path, [values], ["samples"])


def save_trajectory(path: Path, levels: Sequence[int], states: Sequence[Tensor], spec: DataSpec) -> None:
    """Write the states of a sampling trajectory, each (n, *shape): a row per example, a column per level."""
    save_rows(path, {f"t = {level}": state for level, state in zip(levels, states, strict=True)}, spec)


def save_rows(path: Path, columns: Mapping[str, Tensor], spec: DataSpec) -> None:
    """Write sets of examples that belong together, each (n, *shape): a row per example, a column per set.

    Vectors become one scatter per set, under its name.
    """
    frames = [state.detach().cpu().double().numpy() for state in columns.values()]
    if spec.is_image:
        rows = np.stack([image_bytes(frame, spec) for frame in frames], axis=1)
        _save_image(path, image_grid(rows.reshape(-1, *rows.shape[2:]), len(frames)))
    else:
        _save_points(path, frames, list(columns))


def save_comparison(path: Path, rows: Mapping[str, Tensor], spec: DataSpec) -> None:
    """Write several sets of examples, each (n, *shape), side by side under their names."""
    from matplotlib.figure import Figure

    sets = {name: x.detach().cpu().double().numpy() for name, x in rows.items()}
    if not spec.is_image:
        _save_points(path, list(sets.values()), list(sets))
        return
    figure = Figure(figsize=(3.2 * len(sets), 3.5), layout="constrained")
    for index, (name, values) in enumerate(sets.items()):
        axes = figure.add_subplot(1, len(sets), index + 1)
        sheet = image_grid(image_bytes(values, spec), None)
        axes.imshow(sheet[:, :, 0] if sheet.shape[2] < 3 else sheet[:, :, :3], cmap="gray", vmin=0, vmax=255)
        axes.set_title(name)
        axes.set_axis_off()
    save_figure(path, figure)


def image_bytes(values: np.ndarray, spec: DataSpec) -> np.ndarray:
    """(n, C, H, W) in the data's units → (n, H, W, C) of bytes."""
    top = 1.0 if spec.levels is None else spec.levels - 1
    scaled = np.clip(values / top, 0.0, 1.0) * 255.0
    return np.round(scaled).astype(np.uint8).transpose(0, 2, 3, 1)


def image_grid(images: np.ndarray, columns: int | None) -> np.ndarray:
    """(n, H, W, C) → one image with a line of grey between them."""
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 96, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def _save_image(path: Path, sheet: np.ndarray) -> None:
    from PIL import Image

    factor = max(1, _SIDE // max(sheet.shape[:2]))
    sheet = sheet.repeat(factor, axis=0).repeat(factor, axis=1)
    # Pillow knows one, three and four channels; of two, the first is shown.
    sheet = sheet[:, :, 0] if sheet.shape[2] in (1, 2) else sheet[:, :, :4]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def _save_points(path: Path, frames: Sequence[np.ndarray], titles: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(frames), 3.2), layout="constrained")
    for index, (frame, title) in enumerate(zip(frames, titles, strict=True)):
        axes = figure.add_subplot(1, len(frames), index + 1)
        if frame.shape[1] == 1:
            axes.hist(frame[:, 0], bins=50)
        else:
            axes.scatter(frame[:, 0], frame[:, 1], s=4, alpha=0.6, linewidths=0)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    save_figure(path, figure)


def as_written(figure: Figure) -> None:
    """Show all names in a figure as they are: matplotlib would read $…$ as a formula.

    Names at the ticks of an axis are to be written with ``tick_name``.
    """
    from matplotlib.text import Text

    ticks = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = {label for axis in ticks for label in axis.findobj(Text)}
    for text in figure.findobj(Text):
        # A logarithmic axis writes its numbers as formulas.
        if text not in numbers or text in (axis.label for axis in ticks):
            text.set_parse_math(False)


def tick_name(name: str) -> str:
    """A name to write at a tick, where ``as_written`` does not reach."""
    return name.replace("$", r"\$")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a matplotlib figure as a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    as_written(figure)
    with replacing(path) as temporary:
        # Without the version of the drawing library, equal pictures are equal files.
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
