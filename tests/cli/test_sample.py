"""``ancestral sample``: shapes, types, seeds, and what it is a sample of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import ancestral
from ancestral._internal.randomness import RowNoise
from ancestral.cli.sample import Sample
from ancestral.core import walk
from ancestral.experiments.runs import load_run
from ancestral.models.diffusion import Denoiser, Diffusion
from ancestral.sampling import SAMPLERS, SPACINGS, Sampler
from ancestral.sampling.engine import MICRO_BATCH
from commands import call

KINDS = ("vae", "hvae", "ddpm")
FP32 = ("--precision", "fp32")


def drawn(run: Path, out: Path, *options: object) -> dict[str, np.ndarray]:
    """The arrays of a .npz that the command writes."""
    answer = call("sample", run, "--out", out, "--device", "cpu", *options)
    assert answer.status == 0, answer.err
    assert answer.out == ""
    assert f"samples written to {out}" in answer.err
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_out_as_they_go_in(kind, runs, tmp_path):
    run = runs[f"{kind} on images"]
    (mean,) = drawn(run, tmp_path / "a.npz").values()
    assert (mean.shape, mean.dtype) == ((64, 8, 8), np.float32)
    assert mean.min() >= 0
    assert mean.max() <= 16
    draw = drawn(run, tmp_path / "b.npz", "--final", "draw", "--n", 7)["samples"]
    assert (draw.shape, draw.dtype) == ((7, 8, 8), np.uint8)
    assert draw.max() <= 16
    assert len(np.unique(draw)) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_come_out_as_they_go_in(kind, runs, tmp_path):
    run = runs[f"{kind} on vectors"]
    samples = {
        final: drawn(run, tmp_path / "a.npz", "--final", final)["samples"] for final in ("mean", "draw")
    }
    for array in samples.values():
        assert (array.shape, array.dtype) == ((64, 2), np.float32)
    assert not np.array_equal(samples["mean"], samples["draw"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["images", "vectors"])
@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_the_seed_decides(kind, source, suffix, runs, tmp_path):
    bodies = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.{suffix}"
        answer = call("sample", runs[f"{kind} on {source}"], "--out", out, "--n", 6, "--seed", seed)
        assert answer.status == 0, answer.err
        bodies.append(out.read_bytes())
    assert bodies[0] == bodies[1] != bodies[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{suffix}" for name in "abc"]


def test_a_sample_is_the_models(runs, tmp_path):
    """As in Python, from the seed on: the same draw."""
    run = runs["hvae on images"]
    ours = drawn(run, tmp_path / "a.npz", "--n", 5, "--final", "draw", "--seed", 9, *FP32)["samples"]
    chain = load_run(run)
    assert np.array_equal(ours, ancestral.draw(chain, 5, seed=9, precision="fp32")[:, 0].numpy())
    noise = walk.noise(RowNoise(9, 0, MICRO_BATCH["cpu"]))
    with torch.no_grad():
        _, last = walk.generated(chain, MICRO_BATCH["cpu"], noise)
        assert np.array_equal(ours, walk.final_value(last, "draw", noise)[:5, 0].numpy())


def test_more_samples_begin_with_the_same_ones(runs, tmp_path):
    for kind in KINDS:
        few, many = (
            drawn(runs[f"{kind} on images"], tmp_path / "a.npz", "--n", n)["samples"] for n in (2, 40)
        )
        assert np.array_equal(few, many[:2])


def test_batches_are_drawn_apart(runs, tmp_path):
    """No two batches are the same; the last one is cut."""
    samples = drawn(runs["vae on images"], tmp_path / "a.npz", "--n", 7, "--batch-size", 3)["samples"]
    assert samples.shape == (7, 8, 8)
    assert len({image.tobytes() for image in samples}) == 7


def test_a_picture_is_a_grid(runs, tmp_path):
    for n, shape in ((None, (8, 8)), (5, (2, 3)), (1, (1, 1))):
        out = tmp_path / "new" / "a.png"
        answer = call("sample", runs["vae on images"], "--out", out, *([] if n is None else ["--n", n]))
        assert answer.status == 0, answer.err
        rows, columns = (9 * count + 1 for count in shape)
        factor = 512 // max(rows, columns)
        with Image.open(out) as image:
            assert image.size == (columns * factor, rows * factor)


def test_a_ddpm_takes_fewer_steps(runs, tmp_path, monkeypatch):
    run, calls = runs["ddpm on images"], []
    full = drawn(run, tmp_path / "a.npz", "--n", 3)["samples"]
    assert np.array_equal(drawn(run, tmp_path / "b.npz", "--n", 3, "--steps", 12)["samples"], full)

    step, last = Denoiser.step, Denoiser.last
    monkeypatch.setattr(Denoiser, "step", lambda self, *of: calls.append(of[2:]) or step(self, *of))
    monkeypatch.setattr(Denoiser, "last", lambda self, *of: calls.append((of[2], 0)) or last(self, *of))
    fewer = drawn(run, tmp_path / "c.npz", "--n", 3, "--steps", 4)["samples"]
    assert calls == [(12, 8), (8, 5), (5, 1), (1, 0)]
    assert fewer.shape == full.shape
    assert not np.array_equal(fewer, full)


def test_a_trajectory_goes_from_noise_to_the_sample(runs, tmp_path):
    for source, shape in (("images", (8, 8)), ("vectors", (2,))):
        run = runs[f"ddpm on {source}"]
        arrays = drawn(run, tmp_path / "a.npz", "--trajectory", "--seed", 2)
        assert arrays.keys() == {"samples", "trajectory", "trajectory_levels"}
        assert arrays["samples"].shape == (8, *shape)
        assert arrays["trajectory"].shape == (10, 8, *shape)
        levels = arrays["trajectory_levels"].tolist()
        assert (levels[0], levels[-1], len(set(levels))) == (12, 0, 10)
        assert levels == sorted(levels, reverse=True)
        assert np.array_equal(arrays["trajectory"][-1], arrays["samples"])
        # Keeping the way changes nothing of the end.
        plain = drawn(run, tmp_path / "b.npz", "--n", 8, "--seed", 2)["samples"]
        assert np.array_equal(plain, arrays["samples"])
        # The first state is the noise, in the data's units.
        chain = load_run(run)
        noise = (arrays["trajectory"][0].reshape(8, *chain.spec.shape) - chain.scaling.shift.numpy()) / (
            chain.scaling.scale.numpy()
        )
        assert abs(float(noise.std()) - 1) < 0.35
    answer = call("sample", runs["ddpm on images"], "--trajectory", "--n", 2, "--out", tmp_path / "a.png")
    assert answer.status == 0
    with Image.open(tmp_path / "a.png") as image:
        factor = 512 // 91
        assert image.size == (91 * factor, 19 * factor)


def test_a_trajectory_of_fewer_steps(runs, tmp_path):
    arrays = drawn(runs["ddpm on images"], tmp_path / "a.npz", "--trajectory", "--steps", 3, "--n", 2)
    assert arrays["trajectory_levels"].tolist() == [12, 6, 1, 0]
    assert arrays["trajectory"].shape == (4, 2, 8, 8)


def test_the_samplers_offered_are_those_there_are():
    hints = get_type_hints(Sample)
    assert get_args(hints["sampler"]) == SAMPLERS
    assert get_args(get_args(hints["spacing"])[0]) == SPACINGS


@pytest.mark.parametrize("options", [(), ("--spacing", "diffusers")])
@pytest.mark.parametrize("name", SAMPLERS[1:])
def test_a_ddpm_has_other_samplers(name, options, runs, tmp_path, monkeypatch):
    run, ask, calls = runs["ddpm on images"], Diffusion.ask, []

    def noted(self, z, time, condition=None):
        calls.append(len(z))
        return ask(self, z, time, condition)

    monkeypatch.setattr(Diffusion, "ask", noted)
    options = ("--sampler", name, "--steps", 5, "--n", 6, "--seed", 3, *options)
    samples = drawn(run, tmp_path / "a.npz", *options)["samples"]
    assert calls == [MICRO_BATCH["cpu"]] * (9 if name == "heun" else 5)
    assert (samples.shape, samples.dtype) == ((6, 8, 8), np.float32)
    assert samples.min() >= 0
    assert samples.max() <= 16
    # As in Python, from the seed on.
    spacing = options[-1] if "--spacing" in options else None
    sampler = Sampler.named(name, 5, spacing=spacing)
    expected = ancestral.draw(load_run(run), 6, sampler=sampler, final="mean", seed=3)
    assert np.array_equal(samples, expected[:, 0].numpy())
    # The way there ends at the same samples.
    arrays = drawn(run, tmp_path / "b.npz", *options, "--trajectory")
    assert np.array_equal(arrays["samples"], samples)
    assert arrays["trajectory"].shape == (6, 6, 8, 8)
    assert arrays["trajectory_levels"].tolist()[-1] == 0


def test_eta_adds_noise_on_the_way(runs, tmp_path):
    options = ("--sampler", "ddim", "--steps", 6, "--n", 3)
    without, none, much = (
        drawn(runs["ddpm on vectors"], tmp_path / "a.npz", *options, *eta)["samples"]
        for eta in ((), ("--eta", 0), ("--eta", 1))
    )
    assert np.array_equal(without, none)
    assert not np.allclose(without, much)


@pytest.mark.parametrize(
    "option", [("--steps", 3), ("--trajectory",), ("--sampler", "ddim"), ("--compile", "on")]
)
@pytest.mark.parametrize("kind", ["vae", "hvae"])
def test_what_only_a_ddpm_has_is_refused(kind, option, runs, tmp_path):
    answer = call("sample", runs[f"{kind} on images"], "--out", tmp_path / "a.png", *option)
    assert answer.status == 2
    assert f"{option[0]} is for a ddpm" in answer.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_networks_compute_in_the_precision_asked_for(kind, runs, tmp_path):
    """Samples are near one another in the units of 17 grey levels, and fp32 is the chain's own."""
    run, options = runs[f"{kind} on images"], ("--n", 5, "--seed", 2)
    full, half = (
        drawn(run, tmp_path / "a.npz", *options, "--precision", name)["samples"] for name in ("fp32", "bf16")
    )
    chain = load_run(run)
    with torch.no_grad():
        _, last = walk.generated(chain, MICRO_BATCH["cpu"], walk.noise(RowNoise(2, 0, MICRO_BATCH["cpu"])))
    assert np.array_equal(full, last.mean[:5, 0].numpy())
    assert not np.array_equal(full, half)
    assert full.dtype == half.dtype
    assert np.abs(full - half).mean() < 0.1


