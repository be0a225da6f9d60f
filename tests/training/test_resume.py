"""A run that was stopped and gone on with is, byte for byte, the run that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ancestral.config import HVAEConfig, ModelConfig, TrainingConfig
from ancestral.data import Dataset
from ancestral.experiments.runs import RunFolder, fit
from ancestral.training import TrainingState, train
from tiny import MODELS, TRAINING, built, images, with_dropout

FP32, BF16, MUON = {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "fp32", "optimizer": "muon"}
SOAP = {**FP32, "optimizer": "soap"}
CASES: dict[str, tuple[ModelConfig, dict[str, str]]] = {
    "vae-mlp": (MODELS["vae-mlp"], FP32),
    "vae-mlp with dropout": (with_dropout(MODELS["vae-mlp"]), FP32),
    "vae-conv": (MODELS["vae-conv"], FP32),
    "vae-conv with dropout in bf16": (with_dropout(MODELS["vae-conv"]), BF16),
    "ladder": (MODELS["ladder"], FP32),
    "ladder with dropout in bf16": (with_dropout(MODELS["ladder"]), BF16),
    "bottom-up with dropout": (with_dropout(MODELS["bottom-up"]), FP32),
    "deep ladder with dropout, warm-up and balance": (
        HVAEConfig(levels=8, width=8, latent_dims=(2,), dropout=0.3, kl_warmup=4, kl_balance=True),
        FP32,
    ),
    "ladder by importance weights": (replace(MODELS["ladder"], objective="dreg", training_samples=4), FP32),
    "ladder by muon": (MODELS["ladder"], MUON),
    "vae-mlp by soap": (MODELS["vae-mlp"], SOAP),
    "ladder by soap in bf16": (MODELS["ladder"], {**SOAP, **BF16}),
    "ddpm": (MODELS["ddpm"], FP32),
    "ddpm by muon in bf16": (MODELS["ddpm"], {**MUON, **BF16}),
    "ddpm in bf16": (MODELS["ddpm"], BF16),
    "transformer with dropout in bf16": (with_dropout(MODELS["transformer"]), BF16),
    "ddpm with importance sampling": (replace(MODELS["ddpm"], sampling="importance"), FP32),
    "ddpm with a learned schedule": (
        replace(MODELS["ddpm"], schedule="learned", sampling="importance"),
        FP32,
    ),
    "continuous ddpm": (replace(MODELS["ddpm"], T="continuous", schedule="learned"), FP32),
    "ddpm with dropout": (with_dropout(MODELS["ddpm"]), {"precision": "auto"}),
}
SLOTS = ("momentum", "exp_avg", "exp_avg_sq", "turned_avg", "turned_avg_sq")
each_case = pytest.mark.parametrize(("model", "options"), CASES.values(), ids=CASES.keys())


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run leaves and that is a function of its configuration."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "timing.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def take(out: Path, model: ModelConfig, data: Dataset, training: TrainingConfig, *, until: int, seed: int):
    """Go on with the run in ``out``, from weights that only a new run starts with, until a step is taken."""
    torch.manual_seed(seed)
    chain = built(model, data)
    taken = [RunFolder.open(out).step if out.exists() else 0]

    def should_stop() -> bool:
        taken[0] += 1
        return taken[0] >= until

    return fit(chain, data, training, out=out, device="cpu", should_stop=should_stop)


@each_case
def test_a_resumed_run_is_the_uninterrupted_one(model, options, tmp_path):
    """38 training images in batches of 16: step 3 straddles the first two epochs, step 5 the next."""
    data, training = images(), replace(TRAINING, **options)
    whole = take(tmp_path / "whole", model, data, training, until=100, seed=0)
    assert whole.finished
    assert whole.step == training.steps
    # Between checkpoints and on one, within an epoch and after one; other initial weights each time.
    for turn, stop in enumerate((1, 3, 4, 6, 100)):
        part = take(tmp_path / "parts", model, data, training, until=stop, seed=turn)
        assert part.step == min(stop, training.steps)
        assert part.finished == (stop == 100)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    for ours, theirs in zip(part.chain.parameters(), whole.chain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_the_bits_of_a_resumed_run_are_those_of_the_uninterrupted_one(binarize, tmp_path):
    data, model = images(binarize=binarize), MODELS["vae-mlp"]
    for name, stops in (("whole", [100]), ("parts", [2, 5, 100])):
        for stop in stops:
            take(tmp_path / name, model, data, TRAINING, until=stop, seed=0)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@each_case
def test_everything_a_step_reads_is_restored(model, options):
    """Through tensors alone, without a folder: the next steps are equal, and so is all they change."""
    data, training = images(), replace(TRAINING, **options)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(TrainingState(built(model, data), training))
    first, second = states
    losses = [float(record.loss) for _, record in zip(range(3), train(first, data), strict=False)]
    assert len(set(losses)) == 3
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    moved = [sum(name.startswith(f"optimizer/{slot}/") for name in kept) for slot in SLOTS]
    assert moved[0] + moved[1] + moved[3] == len(first.parameters)
    assert (moved[1], moved[3]) == (moved[2], moved[4])
    assert (moved[0] > 0) == (training.optimizer == "muon")
    assert (moved[3] > 0) == (training.optimizer == "soap")
    second.restore(kept, first.images_seen)
    ours = [(float(record.loss), float(record.gradient_norm)) for record in train(second, data)]
    theirs = [(float(record.loss), float(record.gradient_norm)) for record in train(first, data)]
    assert len(ours) == training.steps - 3
    assert ours == theirs
    ends = [state.tensors() for state in states]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], kept[name]) for name in kept)


def test_an_average_is_not_the_weights():
    """So that the comparisons above look at two things."""
    data = images()
    state = TrainingState(built(MODELS["vae-mlp"], data), TRAINING)
    for _ in train(state, data):
        pass
    tensors = state.tensors()
    names = [name.removeprefix("ema/") for name in tensors if name.startswith("ema/")]
    assert names
    assert all(not torch.equal(tensors[f"ema/{name}"], tensors[f"model/{name}"]) for name in names)
