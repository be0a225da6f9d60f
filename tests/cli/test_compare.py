"""``ancestral compare``: one budget, one ruler, one table; gone on with where it was left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ancestral.evaluation import Ruler, evaluate
from ancestral.experiments.runs import RunFolder, load_run, measure_samples
from ancestral.sampling import SAMPLERS
from commands import Answer, call, finished, start, wait_for
from tiny import images

STEPS = 6
OPTIONS = (
    *("--steps", STEPS, "--batch-size", 8, "--validation", 0.2, "--device", "cpu", "--seed", 1),
    *("--vae.latent-dims", 3, "--hvae.levels", 2, "--hvae.width", 4, "--hvae.latent-dims", 2),
    *("--ddpm.T", 12, "--ddpm.blocks", 1),
    *("--n", 10, "--importance-samples", 20),
)
OF_IMAGES = ("--vae.width", 4, "--ddpm.channels", 4)
OF_VECTORS = ("--vae.hidden", 8, "--ddpm.width", 8)
OBJECT = {
    *("model", "data", "split", "n", "dims", "elbo", "bits_per_dim", "terms", "matching_per_level"),
    *("log_likelihood", "network_calls_per_image", "estimator", "seconds", "seed", "examples"),
}
MORE = {
    *("parameters", "latent_dims", "train_images_per_second", "sample_images_per_second"),
    *("network_calls_per_sample", "sample_distance", "sample_distance_floor", "sample_quality"),
    "sample_quality_also",
    "sampler_curve",
    "gaps",
    "checkpoint",
}
MEASURED = {"seconds", "train_images_per_second", "sample_images_per_second"}
"""What differs from call to call."""


def compare(out: Path, source: str, *options: object) -> Answer:
    vectors = source == "swiss-roll" or source.endswith(".npy")
    size = OF_VECTORS if vectors else OF_IMAGES
    return call("compare", "--data", source, "--out", out, *OPTIONS, *size, *options)


def figures(out: Path) -> dict[str, Any]:
    return json.loads((out / "comparison.json").read_text())


def lasting(out: Path, *, without: str = "") -> dict[str, Any]:
    """comparison.json without what differs from call to call, and without a model."""
    found = figures(out)
    found["models"].pop(without, None)
    found["differences"] = [one for one in found["differences"] if without not in one["models"]]
    for one in found["models"].values():
        for name in MEASURED:
            del one[name]
        for point in (one["sampler_curve"] or {"points": []})["points"]:
            del point["seconds"]
    return found


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory) -> tuple[Path, Answer]:
    """A comparison on images; not to be changed."""
    out = tmp_path_factory.mktemp("compared") / "images"
    answer = compare(out, data["images"])
    assert answer.status == 0, answer.err
    return out, answer


def check_json(found: dict[str, Any], source: str, *, n: int, dims: int, latent_dims: list[int]) -> None:
    told = {"data": source, "split": "test", "n": n, "dims": dims}
    assert found.keys() == {"data", "budget", "models", "differences"}
    assert found["data"]["source"] == source
    assert found["budget"] == {"steps": STEPS, "batch_size": 8, "images_seen": 8 * STEPS, "seed": 1}
    assert list(found["models"]) == ["vae", "hvae", "ddpm"]
    for (kind, one), size, T in zip(found["models"].items(), latent_dims, (1, 2, 12), strict=True):
        assert one.keys() == OBJECT | MORE
        assert {"model": kind, **told}.items() <= one.items()
        assert one["latent_dims"] == size
        assert one["network_calls_per_sample"] == one["network_calls_per_image"] == T
        assert one["train_images_per_second"] > 0
        assert one["sample_images_per_second"] > 0
        assert (one["log_likelihood"] is None) == (kind == "ddpm")


def test_comparison_json(compared, data):
    out, _ = compared
    # Of 8×8: z of 3; 2 channels of 4×4 and of 2×2; and a DDPM's are of the data's size.
    check_json(figures(out), data["images"], n=10, dims=64, latent_dims=[3, 32 + 8, 64])
    for kind, one in figures(out)["models"].items():
        chain = load_run(out / kind)
        assert one["parameters"] == sum(p.numel() for p in chain.parameters())
        bound = {} if kind == "ddpm" else {"bound": "iwae", "samples": 20}
        result = evaluate(chain, images().test, n=10, **bound).json()
        assert {name: one[name] for name in result if name != "seconds"} == {
            name: value for name, value in result.items() if name != "seconds"
        }


def test_differences_of_the_bounds(compared):
    """Of each pair, over the same examples, so that their error is that of the paired differences."""
    found = figures(compared[0])
    assert [one["models"] for one in found["differences"]] == [
        ["vae", "hvae"],
        ["vae", "ddpm"],
        ["hvae", "ddpm"],
    ]
    for one in found["differences"]:
        a, b = (found["models"][kind] for kind in one["models"])
        assert one["n"] == 10
        for figure in ("elbo", "bits_per_dim"):
            assert one[figure]["mean"] == pytest.approx(a[figure]["mean"] - b[figure]["mean"], rel=1e-5)
            # No wider than if the examples were not the same.
            assert 0 < one[figure]["stderr"] < a[figure]["stderr"] + b[figure]["stderr"]


def test_sample_distances(compared):
    """In one space, of the same examples, beside the same floor; and the sampler they are of is told."""
    out, answer = compared
    found = figures(out)["models"]
    ruler = Ruler.of(images(), n=500)
    for kind, taken in (("vae", 1), ("hvae", 2), ("ddpm", 12)):
        one = found[kind]
        measured = measure_samples(load_run(out / kind), ruler, seed=5).json()
        assert one["sample_quality"] == measured
        assert measured["network_calls_per_sample"] == taken
        assert (measured["features"], measured["n"], measured["final"]) == ("components", 9, "mean")
        assert one["sample_distance"] == measured["distance"]["frechet"] > 0
        assert one["sample_distance_floor"] == measured["floor"]["frechet"] == ruler.floor.frechet
        entry = f"{one['sample_distance']:.3g} (floor {one['sample_distance_floor']:.3g})"
        assert entry in " ".join(answer.out.split())
    note = " ".join(answer.out.split())
    assert "Sample distance: Fréchet, 9 samples (means) against 9 test examples" in note
    assert "principal components of 29 training examples" in note
    assert "ddpm: ancestral, all levels" in note


def test_the_curve_of_samplers(compared):
    out, answer = compared
    found = {kind: one["sampler_curve"] for kind, one in figures(out)["models"].items()}
    assert found["vae"] is found["hvae"] is None
    points = found["ddpm"]["points"]
    assert {one["sampler"] for one in points} == set(SAMPLERS)
    # At 5, 10 and, as there are no 20 levels, 12 network calls; all beside the floor of the others.
    assert [one["network_calls"] for one in points] == [5, 10, 12] * 4 + [5, 9, 11]
    measured = figures(out)["models"]["ddpm"]["sample_quality"]
    assert points[2]["distance"] == measured["distance"]
    assert found["ddpm"]["floor"] == measured["floor"]
    with Image.open(out / "curve.png") as image:
        assert image.format == "PNG"
    assert f"written: {out / 'curve.png'}" in answer.err


def test_without_sample_distances(data, tmp_path):
    """None asked for, and too few data for one."""
    for source, option in ((data["images"], ("--quality", 0)), (str(tmp_path / "few.npy"), ())):
        if not option:
            np.save(source, np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
        out = tmp_path / f"out{len(option)}"
        answer = compare(out, source, "--models", "vae", *option)
        assert answer.status == 0, answer.err
        one = figures(out)["models"]["vae"]
        assert one["sample_distance"] is one["sample_distance_floor"] is one["sample_quality"] is None
        assert "Sample distance –" in " ".join(answer.out.translate(str.maketrans("│┃", "  ")).split())
        assert "Fréchet" not in answer.out
        assert one["sampler_curve"] is None
        assert "curve.png" not in answer.err
        assert not (out / "curve.png").exists()


def test_the_folder(compared):
    out, _ = compared
    pictures = {f"samples-{kind}.png" for kind in ("vae", "hvae", "ddpm")}
    assert {p.name for p in out.iterdir()} == {
        "vae",
        "hvae",
        "ddpm",
        "samples.png",
        "curve.png",
        "comparison.json",
        "report.html",
    } | pictures
    for kind in ("vae", "hvae", "ddpm"):
        assert RunFolder.open(out / kind).config.model.kind == kind
        assert RunFolder.open(out / kind).step == STEPS
        answer = call("evaluate", out / kind, "--json", "--n", 10)
        assert json.loads(answer.out)["elbo"] == figures(out)["models"][kind]["elbo"]


def test_the_table(compared):
    out, answer = compared
    text = " ".join(answer.out.split())
    for concept in (
        *("Inference type", "Latent space", "Training loss", "Sampling path", "Generation speed"),
        *("Posterior approximation", "Reparameterisation", "ELBO", "bits/dim", "Parameters"),
        *("Training speed", "VAE", "hierarchical VAE", "DDPM", "one-shot decoding"),
        *("sequential, 2 steps", "sequential, 12 steps", "variational inference"),
        *("fixed noising, learned denoising", "predefined forward + learned reverse"),
    ):
        assert concept in text
    for one in figures(out)["models"].values():
        bits = one["bits_per_dim"]
        assert f"{bits['mean']:.3f} ± {bits['stderr']:.3f}" in text
        assert f"{one['elbo']['mean']:.2f} ± {one['elbo']['stderr']:.2f}" in text
    assert f"written: {out / 'comparison.json'}" in answer.err


def test_called_again_it_trains_no_more(compared, data, tmp_path):
    out = shutil.copytree(compared[0], tmp_path / "again")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent != out}
    answer = compare(out, data["images"], "--json", "--models", "vae", "hvae")
    assert answer.status == 0, answer.err
    (line,) = answer.out.splitlines()
    assert json.loads(line) == figures(out)
    assert lasting(out) == lasting(compared[0], without="ddpm")
    assert {path: path.read_bytes() for path in before} == before
    for name in ("samples-vae.png", "samples-hvae.png"):
        assert (out / name).read_bytes() == (compared[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", 7), "vae holds a run with other training options"),
        (("--vae.beta", 2), "vae holds a run with other model options"),
        (("--ddpm.T", 13), "ddpm holds a run with other model options"),
        (("--binarize", "threshold"), "vae holds a run with other data options"),
        (("--ddpm.T", 13, "--models", "ddpm"), "ddpm holds a run with other model options"),
    ],
    ids=str,
)
def test_other_options_are_refused_before_any_work(options, message, compared, data):
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    answer = compare(out, data["images"], *options)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.message
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_what_the_last_model_cannot_do_is_refused_before_the_first_is_trained(data, tmp_path):
    for options in (("--ddpm.attention", 7), ("--ddpm.T", 5, "--ddpm.schedule", "linear")):
        answer = compare(tmp_path / "out", data["images"], *options)
        assert (answer.status, answer.out) == (2, "")
        assert not (tmp_path / "out").exists()


def test_points_and_a_choice_of_models(tmp_path):
    answer = compare(tmp_path / "out", "swiss-roll", "--models", "ddpm", "vae", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert list(found["models"]) == ["ddpm", "vae"]
    assert (found["data"]["source"], found["data"]["levels"]) == ("swiss-roll", None)
    for one in found["models"].values():
        assert one.keys() == OBJECT | MORE
        assert one["bits_per_dim"] is None
        assert (one["dims"], one["n"]) == (2, 10)
    assert found["models"]["ddpm"]["latent_dims"] == 2
    assert (tmp_path / "out" / "samples.png").exists()


def test_all_test_examples_and_sampled_levels(data, tmp_path):
    answer = compare(tmp_path / "out", data["vectors"], "--models", "ddpm", "--n", 0, "--levels", 4)
    assert answer.status == 0, answer.err
    one = figures(tmp_path / "out")["models"]["ddpm"]
    assert (one["n"], one["network_calls_per_image"], one["network_calls_per_sample"]) == (16, 6, 12)


@pytest.mark.slow
def test_an_interrupted_comparison_is_gone_on_with(compared, data, tmp_path):
    out, log, chosen = tmp_path / "out", tmp_path / "log", ("--models", "vae", "hvae")
    process = start("compare", "--data", data["images"], "--out", out, *OPTIONS, *OF_IMAGES, *chosen, log=log)
    assert wait_for(process, (out / "hvae" / "metrics.jsonl").exists), log.read_text()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert finished(process) == 130, log.read_text()
    assert "stopped while training hvae. The same command resumes it." in log.read_text()
    assert RunFolder.open(out / "hvae").step < STEPS
    assert not (out / "comparison.json").exists()
    answer = compare(out, data["images"], *chosen)
    assert answer.status == 0, answer.err
    assert lasting(out) == lasting(compared[0], without="ddpm")
    for name in ("vae/metrics.jsonl", "hvae/metrics.jsonl"):
        assert (out / name).read_bytes() == (compared[0] / name).read_bytes()


@pytest.fixture(scope="module")
def over_seeds(data, tmp_path_factory) -> tuple[Path, Answer]:
    """A model trained with three seeds; not to be changed."""
    out = tmp_path_factory.mktemp("seeds") / "out"
    # Without importance samples there is no posterior to fit for the gaps, which takes longest.
    answer = call(
        *("compare", "--data", data["images"], "--out", out, "--models", "vae", "--vae.latent-dims", 3),
        *("--vae.width", 4, "--steps", STEPS, "--batch-size", 8, "--validation", 0.2, "--device", "cpu"),
        *("--seed", 1, "--seeds", 3, "--n", 10, "--importance-samples", 0, "--quality", 0),
    )
    assert answer.status == 0, answer.err
    return out, answer


def test_the_spread_over_training_seeds(over_seeds):
    """The ELBOs of three runs with other seeds, their mean and its standard error."""
    out, answer = over_seeds
    for kind, one in figures(out)["models"].items():
        spread = one["seeds"]
        assert spread["seeds"] == [1, 2, 3]
        elbos = [
            evaluate(load_run(folder), images().test.some(10).x).elbo.mean
            for folder in (out / kind, out / f"{kind}-seed-2", out / f"{kind}-seed-3")
        ]
        assert spread["elbos"] == pytest.approx(elbos, rel=1e-6)
        assert len(set(elbos)) == 3
        assert spread["elbo"]["mean"] == pytest.approx(np.mean(elbos), rel=1e-6)
        assert spread["elbo"]["stderr"] == pytest.approx(np.std(elbos, ddof=1) / 3**0.5, rel=1e-6)
        assert one["elbo"]["mean"] == pytest.approx(elbos[0], rel=1e-6)
    assert "over training seeds" in answer.out


def test_one_seed_has_no_spread(compared):
    out, answer = compared
    assert all("seeds" not in one for one in figures(out)["models"].values())
    assert "over training seeds" not in answer.out


def test_the_plan_is_printed_before_the_first_step(compared):
    _, answer = compared
    lines = answer.err.splitlines()
    assert lines[0].startswith("plan: about ")
    plan = [line.split() for line in lines[1:] if line.startswith("  ")][:9]
    assert [line[0] for line in plan] == ["vae"] * 3 + ["hvae"] * 3 + ["ddpm"] * 3
    assert plan[0][1:4] == ["train", str(STEPS), "steps"]
    assert all(line[-1] == "s" and float(line[-2]) >= 0 for line in plan)


def test_paired_differences_are_printed(compared):
    out, answer = compared
    for one in figures(out)["differences"]:
        mean, stderr = one["elbo"]["mean"], one["elbo"]["stderr"]
        assert f"{mean:.2f} ± {stderr:.2f} nats" in answer.out