def test_samples_can_be_trained_on(runs, tmp_path):
    """A .npz of draws is a data set."""
    drawn(runs["vae on images"], tmp_path / "a.npz", "--final", "draw")
    options = ("--steps", 1, "--batch-size", 8, "--model.width", 4)
    answer = call("train", "vae", "--data", tmp_path / "a.npz", "--out", tmp_path / "run", *options)
    assert answer.status == 0, answer.err


NAMES = ["height, cm", 'the "third"', "x"]


@pytest.fixture(scope="module")
def table_run(tmp_path_factory) -> Path:
    """A run on a table whose columns lie far from 0 and differ in their widths."""
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal(size=(200, 3)) * [0.01, 2.0, 3e4] + [5.0, -300.0, 1e6]
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*NAMES, "kind"])
        writer.writerows([*row, "cat" if row[0] > 5 else "dog"] for row in rows.tolist())
    options = ("vae", "--model.network", "mlp", "--model.hidden", 8, "--steps", 30, "--batch-size", 32)
    where = ("--data", folder / "people.csv", "--label", "kind", "--out", folder / "run", "--device", "cpu")
    answer = call("train", *options, *where)
    assert answer.status == 0, answer.err
    # Sampling needs the run alone.
    (folder / "people.csv").unlink()
    return folder / "run"


