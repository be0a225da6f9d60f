"""``ancestral evaluate``: the keys of its answer, what they add up to, and which examples it is over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from ancestral.bounds import Annealing
from ancestral.cli.evaluate import Evaluate
from ancestral.evaluation import Ruler, evaluate
from ancestral.experiments.runs import load_run
from ancestral.sampling import SAMPLERS
from commands import call
from tiny import blobs, images

KEYS = {
    *("model", "data", "split", "n", "dims", "elbo", "bits_per_dim", "terms", "matching_per_level"),
    *("log_likelihood", "network_calls_per_image", "estimator", "seconds", "seed", "examples", "notes"),
    "checkpoint",
}
LEVELS = {"vae": 1, "hvae": 2, "ddpm": 12}


def answered(run: Path, *options: object) -> dict[str, Any]:
    """The one JSON object on standard output."""
    answer = call("evaluate", run, "--json", "--device", "cpu", *options)
    assert answer.status == 0, answer.err
    (line,) = answer.out.splitlines()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("source", ["images", "vectors"])
def test_the_answer_has_these_keys(kind, source, runs, data):
    found = answered(runs[f"{kind} on {source}"])
    T, dims = LEVELS[kind], 64 if source == "images" else 2
    assert found.keys() == KEYS
    assert (found["model"], found["data"], found["split"]) == (kind, data[source], "test")
    assert (found["n"], found["dims"]) == (12 if source == "images" else 16, dims)
    assert found["elbo"].keys() == {"mean", "stderr"}
    assert found["terms"].keys() == {"reconstruction", "matching", "prior"}
    assert sum(found["terms"].values()) == pytest.approx(-found["elbo"]["mean"])
    assert len(found["matching_per_level"]) == T - 1
    assert sum(found["matching_per_level"]) == pytest.approx(found["terms"]["matching"])
    if source == "vectors":
        assert found["bits_per_dim"] is None
    else:
        for figure in ("mean", "stderr"):
            expected = abs(found["elbo"][figure]) / (dims * math.log(2))
            assert found["bits_per_dim"][figure] == pytest.approx(expected)
    assert found["log_likelihood"] is None
    assert found["network_calls_per_image"] == T
    assert found["seconds"] > 0


@pytest.mark.parametrize("kind", ["vae", "hvae"])
def test_importance_samples_are_told(kind, runs):
    found = answered(runs[f"{kind} on images"], "--bound", "iwae", "--samples", 30, "--n", 5)
    keys = {"mean", "stderr", "bound", "samples", "effective_samples", "above_one_sample", "curve"}
    assert found["log_likelihood"].keys() == keys
    assert (found["log_likelihood"]["bound"], found["log_likelihood"]["samples"]) == ("iwae", 30)
    assert [point["k"] for point in found["log_likelihood"]["curve"]] == [1, 2, 5, 10, 20, 30]
    assert found["log_likelihood"]["mean"] > found["elbo"]["mean"]


@pytest.mark.parametrize("kind", ["vae", "hvae"])
def test_annealed_chains_both_ways_and_the_gaps(kind, runs, tmp_path):
    run, picture = runs[f"{kind} on images"], tmp_path / "new" / "bounds.png"
    small = ("--n", 4, "--bound", "ais", "--samples", 2, "--ais-temperatures", 3, "--ais-leapfrog", 2)
    more = ("--ais-simulated", 5, "--bounds-picture", picture, "--fit-steps", 4, "--seed", 3)
    found = answered(run, *small, *more)
    assert found.keys() == KEYS | {"bidirectional", "gaps"}
    likelihood = found["log_likelihood"]
    assert (likelihood["bound"], likelihood["samples"]) == ("ais", 2)
    assert (likelihood["temperatures"], likelihood["leapfrog"]) == (3, 2)
    assert found["bidirectional"]["n"] == 5
    assert found["bidirectional"]["gap"]["mean"] > 0
    assert (found["gaps"]["n"], found["gaps"]["fitting_steps"]) == (4, 4)
    assert {"ELBO", "ELBO, q fitted", "IWAE-500", "AIS-2"} <= {b["name"] for b in found["gaps"]["bounds"]}
    with Image.open(picture) as image:
        assert image.format == "PNG"
    # The same of Python, and for a person.
    result = evaluate(
        load_run(run), images().test.some(4).x, bound="ais", samples=2, annealing=Annealing(3, 2), seed=3
    )
    assert result.json()["log_likelihood"] == likelihood
    answer = call("evaluate", run, *small, *more)
    text = " ".join(answer.out.split())
    assert (
        f"log p(x) >= {likelihood['mean']:.4f} ± {likelihood['stderr']:.4f} nats (AIS-2, 2 chains annealed over"
        in text
    )
    for name in ("amortisation", "family of q"):
        assert f"{name} " in text
    assert f"gap of ais {found['bidirectional']['gap']['mean']:.4f}" in text
    assert f"written: {picture}" in answer.err


def test_the_curve_is_told_to_a_person(runs):
    answer = call("evaluate", runs["vae on images"], "--bound", "iwae", "--samples", 20)
    lines = [line.split()[0] for line in answer.out.splitlines()[1:]]
    assert lines[-6:] == ["bound", "iwae-1", "iwae-2", "iwae-5", "iwae-10", "iwae-20"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vae", ("--ais-leapfrog", 3), "an option --ais-… is given and bound is elbo; say --bound ais as"),
        ("vae", ("--bound", "iwae", "--ais-simulated", 3), "an option --ais-… is given and bound is iwae"),
        ("vae", ("--fit-steps", 3), "--fit-steps is given and no picture"),
        ("vae", ("--bounds-picture", "a.png"), "say --bound iwae with 2 samples or more, or --bound ais"),
        ("vae", ("--bound", "iwae", "--samples", 1, "--bounds-picture", "a.png"), "with 2 samples or more"),
        ("vae", ("--bound", "ais", "--bounds-picture", "a.pdf"), "--bounds-picture is a.pdf; it must end in"),
        ("vae", ("--levels", "all"), "levels is all, for a VAE: its ELBO is of whole paths"),
        (
            "ddpm",
            ("--bound", "ais"),
            "bound is ais for a Diffusion: each of its gradients would take all T = 12",
        ),
        ("ddpm", ("--bound", "iwae"), "the usual 5000 of them 60000 an image. Give a number of samples"),
        (
            "ddpm",
            ("--bound", "iwae", "--samples", 5, "--bounds-picture", "a.png"),
            "q of a Diffusion is fixed",
        ),
    ],
    ids=str,
)
def test_mistakes_about_bounds_are_told_before_any_work(kind, options, message, runs, monkeypatch):
    monkeypatch.setattr("ancestral.evaluation.evaluate", None)
    answer = call("evaluate", runs[f"{kind} on images"], *options)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.message


def test_figures_are_those_of_python(runs):
    run = runs["hvae on images"]
    result = evaluate(load_run(run), images().test.x, seed=7, samples=2).json()
    found = answered(run, "--seed", 7, "--samples", 2)
    for name in ("elbo", "bits_per_dim", "terms", "matching_per_level", "network_calls_per_image"):
        assert found[name] == result[name]
    assert answered(run, "--seed", 7)["elbo"] != answered(run, "--seed", 8)["elbo"]
    assert found["network_calls_per_image"] == 4


def test_splits_and_numbers_of_examples(runs):
    run, x = runs["vae on images"], images()
    means = set()
    for split, n in (("test", 12), ("validation", 10), ("train", 38)):
        found = answered(run, "--split", split)
        assert (found["split"], found["n"]) == (split, n)
        assert found["elbo"] == evaluate(load_run(run), x.split(split).x).json()["elbo"]
        means.add(found["elbo"]["mean"])
    assert len(means) == 3
    first = answered(run, "--n", 5)
    assert first["n"] == 5
    assert first["elbo"] == evaluate(load_run(run), x.test, n=5).json()["elbo"]
    assert answered(run, "--n", 500)["n"] == 12


def test_the_last_batch_counts(runs):
    """12 examples in batches of 5: the same number, and the same figures but for rounding."""
    run = runs["vae on images"]
    whole, parts = answered(run, "--samples", 200), answered(run, "--samples", 200, "--batch-size", 5)
    assert parts["n"] == 12
    assert parts["elbo"]["mean"] == pytest.approx(whole["elbo"]["mean"], rel=1e-6)


def test_levels_of_a_ddpm(runs):
    run = runs["ddpm on images"]
    swept, every = answered(run), answered(run, "--levels", "all")
    assert every["elbo"] == swept["elbo"]
    sampled = answered(run, "--levels", 3)
    assert sampled["network_calls_per_image"] == 5
    assert len(sampled["matching_per_level"]) == 11
    assert sampled["elbo"] != swept["elbo"]
    many = answered(run, "--levels", 200)
    assert many["elbo"]["mean"] == pytest.approx(swept["elbo"]["mean"], rel=0.05)
    for kind in ("vae", "hvae"):
        for levels in (3, "all"):
            answer = call("evaluate", runs[f"{kind} on images"], "--levels", levels)
            assert answer.status == 2
            assert f"levels is {levels}" in answer.message


def test_estimators_of_a_ddpm(runs):
    run = runs["ddpm on images"]
    assert answered(run, "--estimator", "sweep")["elbo"] == answered(run)["elbo"]
    assert answered(run)["estimator"] == {"name": "sweep", "samples": 1}
    sampled = answered(run, "--estimator", "sampled")
    assert sampled["estimator"]["levels"] == 16
    assert sampled["estimator"]["draws"] == "importance"
    assert sampled["elbo"].keys() == {"mean", "stderr", "stderr_estimator"}
    for draws in ("uniform", "low-discrepancy"):
        found = answered(run, "--estimator", "sampled", "--levels", 4, "--draws", draws)
        assert found["estimator"]["draws"] == draws
        expected = evaluate(load_run(run), images().test.x, levels=4, draws=draws)
        assert found["elbo"] == expected.json()["elbo"]
    text = call("evaluate", run, "--levels", 4).out
    assert "of the draws" in text
    assert "in a pilot" in text


@pytest.mark.parametrize("source", ["images", "vectors"])
def test_the_likelihood_of_the_ode(source, runs):
    pytest.importorskip("torchdiffeq")
    run, dims = runs[f"ddpm on {source}"], 64 if source == "images" else 2
    loose = ("--estimator", "ode", "--ode.rtol", 0.1, "--ode.atol", 0.1, "--n", 3)
    found = answered(run, *loose, "--samples", 2)
    assert found.keys() == {
        *("model", "data", "split", "n", "dims", "likelihood_of", "log_likelihood_bound", "bits_per_dim"),
        *("terms", "stderr_trace", "function_evaluations", "network_calls_per_image", "estimator", "seconds"),
        *("seed", "examples", "notes", "batch_size", "checkpoint"),
    }
    assert (found["n"], found["dims"]) == (3, dims)
    assert "another model than the one the ELBO is of" in found["likelihood_of"]
    bound = found["log_likelihood_bound"]
    assert bound.keys() == {"mean", "stderr", "stderr_estimator"}
    assert sum(found["terms"].values()) == pytest.approx(-bound["mean"])
    trace = {"trace": "hutchinson", "probes": 4} if source == "images" else {"trace": "exact"}
    assert found["estimator"] == {
        **{"name": "ode", "samples": 2, "solver": "dopri5", "rtol": 0.1, "atol": 0.1},
        **trace,
    }
    if source == "images":
        assert found["bits_per_dim"]["mean"] == pytest.approx(-bound["mean"] / (dims * math.log(2)))
    else:
        assert found["bits_per_dim"] is None
    assert found["network_calls_per_image"] == 2 * (found["function_evaluations"] + 1)
    assert "log p_ODE(x) ≥" in call("evaluate", run, *loose).out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--estimator", "sweep", "--levels", 3), "levels is 3 and the estimator is sweep"),
        (("--estimator", "sampled", "--levels", "all"), "levels is all and the estimator is sampled"),
        (("--estimator", "ode", "--levels", 3), "levels is 3 and the estimator is ode"),
        (("--estimator", "ode", "--bound", "iwae"), "bound is iwae and the estimator is ode"),
        (("--estimator", "sweep", "--draws", "uniform"), "no levels are drawn at random"),
        (("--draws", "uniform"), "all levels are swept over"),
        (("--ode.probes", 3), "say --estimator ode"),
        (("--estimator", "ode", "--ode.rtol", 0), "rtol is 0"),
        (("--levels", 3, "--samples", 2), "samples is 2 and levels is 3"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_together(options, message, runs):
    answer = call("evaluate", runs["ddpm on images"], *options)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.message


@pytest.mark.parametrize("kind", ["vae", "hvae"])
@pytest.mark.parametrize("estimator", ["sweep", "sampled", "ode"])
def test_only_a_ddpm_has_estimators(kind, estimator, runs):
    answer = call("evaluate", runs[f"{kind} on images"], "--estimator", estimator)
    assert answer.status == 2
    assert f"estimator is {estimator}, for a " in answer.message


def test_data_that_moved_and_data_of_another_shape(runs, data, tmp_path):
    run = runs["vae on images"]
    moved = tmp_path / "moved.npz"
    moved.write_bytes(Path(data["images"]).read_bytes())
    found = answered(run, "--data", moved)
    assert found["data"] == str(moved)
    assert found["elbo"] == answered(run)["elbo"]
    np.savez(tmp_path / "wide.npz", x=blobs(60, size=9), levels=17)
    np.savez(tmp_path / "deep.npz", x=blobs(60), levels=18)
    for other in (tmp_path / "wide.npz", tmp_path / "deep.npz", data["vectors"]):
        answer = call("evaluate", run, "--data", other)
        assert (answer.status, answer.out) == (2, "")
        assert "Give data of the same shape and levels" in answer.message


def test_without_a_validation_split(data, tmp_path):
    out = tmp_path / "run"
    options = ("--steps", 1, "--batch-size", 8, "--validation", 0, "--model.network", "mlp")
    assert call("train", "vae", "--data", data["images"], "--out", out, *options).status == 0
    answer = call("evaluate", out, "--split", "validation")
    assert answer.status == 2
    assert "no validation split" in answer.message


@pytest.mark.parametrize("kind", LEVELS)
def test_the_table_for_a_person(kind, runs):
    found = answered(runs[f"{kind} on images"])
    answer = call("evaluate", runs[f"{kind} on images"])
    assert answer.status == 0
    text = " ".join(answer.out.split())
    assert f"{found['elbo']['mean']:.4f} ± {found['elbo']['stderr']:.4f} nats" in text
    assert f"{found['bits_per_dim']['mean']:.4f} ± {found['bits_per_dim']['stderr']:.4f}" in text
    for term in found["terms"].values():
        assert f"{term:.4f} nats" in text
    assert ("alive" in text) == (kind != "vae")


def test_binarised_data_are_evaluated_as_bits(data, tmp_path):
    out = tmp_path / "run"
    options = ("--steps", 2, "--batch-size", 8, "--binarize", "dynamic", "--model.network", "mlp")
    assert call("train", "vae", "--data", data["images"], "--out", out, *options).status == 0
    found = answered(out)
    assert 0 < found["bits_per_dim"]["mean"] < 2
    assert found["elbo"] == answered(out)["elbo"]


@pytest.mark.parametrize(
    ("kind", "options", "taken"),
    [
        ("vae", (), 1),
        ("hvae", (), 2),
        ("hvae", ("--final", "draw"), 2),
        ("ddpm", (), 12),
        ("ddpm", ("--steps", 5), 5),
        ("ddpm", ("--sampler", "dpm++2m", "--steps", 5), 5),
        ("ddpm", ("--sampler", "heun", "--steps", 5), 9),
    ],
    ids=str,
)
def test_the_samples_measured_are_those_of_the_command_sample(kind, options, taken, runs, tmp_path):
    run, out = runs[f"{kind} on images"], tmp_path / "samples.npz"
    assert call("sample", run, "--n", 9, "--seed", 3, "--out", out, "--device", "cpu", *options).status == 0
    samples = torch.from_numpy(np.load(out)["samples"])[:, None]
    named = [str(option).replace("--", "--quality-") for option in options]
    found = answered(run, "--quality", 9, "--seed", 3, *named)
    assert found.keys() == KEYS | {"sample_quality"}
    quality = found["sample_quality"]
    assert quality["network_calls_per_sample"] == taken
    assert quality["sampler"] == (options[1] if "--sampler" in options else "ancestral")
    assert quality["steps"] == (5 if "--steps" in options else taken)
    assert quality["precision"] in ("fp32", "bf16")
    assert quality["final"] == ("draw" if "draw" in options else "mean")
    expected = Ruler.of(images(), n=9).measure(samples).json()
    assert {name: quality[name] for name in expected} == expected


def test_features_and_the_table_of_sample_quality(runs):
    run = runs["vae on vectors"]
    found = answered(run, "--quality", 500, "--quality-features", "pixels")["sample_quality"]
    assert (found["features"], found["dims"], found["n"]) == ("pixels", 2, 12)
    answer = call("evaluate", run, "--quality", 500, "--quality-features", "pixels")
    text = " ".join(answer.out.split())
    for name, word in (("frechet", "Fréchet"), ("precision", "precision"), ("recall", "recall")):
        assert f"{word} {found['distance'][name]:.4f} (floor {found['floor'][name]:.4f})" in text
    kernel, floor = found["distance"]["kernel"], found["floor"]["kernel"]
    assert f"kernel {kernel['mean']:.4f} ± {kernel['stderr']:.4f} (floor {floor['mean']:.4f} ±" in text
    assert "12 (ancestral, all levels; draw) against the same number of test examples" in text
    assert found["description"] in text
    assert "Fréchet" not in call("evaluate", run).out


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vae", ("--quality", 7), "quality is 7; it must be 0, for none, or at least 8 samples"),
        ("vae", ("--quality", -1), "quality is -1"),
        ("vae", ("--quality-features", "pixels"), "quality is 0; say --quality N as well"),
        ("vae", ("--quality-steps", 3), "quality is 0; say --quality N as well"),
        ("vae", ("--quality-sampler", "ddim"), "quality is 0; say --quality N as well"),
        ("ddpm", ("--sampler-curve", "a.png", "--quality-steps", 3), "quality is 0; say --quality N"),
        ("ddpm", ("--sampler-curve", "a.pdf"), "--sampler-curve is a.pdf; it must end in .png"),
        ("vae", ("--sampler-curve", "a.png"), "a curve of samplers is for a ddpm, and this is a VAE"),
        (
            "vae",
            ("--quality", 9, "--quality-steps", 3),
            "3 steps for a VAE: only a diffusion model has levels",
        ),
        (
            "vae",
            ("--quality", 9, "--quality-sampler", "ddim"),
            "sampler ddim for a VAE: only a diffusion model has",
        ),
        ("ddpm", ("--quality", 9, "--quality-steps", 13), "steps is 13; it must be from 1 to 12"),
        ("vae", ("--quality", 9, "--quality-features", "classifier"), "the training data have no labels"),
    ],
    ids=str,
)
def test_mistakes_about_sample_quality_are_told_before_any_work(kind, options, message, runs, monkeypatch):
    monkeypatch.setattr("ancestral.evaluation.evaluate", None)
    answer = call("evaluate", runs[f"{kind} on images"], *options)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.message


def test_the_curve_of_samplers(runs, tmp_path):
    run, out = runs["ddpm on images"], tmp_path / "new" / "curve.png"
    found = answered(run, "--sampler-curve", out, "--quality", 9, "--seed", 3, "--quality-final", "draw")
    assert found.keys() == KEYS | {"sample_quality", "sampler_curve"}
    curve = found["sampler_curve"]
    assert (curve["n"], curve["final"], curve["features"]) == (9, "draw", "components")
    assert curve["floor"] == found["sample_quality"]["floor"]
    told = [(one["sampler"], one["steps"], one["network_calls"]) for one in curve["points"]]
    # Of 12 levels, so that 20 and 50 calls are 12; heun's steps take two, but the last.
    assert told == [
        *((name, n, n) for name in ("ancestral", "ddim", "dpm++2m", "dpm++2m-sde") for n in (5, 10, 12)),
        *(("heun", 3, 5), ("heun", 5, 9), ("heun", 6, 11)),
    ]
    # The ancestral sampler of all levels is the one that is measured by default.
    assert curve["points"][2]["distance"] == found["sample_quality"]["distance"]
    with Image.open(out) as image:
        assert image.format == "PNG"
    # Without a number it is of as many as there are, up to 500; a person sees the table.
    answer = call("evaluate", run, "--sampler-curve", out, "--device", "cpu")
    assert answer.status == 0
    assert f"written: {out}" in answer.err
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "sampler steps network calls Fréchet distance kernel distance precision recall" in lines
    assert sum(line.startswith("dpm++2m-sde ") for line in lines) == 3
    assert lines[-1].startswith("floor – – ")
    assert "samples 9" not in " ".join(lines)


def test_a_picture_of_posteriors(data, tmp_path):
    """A flow in a run from its options to its picture: trained, gone on with, evaluated and sampled."""
    run, out = tmp_path / "run", tmp_path / "new" / "q.png"
    options = ("--model.network", "mlp", "--model.hidden", 8, "--model.latent-dims", 2, "--model.q", "spline")
    flow = ("--model.flow.transforms", 1, "--model.flow.hidden", 6, "--model.flow.context", 2)
    short = ("--steps", 3, "--batch-size", 8, "--sample-every", 0, "--device", "cpu")
    train = call("train", "vae", "--data", data["images"], "--out", run, *options, *flow, *short)
    assert train.status == 0, train.err
    assert load_run(run).posterior.flow.context == 2
    found = answered(run, "--posterior-picture", out, "--bound", "iwae", "--samples", 20)
    assert found.keys() == KEYS | {"posteriors"}
    assert len(found["posteriors"]) == 4
    for one in found["posteriors"]:
        assert one["gap"] == pytest.approx(one["log_likelihood"] - one["elbo"])
        assert one["gap"] > 0
    with Image.open(out) as image:
        assert image.format == "PNG"
    answer = call("evaluate", run, "--posterior-picture", out, "--n", 2, "--device", "cpu")
    (line,) = [line for line in answer.out.splitlines() if "posterior gaps" in line]
    assert line.split()[2:4] == [f"{one['gap']:.4f}" for one in found["posteriors"][:2]]
    assert f"written: {out}" in answer.err
    assert call("sample", run, "--n", 4, "--out", tmp_path / "s.npz", "--device", "cpu").status == 0


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("vae", "a.png", "is for a vae of two latent numbers, and this is a VAE of 1 level(s)"),
        ("hvae", "a.png", "this is a LadderHVAE of 2 level(s)"),
        ("ddpm", "a.png", "this is a Diffusion of 12 level(s)"),
        ("vae", "a.pdf", "--posterior-picture is a.pdf; it must end in .png"),
    ],
)
def test_mistakes_about_a_picture_of_posteriors(kind, path, message, runs, monkeypatch):
    monkeypatch.setattr("ancestral.evaluation.evaluate", None)
    answer = call("evaluate", runs[f"{kind} on images"], "--posterior-picture", path)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.message


def test_the_samplers_offered_are_those_there_are():
    assert get_args(get_type_hints(Evaluate)["quality_sampler"]) == SAMPLERS


def test_continuous_time_is_evaluated_from_levels_at_random_and_has_no_sweep(data, tmp_path):
    run = tmp_path / "run"
    short = ("--steps", 2, "--batch-size", 4, "--sample-every", 0, "--device", "cpu")
    options = ("--model.T", "continuous", "--model.channels", 16, "--model.schedule", "learned")
    train = call("train", "ddpm", "--data", data["images"], "--out", run, *options, *short)
    assert train.status == 0, train.err
    found = answered(run, "--n", 6)
    assert found["estimator"]["name"] == "sampled"
    assert found["network_calls_per_image"] == found["estimator"]["levels"] + found["estimator"]["replicates"]
    assert len(found["matching_per_level"]) == 1
    for option in (("--estimator", "sweep"), ("--levels", "all")):
        answer = call("evaluate", run, *option, "--device", "cpu")
        assert answer.status == 2
        assert "continuous time, which has no levels to sweep over" in answer.message
    for bound in ("iwae", "ais"):
        answer = call("evaluate", run, "--bound", bound, "--samples", 2)
        assert answer.status == 2
        assert f"bound is {bound} for a ContinuousDiffusion" in answer.message
