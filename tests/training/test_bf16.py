"""bf16 in the networks changes nothing that is reported by more than chance does."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch

from ancestral._internal.precision import autocast
from ancestral.config import DDPMConfig, VAEConfig
from ancestral.experiments.runs import fit
from ancestral.training import TrainingState, train
from tiny import TRAINING, built, images

CPU = torch.device("cpu")
MODELS = {"vae": VAEConfig(width=16, latent_dims=8), "ddpm": DDPMConfig(T=50, channels=(16,))}
QUIET = replace(TRAINING, log_every=1000, evaluate_every=0, sample_every=0, checkpoint_every=0)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_elbo_of_a_trained_model_moves_by_less_than_its_standard_error(model):
    """The same draws, with networks in fp32 and in bf16."""
    data = images(600)
    torch.manual_seed(0)
    training = replace(QUIET, steps=120, learning_rate=3e-3, batch_size=32, precision="fp32")
    chain = fit(built(model, data), data, training, device="cpu").chain
    totals = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        with torch.no_grad(), autocast(dtype, CPU):
            totals[dtype] = chain.elbo(data.test.x).total
    full, half = totals.values()
    stderr = float(full.std()) / len(full) ** 0.5
    assert not torch.equal(full, half)
    assert abs(float((half - full).mean())) < stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_run_in_bf16_ends_within_seed_noise_of_one_in_fp32(model):
    data = images(600)
    ends: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for precision, losses in ends.items():
        for seed in range(4):
            torch.manual_seed(seed)
            training = replace(
                QUIET, steps=120, learning_rate=3e-3, batch_size=32, precision=precision, seed=seed
            )
            records = list(train(TrainingState(built(model, data), training), data))
            losses.append(statistics.fmean(float(record.loss) for record in records[-40:]))
    started = float(records[0].loss)
    noise = statistics.stdev(ends["fp32"]) * (2 / 4) ** 0.5
    between = abs(statistics.fmean(ends["bf16"]) - statistics.fmean(ends["fp32"]))
    assert between < 4 * noise + 0.01 * abs(started - ends["fp32"][0])