@pytest.mark.parametrize("final", ["mean", "draw"])
def test_samples_of_a_table_are_in_its_units_and_under_its_names(final, table_run, tmp_path):
    options = ("--n", 500, "--final", final, "--seed", 3)
    samples = drawn(table_run, tmp_path / "a.npz", *options)["samples"]
    away = (samples - [5.0, -300.0, 1e6]) / [0.01, 2.0, 3e4]
    assert np.abs(away).max() < 8
    if final == "draw":
        assert np.all(np.abs(np.log(away.std(0))) < 1.4)
    for name in ("a.npy", "a.csv", "a.parquet"):
        answer = call("sample", table_run, "--out", tmp_path / name, "--device", "cpu", *options)
        assert answer.status == 0, answer.err
    assert np.array_equal(np.load(tmp_path / "a.npy"), samples)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == NAMES
    assert np.array_equal(np.array(rows, np.float32), samples)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == NAMES
    assert np.array_equal(np.stack([column.to_numpy() for column in table.columns], axis=1), samples)
    # Each is data again.
    for name in ("a.csv", "a.parquet"):
        assert ancestral.load_data(tmp_path / name).columns == tuple(NAMES)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".npy", ".npz", ".parquet"]


def test_other_columns_are_not_evaluated_on(table_run, tmp_path):
    values = ["3,1,2", "4,3,2", "5,4,4"] * 9
    for header, status in ((["weight", *NAMES[1:]], 2), (NAMES[::-1], 0), (NAMES, 0)):
        with (tmp_path / "t.csv").open("w", newline="") as file:
            csv.writer(file).writerow([*header, "kind"])
            file.writelines(f"{value},cat\n" for value in values)
        answer = call("evaluate", table_run, "--data", tmp_path / "t.csv", "--n", 2, "--device", "cpu")
        assert answer.status == status, answer.err
        assert (repr(NAMES[0]) in answer.message) == (status == 2)


