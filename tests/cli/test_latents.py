"""``ancestral reconstruct``, ``interpolate`` and ``score``, on every kind of run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral.data import load_data
from commands import call


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


KINDS = [f"{kind} on {data}" for data in ("images", "vectors") for kind in ("vae", "hvae", "ddpm")]


@pytest.mark.parametrize("name", KINDS)
def test_reconstruct(name, runs, tmp_path):
    picture, arrays = tmp_path / "a.png", tmp_path / "a.npz"
    answer = call("reconstruct", runs[name], "--out", picture, "--n", 3, "--steps", 4)
    assert answer.status == 0, answer.err
    assert "root mean square error" in answer.out
    assert size(picture)[0] > 8
    answer = call("reconstruct", runs[name], "--out", arrays, "--n", 3, "--level", 1, "--steps", 4, "--json")
    facts = json.loads(answer.out)
    assert (facts["levels"], facts["n"]) == ([1], 3)
    with np.load(arrays) as file:
        x, found = file["x"], file["reconstructions"]
    assert found.shape == (3, 1, *x.shape[1:])
    rmse = np.sqrt(np.mean((found[:, 0] - x.astype(float)) ** 2))
    assert facts["rmse"][0] == pytest.approx(rmse, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_interpolate(name, runs, tmp_path):
    picture, arrays = tmp_path / "a.png", tmp_path / "a.npz"
    answer = call("interpolate", runs[name], "--out", picture, "--n", 2, "--points", 4, "--steps", 4)
    assert answer.status == 0, answer.err
    if "images" in name:
        wide, high = size(picture)
        assert wide / high == pytest.approx((6 * 9 + 1) / (2 * 9 + 1))
    rest = ("--between", 3, 1, "--points", 4, "--steps", 4, "--json")
    answer = call("interpolate", runs[name], "--out", arrays, *rest)
    assert json.loads(answer.out)["pairs"] == [[3, 1]]
    with np.load(arrays) as file:
        assert file["interpolations"].shape == (1, 4, *file["a"].shape[1:])
        assert np.isfinite(file["interpolations"]).all()


@pytest.mark.parametrize("name", KINDS)
def test_score(name, runs, tmp_path):
    out = tmp_path / "scores.csv"
    answer = call("score", runs[name], "--out", out, "--n", 6, "--json")
    assert answer.status == 0, answer.err
    facts = json.loads(answer.out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    nats = [float(row["nats"]) for row in rows]
    assert nats == sorted(nats, reverse=True)
    data = load_data(json.loads((runs[name] / "config.json").read_text())["data"]["source"], validation=0.2)
    assert {int(row["row"]) for row in rows} == set(data.test.some(6).rows.tolist())
    assert facts["nats"]["mean"] == pytest.approx(np.mean(nats))
    assert facts["most_likely"] == {
        "index": int(rows[0]["index"]),
        "row": int(rows[0]["row"]),
        "nats": nats[0],
    }
    if "images" in name:
        bits = [float(row["bits_per_dim"]) for row in rows]
        np.testing.assert_allclose(bits, -np.array(nats) / (64 * np.log(2)))
    else:
        assert "bits_per_dim" not in rows[0]
    assert size(tmp_path / "scores.png")[0] > 100
    again = tmp_path / "b.csv"
    call("score", runs[name], "--out", again, "--n", 6, "--shown", 0)
    assert again.read_text() == out.read_text()
    assert not again.with_suffix(".png").exists()


def test_mistakes_leave_nothing(runs, tmp_path):
    run = runs["vae on images"]
    for arguments, words in (
        (["reconstruct", run, "--out", tmp_path / "a.txt"], "must end in .png or .npz"),
        (["reconstruct", run, "--out", tmp_path / "a.png", "--level", 2, "--n", 2], "level"),
        (["reconstruct", run, "--out", tmp_path / "a.png", "--n", 10_000], "Ask for fewer"),
        (["interpolate", run, "--out", tmp_path / "a.png", "--between", 0, 9_999], "Ask for fewer"),
        (["interpolate", run, "--out", tmp_path / "a.png", "--points", 1], "points"),
        (["score", run, "--out", tmp_path / "a.png"], "must end in .csv"),
        (
            ["score", run, "--out", tmp_path / "a.csv", "--levels", 3],
            "no closed-form q(z_t|x) to estimate from random levels",
        ),
        (["score", runs["ddpm on images"], "--out", tmp_path / "a.csv", "--bound", "iwae"], "useless"),
        (["score", tmp_path / "no", "--out", tmp_path / "a.csv"], "no run"),
    ):
        answer = call(*arguments)
        assert answer.status == 2, answer.err
        assert words in answer.message
    assert not list(tmp_path.iterdir())
