"""Defaults that depend on the data: numbers once a chain is built, and stored with a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ancestral.config import (
    DataConfig,
    DDPMConfig,
    HVAEConfig,
    LikelihoodConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.core.spec import DataSpec
from ancestral.experiments.build import build_chain
from ancestral.experiments.build.settled import DROPOUT, FEW, settled, settled_training
from ancestral.experiments.runs import RunFolder, train_run
from ancestral.experiments.runs.options import read_model
from tiny import MODELS, TRAINING, images, saved_images

GREY = DataSpec((1, 8, 8), levels=17)


@pytest.mark.parametrize("config", [VAEConfig(), HVAEConfig(), DDPMConfig()])
def test_few_images_have_dropout(config):
    shares = [settled(config, GREY, n).dropout for n in (100, FEW - 1, FEW)]
    assert shares == [DROPOUT[config.kind], DROPOUT[config.kind], 0.0]
    assert settled(config, GREY, 100).dropout_of == "channels"
    assert settled(config, GREY, None).dropout == 0.0
    assert settled(replace(config, dropout=0.3), GREY, 100).dropout == 0.3
    assert settled(replace(config, dropout=0.0), GREY, 100).dropout == 0.0


def test_the_uniform_share_is_that_of_something_never_seen():
    assert settled(VAEConfig(), GREY, 99).likelihood.uniform == 0.01
    assert settled(VAEConfig(), GREY, None).likelihood.uniform == 0.0
    assert settled(VAEConfig(likelihood=LikelihoodConfig(uniform=0.0)), GREY, 99).likelihood.uniform == 0.0
    for levels in (2, None):
        assert settled(VAEConfig(), DataSpec((1, 8, 8), levels=levels), 99).likelihood.uniform is None


@pytest.mark.parametrize("more", [{"objective": "dreg"}, {"objective": "iwae", "backward_samples": 2}])
def test_no_dropout_where_q_is_computed_twice(more):
    """And none in an mlp, which loses by it."""
    assert settled(VAEConfig(network="mlp"), GREY, 100).dropout == 0.0
    vectors = DataSpec((5,))
    shares = [settled(config, vectors, 100).dropout for config in (VAEConfig(), HVAEConfig(), DDPMConfig())]
    assert shares == [0.0, 0.2, 0.2]
    config = HVAEConfig(training_samples=4, **more)
    assert settled(config, GREY, 100).dropout == 0.0


def test_a_chain_has_the_numbers():
    x = torch.randint(0, 17, (40, 1, 8, 8), dtype=torch.uint8)
    for train in (x, iter([x[:30], x[30:]])):
        config = build_chain(VAEConfig(), GREY, train=train).config
        assert (config.dropout, config.likelihood.uniform) == (DROPOUT["vae"], 1 / 41)


def test_a_run_stores_the_numbers(tmp_path):
    data = DataConfig(saved_images(tmp_path), validation=0.2)
    model = MODELS["vae-mlp"]
    fitted = train_run(RunConfig(data, model, TRAINING), tmp_path / "run", device="cpu")
    stored = RunFolder.open(tmp_path / "run").config.model
    assert stored == fitted.chain.config
    assert stored.likelihood.uniform == 1 / (len(images().train) + 1)
    # Earlier versions had neither option.
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    del facts["dropout"], facts["likelihood"]["uniform"]
    old = read_model(facts, "model")
    assert (old.dropout, old.likelihood.uniform) == (0.0, 0.0)
    assert settled(old, GREY, 100) == old


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_a_likelihood_without_a_uniform_component(kind):
    with pytest.raises(ValueError, match=f"uniform is 0.1 and the likelihood is {kind}"):
        LikelihoodConfig(kind=kind, uniform=0.1)
    spec = DataSpec((1, 8, 8), levels=2 if kind == "bernoulli" else None)
    with pytest.raises(ValueError, match=f"uniform is 0.1 and the likelihood is {kind}"):
        build_chain(VAEConfig(likelihood=LikelihoodConfig(uniform=0.1)), spec)


@pytest.mark.parametrize(
    ("n", "steps", "rate"),
    [
        (54_000, 3_000, 2e-3),  # 7 epochs
        (54_000, 300_000, 4.22e-4),  # 711 epochs
        (1_294, 6_000, 5.05e-4),
        (1_294, 1_500, 2e-3),
        (300, 3_000, 1e-3),  # never fewer than 1,500 steps at the full rate
    ],
)
def test_more_epochs_less_rate(n, steps, rate):
    plan = TrainingConfig(steps=steps)
    assert settled_training(plan, n, diffusion=False).learning_rate == rate
    assert settled_training(plan, n, diffusion=True).learning_rate >= rate
    given = replace(plan, learning_rate=0.01)
    assert settled_training(given, n, diffusion=False) == given


def test_a_run_stores_the_rate(tmp_path):
    data = DataConfig(saved_images(tmp_path), validation=0.2)
    plan = replace(TRAINING, steps=4, warmup=0, log_every=1, learning_rate=None)
    train_run(RunConfig(data, MODELS["vae-mlp"], plan), tmp_path / "run", device="cpu")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.training == replace(plan, learning_rate=2e-3)
    assert folder.records()[0]["learning_rate"] == 2e-3
    assert folder.planned(8_000).learning_rate == 2e-3