def test_what_there_is_to_know_of_the_data_is_told(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n3,2\n4,2\n" * 9)
    options = ("--model.network", "mlp", "--model.hidden", 4, "--steps", 1, "--batch-size", 4)
    answer = call("train", "vae", "--data", tmp_path / "t.csv", "--out", tmp_path / "run", *options)
    assert answer.status == 0, answer.err
    assert "t.csv has no line of names: its columns are called 'column 1', 'column 2'." in answer.message
    assert "this ELBO is not comparable: constant: 'column 2'." in answer.message


def test_names_are_told_by_info(table_run):
    example = json.loads(call("info", table_run, "--json").out)["example"]
    assert (example["columns"], example["class_names"]) == (NAMES, ["cat", "dog"])


def test_columns_without_names_are_counted(runs, tmp_path):
    assert call("sample", runs["vae on vectors"], "--out", tmp_path / "a.csv", "--n", 3).status == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "column 1,column 2"
    assert len(lines) == 4


def test_images_are_an_array_and_no_table(runs, tmp_path):
    run = runs["vae on images"]
    samples = drawn(run, tmp_path / "a.npz", "--n", 3)["samples"]
    assert call("sample", run, "--out", tmp_path / "a.npy", "--n", 3, "--device", "cpu").status == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), samples)
    for form in ("csv", "parquet"):
        answer = call("sample", run, "--out", tmp_path / f"a.{form}")
        assert answer.status == 2
        assert f"a.{form}, and {run} is a model of images; tables are for vectors" in answer.message
    for form in ("csv", "npy"):
        answer = call("sample", runs["ddpm on vectors"], "--out", tmp_path / f"b.{form}", "--trajectory")
        assert answer.status == 2
        assert "with --trajectory it must end in .png or .npz" in answer.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.npz"]


