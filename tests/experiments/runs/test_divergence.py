"""A loss that is no longer finite: where it is stopped, and what is left to go on from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ancestral.core.elbo import Elbo
from ancestral.experiments.runs import RunDiverged, RunFolder, fit, load_run
from ancestral.models.vae import VAE
from ancestral.training import load_checkpoint, loop
from commands import call
from tiny import MODELS, TRAINING, built, images, saved_images

DATA = images()


def sick_vae(*, after: int, term: str) -> VAE:
    """A VAE one of whose terms is not a number from a training step on."""
    chain = built(MODELS["vae-mlp"], DATA)
    assert isinstance(chain, VAE)
    whole, steps = chain.elbo_of, [0]

    def elbo(x: Tensor, **options: Any) -> Elbo:
        out = whole(x, **options)
        steps[0] += chain.training
        return replace(out, **{term: getattr(out, term) * torch.nan}) if steps[0] > after else out

    chain.elbo_of = elbo
    return chain


@pytest.mark.parametrize("term", ["reconstruction", "prior"])
def test_the_step_the_term_and_the_last_good_checkpoint_are_named(term, tmp_path):
    """With checkpoints after steps 2 and 4, and the loss read by nobody but the check."""
    training = replace(TRAINING, log_every=100)
    with pytest.raises(RunDiverged) as caught:
        fit(sick_vae(after=5, term=term), DATA, training, out=tmp_path / "run", device="cpu")
    assert (caught.value.step, caught.value.term) == (6, f"the {term} term")
    assert caught.value.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000004"
    for part in ("step 6", f"the {term} term", str(caught.value.checkpoint)):
        assert part in str(caught.value)
    tensors, facts = load_checkpoint(caught.value.checkpoint)
    assert facts["step"] == 4
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    # What is left is a run as any other: healed, it goes on.
    well = built(MODELS["vae-mlp"], DATA)
    assert fit(well, DATA, training, out=tmp_path / "run", device="cpu").finished


def test_before_the_first_checkpoint_there_is_none(tmp_path):
    with pytest.raises(RunDiverged, match=r"step 1: the prior term .*no checkpoint yet") as caught:
        fit(sick_vae(after=0, term="prior"), DATA, TRAINING, out=tmp_path / "run", device="cpu")
    assert caught.value.checkpoint is None
    with pytest.raises(RunDiverged, match="no checkpoint yet"):
        fit(sick_vae(after=0, term="prior"), DATA, TRAINING, device="cpu")


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(tmp_path, monkeypatch):
    """As on a GPU, where not every loss is looked at: before saving it is."""
    seen: list[int] = []
    monkeypatch.setattr(loop, "check_finite", lambda record: seen.append(record.step))
    training = replace(TRAINING, steps=9, checkpoint_every=4, evaluate_every=0, sample_every=0)
    with pytest.raises(RunDiverged) as caught:
        fit(sick_vae(after=5, term="prior"), DATA, training, out=tmp_path / "run", device="cpu")
    assert seen == list(range(1, 9))
    assert caught.value.step == 8
    assert [path.name for path in RunFolder.open(tmp_path / "run").checkpoints] == ["step-00000004"]


def test_the_command_fails_in_one_line(tmp_path):
    """A decay of −9 times the weights at each step: a real model that runs away."""
    out = tmp_path / "run"
    answer = call(
        *("train", "vae", "--data", saved_images(tmp_path), "--out", out, "--batch-size", 16),
        *("--model.network", "mlp", "--model.hidden", 8, "--learning-rate", 10, "--weight-decay", 1),
        *("--warmup", 0, "--steps", 400, "--checkpoint-every", 1, "--keep", 1, "--sample-every", 0),
    )
    assert answer.status == 1
    *_, last = answer.err.splitlines()
    assert last.startswith("ancestral: training diverged at step ")
    assert "is not finite" in last
    assert f"Last good checkpoint: {out}" in last
    assert "Traceback" not in answer.err
    assert all(bool(torch.isfinite(p).all()) for p in load_run(out).parameters())
