"""The checkpoint with the best held-out ELBO: what is comparable, what is stored, and which one is read."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ancestral import evaluate, load_run
from ancestral.bounds import PathBound, SampledLevelsBound, SweepBound
from ancestral.config import DataConfig, DDPMConfig, RunConfig
from ancestral.core.chain import Chain
from ancestral.experiments.runs import RunFolder, resume_run, train_run
from ancestral.experiments.runs.held_out import HeldOut, held_out_bound
from ancestral.training import CheckpointError, load_checkpoint
from ancestral.training.state import TrainingState
from tiny import MODELS, TRAINING, built, images, saved_images

STEPS = 12
PLAN = replace(TRAINING, steps=STEPS, evaluate_every=2, checkpoint_every=2, keep=1)


def scripted(monkeypatch: pytest.MonkeyPatch, elbos: dict[int, list[float]]) -> None:
    """Let the held-out ELBOs of each step be these, example by example."""
    judge = HeldOut._judge
    monkeypatch.setattr("ancestral.experiments.runs.held_out.EXAMPLES", 3)

    def judged(self: HeldOut, nats: torch.Tensor, step: int) -> Any:
        return judge(self, torch.tensor(elbos[step]), step)

    monkeypatch.setattr(HeldOut, "_judge", judged)


def trained(folder: Path, plan: Any = PLAN, **more: Any) -> tuple[Path, Any, list[dict[str, Any]]]:
    """A run into ``folder``, what it left, and everything that it reported."""
    told: list[dict[str, Any]] = []
    data = DataConfig(saved_images(folder), validation=0.2)
    config = RunConfig(data, MODELS["vae-mlp"], plan)
    return folder / "run", train_run(config, folder / "run", device="cpu", report=told.append, **more), told


WORSE = {
    step: [0.0, -step / 2, -step] if step > 4 else [1.0, 1.0, float(step == 4)] for step in range(2, 13, 2)
}
"""Best after 4 steps, and then worse and worse."""


# Comparable ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vae-mlp", "ladder", "ddpm"])
def test_evaluations_of_the_same_weights_are_equal(kind):
    data = images()
    chain = built(MODELS[kind], data)
    state = TrainingState(chain, replace(PLAN, evaluate_every=1))
    held_out = HeldOut(chain, data.validation, state.config)
    first, second = (held_out.look(chain, step) for step in (2, 4))
    assert first["elbo"] == second["elbo"]
    assert second["best"] == {"step": 2, "difference": {"mean": 0.0, "stderr": 0.0}, "worse": False}


def test_the_levels_of_a_diffusion_model_are_as_many_as_training_pays_for():
    chain = built(replace(MODELS["ddpm"], T=1000), images())
    assert isinstance(chain, Chain)
    assert held_out_bound(chain, calls=100.0) == SampledLevelsBound(80, "low-discrepancy")
    assert held_out_bound(chain, calls=1.0) == SampledLevelsBound(8, "low-discrepancy")
    assert held_out_bound(chain, calls=3000.0) == SweepBound(3)
    assert held_out_bound(built(MODELS["vae-mlp"], images()), calls=5.5) == PathBound(5)


def test_one_difference_has_a_smaller_error_than_two_figures(tmp_path):
    plan = replace(PLAN, steps=60, evaluate_every=20)
    out, _, _ = trained(tmp_path, plan)
    last = RunFolder.open(out).records()[-1]
    assert last["kind"] == "validation"
    if last["best"]["step"] != last["step"]:
        assert last["best"]["difference"]["stderr"] < last["elbo"]["stderr"]


# Stored -------------------------------------------------------------------------------------------------


def test_the_best_is_stored_beside_the_last(tmp_path, monkeypatch):
    scripted(monkeypatch, WORSE)
    out, fitted, told = trained(tmp_path)
    folder = RunFolder.open(out)
    assert [path.name for path in folder.checkpoints] == ["step-00000004", "step-00000012"]
    assert (fitted.best_step, folder.best.step, folder.step) == (4, 4, 12)
    records = [record["best"] for record in folder.records() if record["kind"] == "validation"]
    assert [record["step"] for record in records] == [2, 4, 4, 4, 4, 4]
    assert [record["worse"] for record in records] == [False, False, True, True, True, True]
    notes = [record["text"] for record in told if record["kind"] == "note" and "held-out" in record["text"]]
    # (0, -3, -6) against (1, 1, 1) at step 6; said once.
    assert len(notes) == 1
    assert "step 4" in notes[0]
    assert "4 ± 1.7 nats" in notes[0]


def test_an_interrupted_run_knows_the_same_best(tmp_path, monkeypatch):
    scripted(monkeypatch, WORSE)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, _, _ = trained(tmp_path / "a")
    stops = iter([step == 7 for step in range(1, 13)])
    parts, fitted, _ = trained(tmp_path / "b", should_stop=lambda: next(stops))
    assert not fitted.finished
    assert resume_run(parts, device="cpu").finished
    for name in ("metrics.jsonl", *(f"checkpoints/step-{s:08d}/state.safetensors" for s in (4, 12))):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    facts = [load_checkpoint(path / "checkpoints" / "step-00000012")[1] for path in (whole, parts)]
    assert facts[0] == facts[1]
    assert facts[0]["held_out"] == {"best_step": 4, "worse": 4}


def test_without_evaluations_on_the_way_there_is_no_best(tmp_path):
    out, fitted, _ = trained(tmp_path, replace(PLAN, evaluate_every=0))
    folder = RunFolder.open(out)
    assert (fitted.best_step, folder.best, folder.chosen.name) == (None, None, "last")
    assert [path.name for path in folder.checkpoints] == ["step-00000012"]
    assert folder.records()[-1]["best"] is None


def test_an_elbo_that_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    nan = [math.nan] * 3
    scripted(monkeypatch, {2: nan, 4: [0.0, 0.1, 0.2], 6: nan, 8: [0.0, 0.1, 0.3], 10: nan, 12: nan})
    out, _, _ = trained(tmp_path)
    assert RunFolder.open(out).best.step == 8
    best = [record["best"] for record in RunFolder.open(out).records() if record["kind"] == "validation"]
    assert best[0] is None
    assert [record["worse"] for record in best[1:]] == [False, True, False, True, True]


# Read ---------------------------------------------------------------------------------------------------


@pytest.fixture
def worse(tmp_path, monkeypatch) -> Path:
    """A run whose best checkpoint is of step 4 and the last of step 12."""
    scripted(monkeypatch, WORSE)
    return trained(tmp_path)[0]


def weights(run: Path, step: int) -> torch.Tensor:
    tensors, _ = load_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return torch.cat([value.flatten() for name, value in sorted(tensors.items()) if name.startswith("ema/")])


def read(run: Path, checkpoint: Any = None) -> torch.Tensor:
    chain = load_run(run, checkpoint=checkpoint)
    return torch.cat([parameter.detach().flatten() for _, parameter in sorted(chain.named_parameters())])


def test_the_best_is_read_by_default(worse):
    for asked, step in ((None, 4), ("best", 4), ("last", 12), (4, 4), ("12", 12)):
        assert torch.equal(read(worse, asked), weights(worse, step))
        assert RunFolder.open(worse, checkpoint=asked).chosen.step == step


def test_measurements_are_those_of_the_weights_that_were_read(worse):
    x = images().test.x
    for asked in ("best", "last"):
        folder = RunFolder.open(worse, checkpoint=asked)
        found = evaluate(load_run(folder), x, store=folder.store)
        assert found.elbo == evaluate(load_run(worse, checkpoint=asked), x).elbo
    assert len(list((worse / "measurements").glob("*.json"))) == 2


def test_resuming_continues_from_the_last(worse):
    assert RunFolder.open(worse, checkpoint="best").step == 12
    assert resume_run(worse, device="cpu").records == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [(5, "4, 12"), ("7", "4, 12"), ("bets", "best"), (-1, "best, last"), (True, "best, last"), (1.5, "best")],
)
def test_a_checkpoint_that_is_not_there(worse, asked, message):
    with pytest.raises(ValueError, match=message):
        load_run(worse, checkpoint=asked)


def test_a_run_of_an_earlier_version_is_read_as_before(worse):
    """Its evaluations were not comparable, its options fewer, and its best checkpoint was deleted."""
    records = RunFolder.open(worse).records()
    old = [{name: value for name, value in record.items() if name != "best"} for record in records]
    (worse / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    facts = json.loads((worse / "config.json").read_text())
    del facts["training"]["stop_early"], facts["model"]["dropout"], facts["model"]["likelihood"]["uniform"]
    (worse / "config.json").write_text(json.dumps(facts))
    folder = RunFolder.open(worse)
    assert (folder.best, folder.chosen.name, folder.chosen.step) == (None, "last", 12)
    with pytest.raises(CheckpointError, match="4, 12"):
        load_run(worse, checkpoint="best")
    config = folder.config
    assert (config.model.dropout, config.model.likelihood.uniform, config.training.stop_early) == (
        0.0,
        0.0,
        0,
    )
    assert load_run(worse).config.dropout == 0.0


def test_the_best_that_was_removed_by_hand_is_passed_over(worse):
    shutil.rmtree(worse / "checkpoints" / "step-00000004")
    assert RunFolder.open(worse).chosen.step == 12


# Stopping early -----------------------------------------------------------------------------------------


def test_stopping_early(tmp_path, monkeypatch):
    scripted(monkeypatch, WORSE)
    out, fitted, told = trained(tmp_path, replace(PLAN, stop_early=2))
    assert (fitted.step, fitted.finished, fitted.stopped_early, fitted.best_step) == (8, False, True, 4)
    folder = RunFolder.open(out)
    assert folder.stopped_early == {"step": 8, "best": 4}
    assert [path.name for path in folder.checkpoints] == ["step-00000004", "step-00000008"]
    assert "stopped early" in told[-1]["text"]
    # Resumed, it takes the other steps: the same bits as a run that never stopped.
    assert resume_run(out, device="cpu").finished
    (tmp_path / "whole").mkdir()
    whole, _, _ = trained(tmp_path / "whole", PLAN)
    assert (whole / "metrics.jsonl").read_bytes() == (out / "metrics.jsonl").read_bytes()
    last = "checkpoints/step-00000012/state.safetensors"
    assert (whole / last).read_bytes() == (out / last).read_bytes()


def test_an_evaluation_that_is_not_worse_starts_the_count_anew(tmp_path, monkeypatch):
    elbos = {2: [1.0, 1.1, 1.2], 4: [0.0, 0.1, 0.1], 6: [1.0, 1.1, 1.1], 8: [0.0, 0.1, 0.1]}
    scripted(monkeypatch, elbos | {10: [1.0, 1.1, 1.1], 12: [0.0, 0.1, 0.1]})
    _, fitted, told = trained(tmp_path, replace(PLAN, stop_early=2))
    assert (fitted.finished, fitted.stopped_early, fitted.best_step) == (True, False, 2)
    assert sum("held-out ELBO is worse" in record.get("text", "") for record in told) == 3


def test_stopping_early_needs_evaluations():
    with pytest.raises(ValueError, match="stop_early is 3 and evaluate_every is 0"):
        replace(PLAN, stop_early=3, evaluate_every=0)


def test_ddpm_options_stay_what_they_were():
    assert asdict(DDPMConfig())["dropout"] is None
