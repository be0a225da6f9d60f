"""The curve of sample distance against network calls: its points, its table, and its plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ancestral.data.raw import Raw
from ancestral.data.sources import assemble
from ancestral.evaluation import Ruler, SamplerCurve, sampler_curve, save_curve
from ancestral.evaluation.samples import sampling_curve

N = 100
CALLS = {"euler": 1, "heun": 2}


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    return Ruler.of(assemble(Raw("cloud", x.double().numpy()), validation=0.0), n=N)


def draw(sampler: str, steps: int) -> tuple[Tensor, int]:
    """A sampler whose spread is right for many steps only; the second takes two calls a step."""
    x = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
    return x * (1.0 + 4.0 / (CALLS[sampler] * steps) ** 2), CALLS[sampler] * steps


@pytest.fixture(scope="module")
def curve(ruler) -> SamplerCurve:
    return sampler_curve(draw, ruler, steps={"euler": [8, 1, 2], "heun": [4, 2]})


def test_the_points_are_what_was_drawn(curve, ruler):
    assert curve.samplers == ["euler", "heun"]
    told = [(point.sampler, point.steps, point.network_calls) for point in curve.points]
    assert told == [
        *(("euler", 8, 8), ("euler", 1, 1), ("euler", 2, 2)),
        *(("heun", 4, 8), ("heun", 2, 4)),
    ]
    for point in curve.points:
        assert point.quality == ruler.measure(draw(point.sampler, point.steps)[0])
        assert point.seconds >= 0
    by_calls = {point.network_calls: point.quality.sample.frechet for point in curve.points}
    assert by_calls[1] > 2 * by_calls[2] > 4 * by_calls[4]


def test_json(curve, ruler):
    found = json.loads(json.dumps(curve.json()))
    assert found.keys() == {"features", "description", "dims", "accuracy", "n", "floor", "points"}
    assert (found["n"], found["floor"]) == (N, ruler.floor.json())
    for one, point in zip(found["points"], curve.points, strict=True):
        assert one == {
            "sampler": point.sampler,
            "steps": point.steps,
            "network_calls": point.network_calls,
            "seconds": point.seconds,
            "distance": point.quality.sample.json(),
        }


def test_the_table(curve, ruler):
    heads, *rows, floor = curve.table()
    assert heads[:4] == ["sampler", "steps", "network calls", "Fréchet distance"]
    assert {len(row) for row in curve.table()} == {len(heads)}
    for row, point in zip(rows, curve.points, strict=True):
        distance = point.quality.sample
        assert row[:4] == [
            *(point.sampler, str(point.steps), str(point.network_calls)),
            f"{distance.frechet:.4g}",
        ]
        assert row[5:] == [f"{distance.precision:.3f}", f"{distance.recall:.3f}"]
    assert floor[0] == "floor"
    assert floor[3] == f"{ruler.floor.frechet:.4g}"


@pytest.mark.parametrize("figure", ["frechet", "kernel", "precision", "recall"])
def test_the_plot_has_a_line_per_sampler_and_the_floor(figure, curve, ruler, tmp_path, monkeypatch):
    drawn: list[Figure] = []
    savefig = Figure.savefig

    def noted(self, *arguments, **options):
        drawn.append(self)
        return savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    save_curve(tmp_path / "plots" / "curve.png", curve.json(), figure=figure)
    with Image.open(tmp_path / "plots" / "curve.png") as image:
        assert image.format == "PNG"
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["curve.png"]
    (axes,) = drawn[0].axes

    def value(distances) -> float:
        found = getattr(distances, figure)
        return found.mean if figure == "kernel" else found

    _, labels = axes.get_legend_handles_labels()
    assert sorted(labels) == ["euler", "floor", "heun"]
    for container, name in zip(axes.containers, ("euler", "heun"), strict=True):
        assert container.get_label() == name
        points = sorted((p.network_calls, value(p.quality.sample)) for p in curve.points if p.sampler == name)
        assert container.lines[0].get_xydata() == pytest.approx(np.array(points))
    (floor,) = [line for line in axes.lines if line.get_label() == "floor"]
    assert set(floor.get_ydata()) == {value(ruler.floor)}
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8", "4", "2", "1"]
    assert axes.get_yscale() == ("log" if figure == "frechet" else "linear")


def test_numbers_of_calls_that_would_overlap_are_not_all_written():
    assert sampling_curve._ticks({5, 9, 10, 19, 20, 49, 50}) == [50, 20, 10, 5]


def test_the_same_curve_is_the_same_file_written_whole(curve, tmp_path, monkeypatch):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        save_curve(path, curve.json())
    assert paths[0].read_bytes() == paths[1].read_bytes()
    before = paths[0].read_bytes()

    def broken(self, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="the disk is full"):
        save_curve(paths[0], curve.json())
    assert paths[0].read_bytes() == before


def test_mistakes(curve, ruler, tmp_path):
    for steps in ({}, {"euler": []}, {"euler": [1], "heun": []}):
        with pytest.raises(ValueError, match=r"steps is {.*}; name at least one sampler, and a number"):
            sampler_curve(draw, ruler, steps=steps)
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        sampler_curve(draw, ruler, steps={"euler": [4, 0]})
    with pytest.raises(ValueError, match="99 samples for a ruler of 100"):
        sampler_curve(lambda *of: (draw(*of)[0][1:], 1), ruler, steps={"euler": [1]})
    with pytest.raises(ValueError, match="figure is 'fid'; it must be one of frechet"):
        save_curve(tmp_path / "curve.png", curve.json(), figure="fid")
    assert not list(tmp_path.iterdir())