def test_sampling_leaves_the_callers_random_state(runs, tmp_path):
    before = torch.random.get_rng_state()
    drawn(runs["ddpm on images"], tmp_path / "a.npz", "--n", 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def people_run(tmp_path_factory) -> Path:
    """A run on a table with real numbers, whole numbers, 0/1 and 0/1/2."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    columns = {
        "height": rng.normal(170.0, 10.0, 300).round(2),
        "age": rng.integers(18, 80, 300),
        "smoker": rng.integers(0, 2, 300),
        "cars": rng.integers(0, 3, 300),
    }
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    options = ("vae", "--model.network", "mlp", "--model.hidden", 16, "--steps", 60, "--batch-size", 32)
    where = ("--data", folder / "people.csv", "--out", folder / "run", "--device", "cpu")
    answer = call("train", *options, *where)
    assert answer.status == 0, answer.err
    return folder / "run"


def test_rows_are_drawn_with_whole_numbers_where_the_data_have_them(people_run, tmp_path):
    answer = call("sample", people_run, "--out", tmp_path / "a.csv", "--n", 400, "--device", "cpu")
    assert answer.status == 0, answer.err
    assert "rounded to whole numbers within the range of the training values: age" in answer.message
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["height", "age", "smoker", "cars"]
    height, age, smoker, cars = zip(*rows, strict=True)
    assert all("." in value for value in height)
    assert set(smoker) == {"0", "1"}
    assert set(cars) == {"0", "1", "2"}
    ages = [int(value) for value in age]
    assert 18 <= min(ages) < 40 < 55 < max(ages) <= 80
    # Draws, whose spread is the data's, and not means.
    assert np.std(ages) > 5
    assert call("sample", people_run, "--out", tmp_path / "a.parquet", "--n", 400).status == 0
    table = pq.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema] == ["float", "int64", "int64", "int64"]
    array = drawn(people_run, tmp_path / "a.npz", "--n", 400)["samples"]
    assert array.dtype == np.float32
    assert np.array_equal(array[:, 1], np.array(ages))
    assert table.column("age").to_pylist() == ages


def test_means_of_rows_are_on_request_and_not_rounded(people_run, tmp_path):
    draws = drawn(people_run, tmp_path / "a.npz", "--n", 50, "--final", "draw")["samples"]
    default = drawn(people_run, tmp_path / "b.npz", "--n", 50)["samples"]
    means = drawn(people_run, tmp_path / "c.npz", "--n", 50, "--final", "mean")["samples"]
    assert np.array_equal(draws, default)
    assert np.any(means[:, 1:] != means[:, 1:].round())
    assert means[:, 1].std() < draws[:, 1].std()


def test_images_keep_the_mean_by_default(runs, tmp_path):
    run = runs["vae on images"]
    default = drawn(run, tmp_path / "a.npz", "--n", 3)["samples"]
    assert np.array_equal(default, drawn(run, tmp_path / "b.npz", "--n", 3, "--final", "mean")["samples"])


def test_single_images_are_written_into_a_new_or_empty_folder(runs, tmp_path):
    run, out = runs["vae on images"], tmp_path / "new" / "images"
    options = ("--n", 12, "--final", "draw", "--seed", 3, "--device", "cpu")
    assert call("sample", run, "--out", out, *options).status == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{number:05}.png" for number in range(12)]
    array = drawn(run, tmp_path / "a.npz", *options)["samples"]
    for number in range(12):
        with Image.open(out / f"{number:05}.png") as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            assert np.array_equal(np.asarray(image), np.round(array[number] / 16 * 255).astype(np.uint8))
    before = sorted(out.iterdir())
    answer = call("sample", run, "--out", out, *options)
    assert answer.status == 2
    assert f"--out is {out}, a folder that is not empty" in answer.message
    assert sorted(out.iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert call("sample", run, "--out", tmp_path / "empty", "--n", 1).status == 0
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["00000.png"]
    assert not list(tmp_path.glob(".incomplete*"))


def test_a_folder_of_images_is_for_images(runs, tmp_path):
    for arguments, words in (
        ((runs["vae on vectors"], "--out", tmp_path / "a"), "a model of vectors"),
        ((runs["ddpm on images"], "--out", tmp_path / "a", "--trajectory"), "must end in .png or .npz"),
        ((runs["vae on images"], "--out", tmp_path / "a.jpg"), "without a suffix"),
    ):
        answer = call("sample", *arguments)
        assert answer.status == 2
        assert words in answer.message
    assert not list(tmp_path.iterdir())


def test_a_sample_follows_from_the_seed_and_its_number(runs, tmp_path):
    """Whatever the number of samples; with another micro-batch equal but for rounding."""
    for kind in KINDS:
        run = runs[f"{kind} on images"]
        four, many, cut = (
            drawn(run, tmp_path / "a.npz", "--n", n, *options, *FP32)["samples"]
            for n, options in ((4, ()), (64, ()), (64, ("--batch-size", 16)))
        )
        assert np.array_equal(four, many[:4])
        assert np.abs(cut - many).max() < 1e-3
        assert len(np.unique(many.reshape(64, -1), axis=0)) == 64
