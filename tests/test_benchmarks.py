"""The arithmetic of the benchmarks: medians of ratios, what counts as the same size, exponents."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ancestral.data import load_data

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Scripts import one another from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(BENCHMARKS)):
            del sys.modules[name]


def side(label, *, rates=(1.0,), parameters=100, flops=1e6, memory=0.0):
    paired = importlib.import_module("paired")
    facts = {"version": "1", "machine": "m", "parameters": parameters, "flops": flops}
    return paired.Side(label, facts, list(rates), memory)


def test_ratios_are_of_pairs_of_rounds():
    paired = importlib.import_module("paired")
    # In each round ours is twice as fast, though the machine is not the same in all.
    record = paired.compare("x", side("a", rates=[2.0, 20.0, 5.0]), side("b", rates=[1.0, 10.0, 2.0]))
    assert (record["ratio"], record["low"], record["high"]) == (2.0, 2.0, 2.5)
    assert (record["ours"], record["theirs"], record["rounds"]) == (5.0, 2.0, 3)
    memory = paired.compare_memory("x", side("a", memory=2.0**20), side("b", memory=2.0**22))
    assert (memory["ratio"], memory["ours"], memory["theirs"]) == (0.25, 1.0, 4.0)


def test_models_of_another_size_are_not_compared():
    paired = importlib.import_module("paired")
    ours = side("a")
    paired.check_same_size(ours, side("b", parameters=105, flops=1.1e6))
    with pytest.raises(AssertionError, match="parameters"):
        paired.check_same_size(ours, side("b", parameters=107))
    with pytest.raises(AssertionError, match="flops"):
        paired.check_same_size(ours, side("b", flops=1.2e6))


def test_exponents_of_powers():
    scaling = importlib.import_module("scaling")
    sizes = [8, 16, 64]
    assert scaling.exponent(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert scaling.exponent(sizes, [7.0, 7.0, 7.0]) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("against", "seconds", "memory", "wrong"),
    [("batch", 1.05, 1.0, 0), ("batch", 1.2, 1.0, 1), ("batch", 1.0, 1.2, 1), ("data-set size", 0.0, 0.9, 0)],
)
def test_growing_faster_than_the_arithmetic_is_told(against, seconds, memory, wrong):
    scaling = importlib.import_module("scaling")
    record = {
        "model": "vae",
        "what": "training step",
        "against": against,
        "seconds_exponent": seconds,
        "memory_exponent": memory,
        "flops_exponent": 0.0 if against == "data-set size" else 1.0,
    }
    assert len(scaling.too_fast(record, 0.1)) == wrong


@pytest.mark.slow
def test_workers_take_turns_and_tell_what_they_did():
    """A whole round of two processes of our own training, of a few milliseconds a step."""
    paired = importlib.import_module("paired")
    given = {"shape": [1, 8, 8], "batch": 4, "kind": "vae", "images": 32}
    model = {"network": "mlp", "hidden": [8], "latent_dims": 2}
    workers = [paired.Worker(name, "ours:training", {**given, "model": model}) for name in ("a", "b")]
    sides = paired.rounds(workers, Namespace(rounds=2, seconds=0.01, warm_up=2))
    for each in sides:
        assert len(each.rates) == 2
        assert min(each.rates) > 0
        assert each.facts["parameters"] == sides[0].facts["parameters"] > 0
        assert each.facts["flops"] > 0
    paired.check_same_size(*sides)


def test_the_time_to_a_distance_is_that_of_the_first_checkpoint_there(monkeypatch):
    pytest.importorskip("diffusers")
    module = importlib.import_module("time_to_distance")
    theirs = [{"seconds": 1800.0, "distance": 10.0}]
    ours = [{"seconds": s, "distance": d} for s, d in ((60.0, 30.0), (120.0, 9.0), (180.0, 5.0))]
    assert module.ratio_of(theirs, ours) == {"ratio": 15.0, "low": 15.0, "high": 30.0, "ours": 120.0}
    assert module.ratio_of(theirs, ours[:1]) is None


def test_cifar10_is_written_as_data_take_it(tmp_path):
    """From binary batches, channel by channel, and from folders of pictures, class by class."""
    script = importlib.import_module("cifar10_npz")
    rng = np.random.default_rng(0)
    images, classes = (
        rng.integers(0, 256, (7, 3, 32, 32), np.uint8),
        np.array([0, 1, 0, 1, 0, 0, 1], np.uint8),
    )
    records = np.concatenate([classes[:, None], images.reshape(7, -1)], axis=1)
    files = {"data_batch_1.bin": records[:2], "data_batch_2.bin": records[2:4], "test_batch.bin": records[4:]}
    (tmp_path / "batches").mkdir()
    for name, rows in files.items():
        rows.tofile(tmp_path / "batches" / name)
    script.write(tmp_path / "batches", tmp_path / "a.npz")
    data = load_data(tmp_path / "a.npz", validation=0.0)
    assert torch.equal(data.train.x, torch.from_numpy(images[:4]))
    assert torch.equal(data.test.x, torch.from_numpy(images[4:]))
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    for i, (image, label) in enumerate(zip(images, classes, strict=True)):
        folder = tmp_path / "pictures" / ("train" if i < 4 else "test") / f"kind-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i}.png")
    script.write(tmp_path / "pictures", tmp_path / "b.npz")
    data = load_data(tmp_path / "b.npz", validation=0.0)
    assert torch.equal(data.train.x, torch.from_numpy(images[[0, 2, 1, 3]]))
    assert data.test.labels.tolist() == [0, 0, 1]


def event(kind, test, outcome="", reason=""):
    more = {"outcome": outcome, "reason": reason} if kind == "ended" else {}
    return json.dumps({"event": kind, "test": test, **more})


def test_what_became_of_gpu_tests_is_read_from_a_run_cut_short():
    check = importlib.import_module("gpu_check")
    lines = [*(event("found", name) for name in "abcde"), *(event("started", name) for name in "abcd")]
    lines += [event("ended", "a", "passed"), event("ended", "b", "skipped", "needs a GPU")]
    lines += [event("ended", "c", "passed"), event("ended", "c", "failed", "its end"), '{"event": "en']
    ended = check.ended_tests(lines, None, "")
    assert ended.outcome == "not run"
    assert {name: outcome for name, (outcome, _) in ended.tests.items()} == {
        "a": "passed", "b": "skipped", "c": "failed", "d": "not run", "e": "not run",
    }  # fmt: skip
    # What is not of a test: pytest itself, or files that cannot be read.
    assert check.ended_tests([], 5, "no tests").outcome == "failed"
    assert check.ended_tests(lines[:1], 3, "crash").outcome == "failed"
    assert check.ended_tests([event("ended", "a", "passed")], 0, "").outcome == "passed"


def test_without_a_gpu_the_check_says_so_and_nothing_has_passed(monkeypatch, capsys, tmp_path):
    check = importlib.import_module("gpu_check")
    begun = []

    def run(part, seconds, *, dry):
        begun.append(part.name)
        return check.ended_tests([event("found", "a"), event("ended", "a", "skipped", "needs a GPU")], 0, "")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(check, "run", run)
    assert check.main(["--out", str(tmp_path / "out.json")]) == 0
    told = capsys.readouterr().out
    assert begun == ["tests"]
    assert "tests: 0 passed, 0 failed, 1 skipped, 0 not run" in told
    assert told.count("passed") == 1
    assert told.count("skipped (needs a GPU)") == 4
    assert told.splitlines()[-1].startswith("No GPU: torch ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_a_check_on_a_gpu_is_written_and_its_failures_are_its_status(outcome, monkeypatch, capsys, tmp_path):
    check = importlib.import_module("gpu_check")

    def run(part, seconds, *, dry):
        if part.name == "tests":
            return check.ended_tests([event("ended", "a", "passed")], 0, "")
        if part.name == "vae":
            return check.ended_figures("", None, "")
        why = {"ancestral": "it broke"} if (part.name, outcome) == ("ddpm", "failed") else {}
        found = {"records": [], "failed": why, "left_out": {"diffusers": "not installed"}}
        return check.ended_figures(json.dumps(found), len(why), "")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(check, "run", run)
    monkeypatch.setattr(check, "machine", lambda: {"gpu": "a GPU"})
    monkeypatch.setattr("gpu_outcome.machine", lambda: {"gpu": "a GPU"})
    assert check.main(["--out", str(tmp_path / "out.json"), "--seconds", "100"]) == (outcome == "failed")
    told = capsys.readouterr().out
    assert "VAE training: not run (ended at its limit)" in told
    assert "skipped: diffusers (not installed)" in told
    assert ("DDPM training: failed (ancestral: it broke)" in told) == (outcome == "failed")
    assert told.splitlines()[-1].startswith(
        "Something failed" if outcome == "failed" else "What ran has passed"
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert [part["outcome"] for part in found["parts"]] == ["passed", "not run", outcome, "passed", "passed"]
    assert found["tests"]["passed"] == {"a": ""}
    assert found["machine"] == {"gpu": "a GPU"}


def test_a_part_that_takes_too_long_is_ended_and_one_without_time_is_not_begun(monkeypatch, capsys, tmp_path):
    check = importlib.import_module("gpu_check")
    with (tmp_path / "log").open("w") as log:
        assert check._status([sys.executable, "-c", "import time; time.sleep(60)"], 0.2, log) is None
        assert check._status([sys.executable, "-c", "raise SystemExit(3)"], 60.0, log) == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert check.main(["--seconds", "0", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("not run (no time was left)") == len(check.PARTS)
