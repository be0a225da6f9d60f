"""Skipped steps: nothing moves, they are counted, and many of them are told."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import replace

import pytest
import torch

from ancestral.cli.progress import describe
from ancestral.config import TrainingConfig
from ancestral.experiments.runs import fit
from ancestral.training import TrainingDiverged, TrainingState, gradient, train
from tiny import MODELS, TRAINING, built, images


def state(training: TrainingConfig, *, seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    return TrainingState(built(MODELS["vae-mlp"], images()), training)


def norms() -> list[float]:
    """Of the gradients of a run in which no step is skipped."""
    return [float(record.gradient_norm) for record in train(state(TRAINING), images())]


def middling() -> TrainingConfig:
    """Options under which some steps are skipped and some are not: the first gradient is the largest."""
    found = norms()
    return replace(TRAINING, steps=30, warmup=0, skip=sorted(found)[len(found) // 2])


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
@pytest.mark.filterwarnings("ignore:.*were skipped")
def test_a_skipped_step_moves_nothing_and_is_counted(optimizer):
    one, data = state(replace(middling(), optimizer=optimizer)), images()
    before = {name: tensor.clone() for name, tensor in one.tensors().items()}
    kinds = set()
    for record, earlier in zip(train(one, data), itertools.count(), strict=False):
        after = one.tensors()
        assert record.skipped is not None
        skipped = bool(record.skipped)
        assert skipped == (float(record.gradient_norm) > one.config.skip)
        count = before.pop("training/skipped"), after["training/skipped"]
        assert float(count[1]) - float(count[0]) == skipped
        for name, tensor in before.items():
            moved = not torch.equal(tensor, after[name])
            assert not (moved and skipped), name
        # The first gradient that SOAP sees is for its bases alone.
        still = skipped or (optimizer == "soap" and earlier == float(after["training/skipped"]))
        assert still == torch.equal(
            before["model/encoder.1.linear0.weight"], after["model/encoder.1.linear0.weight"]
        )
        # The optimiser's own clock is of the steps that it has taken.
        (taken,) = {float(moments["step"]) for moments in one.optimizer.state.values()}
        assert taken == earlier + 1 - float(after["training/skipped"])
        kinds.add(skipped)
        before = {name: tensor.clone() for name, tensor in after.items()}
    assert kinds == {True, False}


@pytest.mark.filterwarnings("ignore:.*were skipped")
def test_the_steps_taken_are_those_of_an_optimiser_that_saw_no_others():
    """Against torch's own AdamW, fed the gradients of the steps that were not skipped."""
    training = replace(middling(), ema=0.0)
    one, data = state(training), images()
    theirs = {name: p.detach().clone().requires_grad_() for name, p in one.parameters.items()}
    groups = [
        {"params": [p for p in theirs.values() if (p.ndim > 1) == matrices], "weight_decay": decay}
        for matrices, decay in ((True, training.weight_decay), (False, 0.0))
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    for record in train(one, data):
        if not bool(record.skipped):
            for name, p in theirs.items():
                p.grad = one.parameters[name].grad.clone()
            for group in adamw.param_groups:
                group["lr"] = record.learning_rate
            adamw.step()
        for name, p in theirs.items():
            torch.testing.assert_close(one.parameters[name], p, rtol=1e-4, atol=1e-6)


def test_a_threshold_that_nothing_reaches_changes_nothing():
    data = images()
    plain, high = state(TRAINING), state(replace(TRAINING, skip=1e9))
    for ours, theirs in zip(train(high, data), train(plain, data), strict=True):
        assert float(ours.loss) == float(theirs.loss)
        assert theirs.skipped is None
    ends = plain.tensors()
    assert high.tensors().keys() == ends.keys() | {"training/skipped"}
    for name, tensor in ends.items():
        torch.testing.assert_close(high.tensors()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*were skipped")
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
def test_a_resumed_run_goes_on_counting(optimizer):
    training, data = replace(middling(), optimizer=optimizer), images()
    whole, first, second = state(training), state(training), state(training, seed=1)
    list(train(whole, data))
    for record in train(first, data):
        if record.step == 11:
            break
    second.restore({name: t.clone() for name, t in first.tensors().items()}, first.images_seen)
    list(train(second, data))
    ends = whole.tensors(), second.tensors()
    assert 0 < float(ends[0]["training/skipped"]) < 30
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_many_skipped_steps_are_told_and_few_are_not():
    data, told = images(), []
    none = replace(TRAINING, steps=20, log_every=5, skip=1e-9)
    for _ in train(state(none), data, note=told.append):
        pass
    assert len(told) == 4
    assert told[1].startswith("5 of the last 5 steps were skipped, 10 of 10 in all")
    with pytest.warns(UserWarning, match="raise skip, or lower the rate"):
        list(train(state(none), data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(train(state(replace(TRAINING, steps=20, skip=1e9)), data))


def test_the_count_is_in_the_records(tmp_path):
    training = replace(TRAINING, skip=1e-9)
    reports: list[dict] = []
    torch.manual_seed(0)
    chain = built(MODELS["vae-mlp"], images())
    fit(chain, images(), training, out=tmp_path / "run", device="cpu", report=reports.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6, 7]
    train_report = next(report for report in reports if report["kind"] == "train")
    assert "skipped 1" in describe(train_report, 7)
    assert any(report["kind"] == "note" and "skipped" in report["text"] for report in reports)


def test_what_is_not_finite_is_above_any_threshold():
    one = state(replace(TRAINING, skip=0.5))
    norms = (0.49, 0.51, float("inf"), float("nan"))
    assert [float(one.too_steep(torch.tensor(norm))) for norm in norms] == [0.0, 1.0, 1.0, 1.0]
    # But a loss that is not finite is no matter of a steep step.
    with torch.no_grad():
        next(iter(one.parameters.values())).fill_(torch.inf)
    with pytest.raises(TrainingDiverged):
        next(train(one, images()))


@pytest.mark.filterwarnings("ignore:.*were skipped")
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_whose_gradient_overflows_is_left_out(optimizer, bad, monkeypatch):
    """At step 3 alone: everything stays what it was and training goes on."""
    plain, data = gradient.Gradient._plain, images()

    def spoilt(self, x):
        loss = plain(self, x)
        if self.state.step == 2:
            for bucket in self.state.buckets:
                bucket.gradient[:3] = bad
        return loss

    monkeypatch.setattr(gradient.Gradient, "_plain", spoilt)
    one = state(replace(TRAINING, steps=6, optimizer=optimizer, skip=1e9))
    before = None
    for record in train(one, data):
        after = {name: tensor.clone() for name, tensor in one.tensors().items()}
        if record.step == 3:
            same = [torch.equal(after[name], before[name]) for name in after if "skipped" not in name]
            assert all(same)
            assert bool(record.skipped)
        before = after
    assert float(one.skipped) == 1.0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in one.tensors().values())
    with pytest.raises(TrainingDiverged, match="step 3: the gradient"):
        list(train(state(replace(TRAINING, steps=6, optimizer=optimizer)), data))


@pytest.mark.filterwarnings("ignore:.*were skipped")
def test_gradients_that_are_never_finite_end_the_run(monkeypatch):
    plain, data = gradient.Gradient._plain, images()

    def spoilt(self, x):
        loss = plain(self, x)
        self.state.buckets[0].gradient[:] = float("nan")
        return loss

    monkeypatch.setattr(gradient.Gradient, "_plain", spoilt)
    with pytest.raises(TrainingDiverged, match="step 20: the gradient"):
        list(train(state(replace(TRAINING, steps=40, log_every=4, skip=1e9)), data))
