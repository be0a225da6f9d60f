"""Compiled steps: the plain step's numbers from one graph, and a way back where there is no graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ancestral.config import DDPMConfig, HVAEConfig, VAEConfig
from ancestral.core.batch import Batch
from ancestral.experiments.runs import RunFolder, fit
from ancestral.models.vae import VAE
from ancestral.training import TrainingState, gradient, train
from tiny import MODELS, TRAINING, built, images, vectors

# Torch's own modules warn while it compiles.
pytestmark = pytest.mark.filterwarnings("default")

FEW = {"objective": "dreg", "training_samples": 6, "backward_samples": 2}
"""The gradient through few of many draws."""
COMPILED = replace(TRAINING, compile="on", precision="fp32")


@pytest.fixture(autouse=True)
def _compiling_afresh():
    """Torch compiles one function for at most eight sets of arguments in a process; each case is one."""
    torch.compiler.reset()


def state(model, training, data) -> TrainingState:
    torch.manual_seed(0)
    return TrainingState(built(model, data), training)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "recompute"),
    [
        (MODELS["vae-mlp"], images(), False),
        (HVAEConfig(levels=2, width=8), vectors(), False),
        (HVAEConfig(levels=2, width=8, objective="dreg", training_samples=3), vectors(), False),
        (replace(MODELS["vae-mlp"], **FEW), images(levels=2), False),
        (HVAEConfig(levels=2, posterior="bottom-up", hidden=(9,), **FEW), images(levels=2), False),
        (DDPMConfig(T=12, channels=(16,)), images(), False),
        (DDPMConfig(T=12, dropout=0.2), vectors(), True),
        (DDPMConfig(T=12, sampling="importance"), vectors(), False),
        (DDPMConfig(T=12, sampling="importance"), vectors(), True),
        (DDPMConfig(T=12, schedule="learned"), vectors(), False),
        (DDPMConfig(T="continuous", schedule="learned", sampling="importance"), vectors(), False),
    ],
    ids=[
        "vae",
        "ladder",
        "dreg",
        "few of many draws",
        "few of many draws, hierarchy",
        "ddpm",
        "recomputed",
        "importance",
        "importance, recomputed",
        "learned schedule",
        "continuous",
    ],
)
def test_a_compiled_step_is_the_plain_step(model, data, recompute):
    """The same draws, so the same losses, terms, gradients and weights, up to the order of sums."""
    one = state(model, replace(COMPILED, recompute=recompute), data)
    other = state(model, replace(COMPILED, compile="off"), data)
    notes: list[str] = []
    for ours, theirs in zip(train(one, data, note=notes.append), train(other, data), strict=True):
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=2e-4)
        assert float(ours.gradient_norm) == pytest.approx(float(theirs.gradient_norm), rel=2e-3)
        assert {n: float(v) for n, v in ours.terms.items()} == pytest.approx(
            {n: float(v) for n, v in theirs.terms.items()}, rel=1e-3, abs=1e-3
        )
        if ours.step == 1:
            for a, b in zip(one.buckets, other.buckets, strict=True):
                scale = float(b.gradient.abs().max())
                torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-3, atol=2e-5 * scale)
    assert one.compiled
    assert not other.compiled
    assert not notes


@pytest.mark.slow
def test_in_bf16_a_compiled_step_is_the_plain_step_nearly():
    """There tanh is of one exponential, and sums are in another order."""
    data = images(levels=2)
    model = replace(MODELS["vae-mlp"], activation="tanh", **FEW)
    one = state(model, replace(COMPILED, precision="bf16"), data)
    other = state(model, replace(COMPILED, precision="bf16", compile="off"), data)
    notes: list[str] = []
    for ours, theirs in zip(train(one, data, note=notes.append), train(other, data), strict=True):
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=2e-3)
    assert one.compiled
    assert one.dtype == torch.bfloat16
    assert not notes


@pytest.mark.slow
def test_a_compiled_run_that_was_stopped_is_the_one_that_was_not(tmp_path):
    data, model = images(), MODELS["vae-mlp"]
    for name, stops in (("whole", [100]), ("parts", [3, 100])):
        for stop in stops:
            torch.manual_seed(stop)
            taken = [RunFolder.open(tmp_path / name).step if (tmp_path / name).exists() else 0]

            def should_stop(taken: list[int] = taken, stop: int = stop) -> bool:
                taken[0] += 1
                return taken[0] >= stop

            torch.manual_seed(0)
            fit(built(model, data), data, COMPILED, out=tmp_path / name, should_stop=should_stop)
    newest = [RunFolder.open(tmp_path / name).checkpoints[-1] for name in ("whole", "parts")]
    for file in ("state.safetensors", "state.json"):
        assert newest[0].joinpath(file).read_bytes() == newest[1].joinpath(file).read_bytes()
    assert '"compiled": true' in (newest[0] / "state.json").read_text()


class Breaks(VAE):
    """A chain that looks at its data, which no graph can do."""

    def features(self, x):
        if float(x.double().mean()) < -1.0:
            raise RuntimeError("never")
        return super().features(x)


def test_where_compiling_fails_training_says_so_and_goes_on():
    data = vectors()
    one = state(VAEConfig(hidden=(8,)), replace(COMPILED, steps=4), data)
    other = state(VAEConfig(hidden=(8,)), replace(COMPILED, steps=4, compile="off"), data)
    one.chain.__class__ = Breaks
    notes: list[str] = []
    ours = [float(record.loss) for record in train(one, data, note=notes.append)]
    assert ours == [float(record.loss) for record in train(other, data)]
    assert len(notes) == 1
    assert "not compiled" in notes[0]
    assert one.compiled is False


@pytest.mark.slow
def test_auto_compiles_long_runs_only(monkeypatch):
    data = images()
    for steps, expected in ((100, False), (2_000, False), (10_000_000, True)):
        one = state(MODELS["vae-mlp"], replace(TRAINING, steps=steps), data)
        assert gradient.Gradient(one, note=print)._worth_compiling(Batch(data.train.x[:16])) is expected
    # The same steps of a model with more arithmetic take longer.
    points = vectors()
    for width, expected in ((16, False), (4096, True)):
        one = state(DDPMConfig(T=12, width=width, blocks=2), replace(TRAINING, steps=20_000), points)
        assert gradient.Gradient(one, note=print)._worth_compiling(Batch(points.train.x[:16])) is expected


def test_auto_leaves_convolutions_on_a_cpu_alone():
    data = images()
    one = state(MODELS["ddpm"], replace(TRAINING, steps=10_000_000), data)
    assert gradient.Gradient(one, note=print)._worth_compiling(Batch(data.train.x[:16])) is False
