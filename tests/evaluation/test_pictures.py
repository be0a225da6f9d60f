"""Pictures: every pixel of a grid for known values; scatters; written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ancestral.core.spec import DataSpec
from ancestral.evaluation import save_comparison, save_picture, save_trajectory

GREY = 96
"""Of the lines between images."""


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def cells(path: Path, *, rows: int, columns: int, side: tuple[int, int]) -> np.ndarray:
    """The images of a grid at their own size, (rows, columns, height, width[, 3]); its lines are checked."""
    sheet = read(path)
    height, width = rows * (side[0] + 1) + 1, columns * (side[1] + 1) + 1
    factor = max(1, 512 // max(height, width))
    assert sheet.shape[:2] == (height * factor, width * factor)
    small = sheet[::factor, ::factor]
    assert np.array_equal(small.repeat(factor, axis=0).repeat(factor, axis=1), sheet)
    assert (small[:: side[0] + 1] == GREY).all()
    assert (small[:, :: side[1] + 1] == GREY).all()
    inside = small[1:].reshape(rows, side[0] + 1, *small.shape[1:])[:, :-1]
    inside = inside[:, :, 1:].reshape(rows, side[0], columns, side[1] + 1, *small.shape[2:])[:, :, :, :-1]
    return inside.swapaxes(1, 2)


def test_a_grid_holds_the_levels_as_bytes(tmp_path):
    """17 levels 0 … 16 are the bytes 255 k / 16, rounded; five images make three columns and two rows."""
    spec = DataSpec((1, 2, 3), 17)
    x = torch.randint(0, 17, (5, 1, 2, 3), dtype=torch.uint8)
    x[0, 0] = torch.tensor([[0, 1, 2], [8, 15, 16]])
    save_picture(tmp_path / "a.png", x, spec)
    found = cells(tmp_path / "a.png", rows=2, columns=3, side=(2, 3)).reshape(6, 2, 3)
    assert found[0].tolist() == [[0, 16, 32], [128, 239, 255]]
    assert np.array_equal(found[:5], np.round(x[:, 0].numpy() * 255.0 / 16).astype(np.uint8))
    assert (found[5] == GREY).all()


@pytest.mark.parametrize(
    ("n", "columns", "shape"),
    [(1, None, (1, 1)), (9, None, (3, 3)), (10, None, (3, 4)), (6, 6, (1, 6)), (7, 2, (4, 2))],
)
def test_a_grid_is_square_unless_told(n, columns, shape, tmp_path):
    x = torch.full((n, 1, 4, 4), 255, dtype=torch.uint8)
    save_picture(tmp_path / "a.png", x, DataSpec((1, 4, 4), 256), columns=columns)
    found = cells(tmp_path / "a.png", rows=shape[0], columns=shape[1], side=(4, 4)).reshape(-1, 4, 4)
    assert [(image == 255).all() for image in found] == [i < n for i in range(len(found))]


def test_means_are_rounded_and_kept_in_range(tmp_path):
    x = torch.tensor([-3.0, 0.4, 0.6, 100.49, 100.51, 300.0]).reshape(6, 1, 1, 1)
    save_picture(tmp_path / "a.png", x, DataSpec((1, 1, 1), 256), columns=6)
    found = cells(tmp_path / "a.png", rows=1, columns=6, side=(1, 1))
    assert found.ravel().tolist() == [0, 0, 1, 100, 101, 255]


def test_bits_are_black_and_white(tmp_path):
    x = torch.tensor([0, 1, 1, 0], dtype=torch.uint8).reshape(1, 1, 2, 2)
    save_picture(tmp_path / "a.png", x, DataSpec((1, 2, 2), 2))
    assert cells(tmp_path / "a.png", rows=1, columns=1, side=(2, 2)).ravel().tolist() == [0, 255, 255, 0]


def test_colours_stay_in_their_channels(tmp_path):
    x = torch.randint(0, 256, (4, 3, 5, 2), dtype=torch.uint8)
    save_picture(tmp_path / "a.png", x, DataSpec((3, 5, 2), 256))
    found = cells(tmp_path / "a.png", rows=2, columns=2, side=(5, 2)).reshape(4, 5, 2, 3)
    assert np.array_equal(found, x.permute(0, 2, 3, 1).numpy())


def test_of_two_channels_the_first_is_shown(tmp_path):
    x = torch.randint(0, 256, (1, 2, 3, 3), dtype=torch.uint8)
    save_picture(tmp_path / "a.png", x, DataSpec((2, 3, 3), 256))
    assert np.array_equal(cells(tmp_path / "a.png", rows=1, columns=1, side=(3, 3))[0, 0], x[0, 0].numpy())


def test_small_grids_are_enlarged_and_large_ones_are_not(tmp_path):
    spec = DataSpec((1, 40, 40), 256)
    for n, size in ((1, 504), (144, 493), (225, 616)):
        save_picture(tmp_path / "a.png", torch.zeros(n, 1, 40, 40), spec)
        assert read(tmp_path / "a.png").shape == (size, size)


def test_a_trajectory_is_a_row_per_example(tmp_path):
    """The value of example i at frame j is 10 i + j."""
    spec = DataSpec((1, 1, 1), 256)
    states = [torch.tensor([10.0 * i + j for i in range(4)]).reshape(4, 1, 1, 1) for j in range(3)]
    save_trajectory(tmp_path / "a.png", [9, 4, 0], states, spec)
    found = cells(tmp_path / "a.png", rows=4, columns=3, side=(1, 1))[..., 0, 0]
    assert found.tolist() == [[10 * i + j for j in range(3)] for i in range(4)]


class Drawn:
    """Notes what was drawn of each figure that is saved."""

    def __init__(self, monkeypatch) -> None:
        self.figures: list[Figure] = []
        save = Figure.savefig

        def noted(figure: Figure, *args, **kwargs):
            self.figures.append(figure)
            return save(figure, *args, **kwargs)

        monkeypatch.setattr(Figure, "savefig", noted)


def test_points_become_a_scatter(tmp_path, monkeypatch):
    drawn, x = Drawn(monkeypatch), torch.randn(50, 3)
    save_picture(tmp_path / "a.png", x, DataSpec((3,)))
    (axes,) = drawn.figures[0].axes
    assert np.allclose(np.asarray(axes.collections[0].get_offsets()), x[:, :2].numpy())
    assert read(tmp_path / "a.png").std() > 0


def test_numbers_become_a_histogram(tmp_path, monkeypatch):
    drawn = Drawn(monkeypatch)
    save_picture(tmp_path / "a.png", torch.randn(70, 1), DataSpec((1,)))
    (axes,) = drawn.figures[0].axes
    assert sum(bar.get_height() for bar in axes.patches) == 70


def test_the_way_of_points_has_a_panel_per_level(tmp_path, monkeypatch):
    drawn, states = Drawn(monkeypatch), [torch.randn(9, 2) for _ in range(3)]
    save_trajectory(tmp_path / "a.png", [10, 5, 0], states, DataSpec((2,)))
    axes = drawn.figures[0].axes
    assert [one.get_title() for one in axes] == ["t = 10", "t = 5", "t = 0"]
    for one, state in zip(axes, states, strict=True):
        assert np.allclose(np.asarray(one.collections[0].get_offsets()), state.numpy())


@pytest.mark.parametrize("spec", [DataSpec((2,)), DataSpec((1, 4, 4), 17), DataSpec((3, 4, 4), 256)], ids=str)
def test_a_comparison_names_each_set(spec, tmp_path, monkeypatch):
    drawn = Drawn(monkeypatch)
    rows: dict[str, Tensor] = {name: torch.rand(4, *spec.shape) for name in ("data", "vae", "ddpm")}
    save_comparison(tmp_path / "a.png", rows, spec)
    assert [axes.get_title() for axes in drawn.figures[0].axes] == list(rows)
    assert read(tmp_path / "a.png").std() > 0


BITS, ZEROS = DataSpec((1, 3, 3), 2), torch.zeros(2, 1, 3, 3)
SAVERS = {
    "image": lambda path: save_picture(path, ZEROS, BITS),
    "points": lambda path: save_picture(path, torch.zeros(2, 2), DataSpec((2,))),
    "trajectory": lambda path: save_trajectory(path, [0], [ZEROS], BITS),
    "comparison": lambda path: save_comparison(path, {"data": ZEROS}, BITS),
}
each_saver = pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS.keys())


@each_saver
def test_equal_pictures_are_equal_files(save, tmp_path):
    """Nothing of the time or of the library's version is in them; folders on the way are made."""
    for name in ("a", "b"):
        save(tmp_path / "new" / f"{name}.png")
    first, second = sorted((tmp_path / "new").iterdir())
    assert (first.name, second.name) == ("a.png", "b.png")
    assert first.read_bytes() == second.read_bytes()
    assert b"matplotlib" not in first.read_bytes().lower()


@each_saver
def test_a_picture_is_replaced_as_a_whole(save, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save(path)
    assert path.read_text() == "old"
    save(path)
    assert read(path).size > 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
