"""No option is read and ignored: each, changed, makes another chain, another loss, or another run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.config import (
    DataConfig,
    DDPMConfig,
    FlowConfig,
    HVAEConfig,
    LikelihoodConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.experiments.runs import RunFolder, train_run
from ancestral.training.objective import objective_of
from tiny import MODELS, TRAINING, blobs, built, images, saved_images, vectors

IMAGES, VECTORS = images(40), vectors(60, dims=6)
MLP = VAEConfig(network="mlp", hidden=(6,), latent_dims=3)
CONV = VAEConfig(width=4, latent_dims=3)
SPLINE = replace(MLP, q="spline", flow=FlowConfig(transforms=1, hidden=(6,), context=2, bins=3))
FIXED = replace(MLP, likelihood=LikelihoodConfig(kind="discretized-gaussian", sigma="fixed"))
MIXTURE = replace(MLP, likelihood=LikelihoodConfig(kind="logistic-mixture"))
LADDER = HVAEConfig(levels=2, width=4, latent_dims=(2,))
WARMED = replace(LADDER, kl_warmup=9)
DEEP = HVAEConfig(levels=7, width=16, latent_dims=(2,))
MARKOV = HVAEConfig(levels=2, posterior="bottom-up", width=4, hidden=(5,), latent_dims=(3,))
MARKOV_MLP = replace(MARKOV, width=48)
UNET = DDPMConfig(T=6, channels=(4, 8), blocks=1)
TRANSFORMER = DDPMConfig(T=6, network="transformer", width=16, blocks=1)
TIME_MLP = DDPMConfig(T=6, blocks=1, width=6)
MIN_SNR = replace(UNET, variance="beta", loss="min-snr")

CHANGES: list[tuple[ModelConfig, Dataset, dict[str, Any]]] = [
    (
        MLP,
        IMAGES,
        {
            "latent_dims": 4,
            "q": "full",
            "hidden": (7,),
            "activation": "tanh",
            "dropout": 0.3,
            "beta": 0.5,
            "free_bits": 50.0,
            "kl_warmup": 9,
            "training_samples": 3,
            "objective": "iwae",
        },
    ),
    *[
        (SPLINE, IMAGES, {"flow": replace(SPLINE.flow, **{name: value})})
        for name, value in {"transforms": 2, "hidden": (7,), "context": 3, "bins": 4}.items()
    ],
    (replace(SPLINE, flow=FlowConfig()), IMAGES, {"q": "iaf"}),
    (CONV, IMAGES, {"width": 8, "dropout": 0.3, "dropout_of": "units"}),
    (replace(CONV, width=32), IMAGES, {"network": "mlp"}),
    (FIXED, IMAGES, {"likelihood": LikelihoodConfig(kind="gaussian", sigma="fixed")}),
    (FIXED, IMAGES, {"likelihood": LikelihoodConfig(kind="discretized-gaussian", sigma="shared")}),
    (FIXED, IMAGES, {"likelihood": LikelihoodConfig("discretized-gaussian", "fixed", value=0.5)}),
    *[
        (MIXTURE, IMAGES, {"likelihood": replace(MIXTURE.likelihood, **{name: value})})
        for name, value in {"components": 4, "value": 0.5, "kind": "discretized-logistic"}.items()
    ],
    (
        LADDER,
        IMAGES,
        {
            "levels": 3,
            "levels_per_size": (1, 0, 1),
            "block": "bottleneck",
            "posterior": "bottom-up",
            "q": "full",
            "latent_dims": (3,),
            "width": 8,
            "blocks": 2,
            "dropout": 0.3,
            "dropout_of": "units",
            "beta": 0.5,
            "free_bits": 50.0,
            "kl_warmup": 9,
            "training_samples": 3,
            "objective": "iwae",
            "likelihood": LikelihoodConfig(kind="gaussian"),
        },
    ),
    (
        replace(MLP, objective="dreg", training_samples=4),
        IMAGES,
        {"backward_samples": 2, "samples_warmup": 2},
    ),
    (
        replace(LADDER, objective="iwae", training_samples=4),
        IMAGES,
        {"backward_samples": 2, "samples_warmup": 2},
    ),
    (replace(MLP, objective="dreg", training_samples=4, samples_warmup=2), IMAGES, {"first_samples": 3}),
    (replace(LADDER, objective="iwae", training_samples=4, samples_warmup=2), IMAGES, {"first_samples": 3}),
    (WARMED, IMAGES, {"kl_balance": True, "kl_warmup": 8}),
    (DEEP, IMAGES, {"levels": 8, "levels_per_size": (0, 3, 4), "blocks": 2, "width": 8, "block": "basic"}),
    (replace(LADDER, q="iaf"), IMAGES, {"flow": FlowConfig(transforms=3), "q": "spline"}),
    (LADDER, VECTORS, {"width": 8, "blocks": 2, "latent_dims": (1, 2)}),
    (
        MARKOV,
        IMAGES,
        {
            "hidden": (6,),
            "width": 8,
            "dropout": 0.3,
            "dropout_of": "units",
            "latent_dims": (3, 2),
            "beta": 2.0,
        },
    ),
    (MARKOV_MLP, IMAGES, {"network": "mlp"}),
    (
        MARKOV_MLP,
        VECTORS,
        {"hidden": (6,), "levels": 3, "first_hidden": (6, 7), "activation": "tanh"},
    ),
    (
        UNET,
        IMAGES,
        {
            "T": 7,
            "schedule": "cosine",
            "first_log_snr": 2.0,
            "last_log_snr": -7.0,
            "prediction": "noise",
            "variance": "posterior",
            "loss": "hybrid",
            "sampling": "uniform",
            "channels": (4, 4),
            "blocks": 2,
            "attention": (8,),
            "heads": 2,
            "fourier": (3, 4),
            "dropout": 0.3,
            "dropout_of": "units",
        },
    ),
    (
        TRANSFORMER,
        IMAGES,
        {
            "width": 32,
            "blocks": 2,
            "heads": 2,
            "patch": 4,
            "positions": "learned",
            "fourier": (0,),
            "dropout": 0.3,
        },
    ),
    (replace(TRANSFORMER, width=128), IMAGES, {"network": "unet"}),
    (MIN_SNR, IMAGES, {"gamma": 0.5}),
    (UNET, IMAGES, {"T": "continuous", "schedule": "learned"}),
    (
        TIME_MLP,
        VECTORS,
        {
            "width": 8,
            "blocks": 2,
            "dropout": 0.3,
            "dropout_of": "units",
            "prediction": "data",
            "fourier": (1,),
        },
    ),
]
SINGLE = [
    pytest.param(base, data, {name: value}, id=f"{base.kind}-{name}-{i}")
    for i, (base, data, changes) in enumerate(CHANGES)
    for name, value in changes.items()
]


def mark(model: ModelConfig, data: Dataset) -> tuple[Any, ...]:
    """What can be told from outside: the parameters' shapes, a batch's loss for given draws, its gradient."""
    torch.manual_seed(0)
    chain: Chain = built(model, data).train()
    objective = objective_of(chain)
    objective.at_step(0)
    with torch.no_grad():
        for parameter in chain.parameters():
            # Layers that start at zero would hide what lies before them.
            parameter.add_(0.05 * torch.randn(parameter.shape))
    torch.manual_seed(1)
    loss = objective(chain, data.train.x[:8]).value
    slopes = torch.autograd.grad(loss, list(chain.parameters()), materialize_grads=True)
    shapes = [(name, tuple(p.shape)) for name, p in chain.named_parameters()]
    return chain.T, shapes, float(loss.detach()), sum(float(slope.square().sum()) for slope in slopes)


@pytest.mark.parametrize(("base", "data", "change"), SINGLE)
def test_every_option_of_a_model_changes_it(base, data, change):
    assert mark(base, data) == mark(base, data)
    assert mark(replace(base, **change), data) != mark(base, data)


@pytest.mark.parametrize("kind", [VAEConfig, HVAEConfig, DDPMConfig])
def test_every_option_of_a_model_is_looked_at(kind):
    changed = {name for base, _, changes in CHANGES if isinstance(base, kind) for name in changes}
    assert changed == {field.name for field in dataclasses.fields(kind)}


BITS = images(40, binarize="threshold")
LAWS = {
    f"likelihood.{name}": {"likelihood": LikelihoodConfig(**{name: value})}
    for name, value in {"sigma": "shared", "value": 0.5, "uniform": 0.1}.items()
}
OTHERS: dict[type, dict[str, dict[str, Any]]] = {
    VAEConfig: {
        "hidden": {"hidden": (7,)},
        "activation": {"activation": "tanh"},
        "width": {"width": 6},
        **LAWS,
    },
    HVAEConfig: {
        "levels_per_size": {"levels_per_size": (1, 1)},
        "hidden": {"hidden": (7,)},
        "first_hidden": {"first_hidden": (7,)},
        "activation": {"activation": "tanh"},
        "width": {"width": 6},
        "block": {"block": "bottleneck"},
        "blocks": {"blocks": 2},
        **LAWS,
    },
    DDPMConfig: {
        "first_log_snr": {"first_log_snr": 2.0},
        "last_log_snr": {"last_log_snr": -7.0},
        "gamma": {"gamma": 0.5},
        "channels": {"channels": (6,)},
        "blocks": {"blocks": 2},
        "attention": {"attention": (8,)},
        "heads": {"heads": 4},
        "patch": {"patch": 4},
        "positions": {"positions": "learned"},
        "width": {"width": 16},
    },
}
"""Options that some networks, schedules, losses or laws read and others do not."""
BASES: list[ModelConfig] = [
    *(VAEConfig(network=network, latent_dims=3) for network in ("auto", "mlp", "conv")),
    *(HVAEConfig(levels=2, posterior=posterior, latent_dims=(2,)) for posterior in ("top-down", "bottom-up")),
    HVAEConfig(levels=2, posterior="bottom-up", network="mlp", latent_dims=(2,)),
    *(DDPMConfig(T=12, schedule=schedule) for schedule in ("cosine", "sigmoid", "learned", "log-linear")),
    DDPMConfig(T=12, loss="min-snr", variance="beta"),
    DDPMConfig(T=12, network="transformer"),
    DDPMConfig(T="continuous"),
]


@pytest.mark.parametrize("data", [IMAGES, BITS, VECTORS], ids=["images", "bits", "vectors"])
@pytest.mark.parametrize("base", BASES, ids=[f"{i}-{base.kind}" for i, base in enumerate(BASES)])
def test_an_option_that_would_not_be_read_is_refused(base, data):
    """Whatever is not refused changes the model."""
    try:
        plain = mark(base, data)
    except ValueError as error:
        assert "the data are vectors" in str(error)  # noqa: PT017
        return
    refused = set()
    for name, change in OTHERS[type(base)].items():
        try:
            changed = mark(replace(base, **change), data)
        except ValueError as error:
            assert f"{name} is " in str(error) or "the data are vectors" in str(error)  # noqa: PT017
            assert "eave it out" in str(error)  # noqa: PT017
            refused.add(name)
        else:
            assert changed != plain, name
    assert refused != set(OTHERS[type(base)])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (VAEConfig, "hidden", 200),
        (VAEConfig, "q", "flow"),
        (HVAEConfig, "q", True),
        (FlowConfig, "transforms", 0),
        (FlowConfig, "hidden", 20),
        (FlowConfig, "context", 1.5),
        (FlowConfig, "bins", 1),
        (VAEConfig, "hidden", (20.0,)),
        (VAEConfig, "latent_dims", True),
        (HVAEConfig, "latent_dims", 8),
        (HVAEConfig, "levels_per_size", 3),
        (HVAEConfig, "levels_per_size", (1.0, 2)),
        (HVAEConfig, "block", "plain"),
        (HVAEConfig, "kl_balance", 1),
        (VAEConfig, "kl_warmup", -1),
        (TrainingConfig, "skip", -0.5),
        (DDPMConfig, "channels", "64"),
        (DDPMConfig, "attention", None),
        (DDPMConfig, "T", 1e3),
        (DDPMConfig, "T", "continuos"),
        (DDPMConfig, "patch", 2.0),
        (DDPMConfig, "fourier", 7),
        (DDPMConfig, "fourier", (7.0,)),
        (DDPMConfig, "fourier", (40,)),
        (DDPMConfig, "heads", 0),
        (DDPMConfig, "network", "dit"),
    ],
)
def test_a_mistyped_option_is_named(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        kind(**{name: value})


@pytest.mark.parametrize("objective", ["iwae", "dreg"])
@pytest.mark.parametrize("kind", [VAEConfig, HVAEConfig])
def test_importance_weights_are_not_combined_with_weights_of_the_kl(kind, objective):
    for name, value in (("beta", 0.5), ("free_bits", 0.1)):
        with pytest.raises(ValueError, match=f"{name} is .* with objective '{objective}'.* Leave {name} at"):
            kind(objective=objective, training_samples=5, **{name: value})
    with pytest.raises(ValueError, match="objective is 'vimco'; it must be one of elbo, iwae, dreg"):
        kind(objective="vimco")


def test_dropout_between_levels_is_refused_where_they_are_asked_twice():
    with pytest.raises(ValueError, match=r"dropout is 0\.1 with objective 'dreg'.*or use objective 'iwae'"):
        HVAEConfig(objective="dreg", dropout=0.1)
    with pytest.raises(ValueError, match=r"dropout is 0\.1 with backward_samples.*no backward_samples"):
        HVAEConfig(objective="iwae", training_samples=4, backward_samples=2, dropout=0.1)
    HVAEConfig(objective="iwae", dropout=0.1)
    VAEConfig(objective="dreg", dropout=0.1)


@pytest.mark.parametrize(
    ("network", "name", "value"),
    [
        ("unet", "patch", 2),
        ("unet", "positions", "learned"),
        ("transformer", "channels", (8,)),
        ("transformer", "attention", (4,)),
    ],
)
def test_an_option_of_the_other_network_is_refused(network, name, value):
    other = "transformer" if network == "unet" else "unet"
    with pytest.raises(ValueError, match=f"{name} is .* network is '{network}'.* use network {other}"):
        DDPMConfig(network=network, **{name: value})
    DDPMConfig(network=other, **{name: value})
    DDPMConfig(network=network, attention=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels_per_size": (0, 2, 3)}, "has 5 levels in all and levels is 3"),
        ({"levels_per_size": (1, 2), "posterior": "bottom-up"}, "levels_per_size is .* and posterior is"),
        ({"block": "basic", "posterior": "bottom-up"}, "block is 'basic' and posterior is 'bottom-up'"),
        ({"kl_balance": True}, "kl_balance is on and kl_warmup is 0"),
    ],
)
def test_options_of_a_ladder_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        HVAEConfig(**options)


@pytest.mark.parametrize("kind", [VAEConfig, HVAEConfig])
def test_an_option_of_a_flow_without_one_is_refused(kind):
    for q in ("diagonal", "full"):
        with pytest.raises(ValueError, match=f"an option of a flow is given and q is '{q}'; use"):
            kind(q=q, flow=FlowConfig(transforms=3))
    with pytest.raises(ValueError, match=r"flow.bins is 4 and q is 'iaf', which has none; use q spline"):
        kind(q="iaf", flow=FlowConfig(bins=4))
    kind(q="spline", flow=FlowConfig(bins=4))


@pytest.mark.parametrize("kind", [VAEConfig, HVAEConfig])
def test_a_flow_and_a_gradient_that_asks_for_densities_at_given_latents_are_refused(kind):
    with pytest.raises(ValueError, match=r"q is 'iaf' with objective 'dreg', .* Use q full or diagonal, or"):
        kind(q="iaf", objective="dreg")


# Options of a run -----------------------------------------------------------------------------------------

RUN = replace(TRAINING, steps=20, log_every=5, evaluate_every=10, sample_every=10, precision="fp32")
OTHER_TRAINING: dict[str, Any] = {
    "steps": 19,
    "batch_size": 8,
    "seed": 1,
    "learning_rate": 1e-3,
    "warmup": 0,
    "optimizer": "muon",
    "weight_decay": 5.0,
    "clip": 1e-3,
    "skip": 0.1,
    "ema": 0.05,
    "precision": "bf16",
    "log_every": 4,
    "evaluate_every": 5,
    "sample_every": 5,
    "checkpoint_every": 5,
    "keep": 1,
}


def left(folder: Path, config: RunConfig) -> dict[str, bytes]:
    """What a run leaves, but for its options themselves and what depends on the machine."""
    train_run(config, folder, device="cpu")
    apart = ("config.json", "timing.jsonl")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in apart]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    np.savez(folder / "others.npz", x=blobs(60, seed=1), levels=17)
    saved_images(folder)
    return folder


@pytest.fixture(scope="module")
def plain(place) -> tuple[RunConfig, dict[str, bytes]]:
    """A run's options, and what it leaves."""
    config = RunConfig(DataConfig(str(place / "blobs.npz"), validation=0.2), MODELS["vae-mlp"], RUN)
    return config, left(place / "plain", config)


@pytest.mark.parametrize("name", OTHER_TRAINING)
def test_every_option_of_training_changes_a_run(name, plain, tmp_path):
    config, there = plain
    training = replace(RUN, **{name: OTHER_TRAINING[name]})
    assert left(tmp_path / "run", replace(config, training=training)) != there


def test_recomputing_changes_nothing_of_a_run(plain, tmp_path):
    config, _ = plain
    config = replace(config, model=replace(MODELS["ddpm"], dropout=0.2), training=replace(RUN, steps=3))
    there = left(tmp_path / "kept", config)
    assert left(tmp_path / "run", replace(config, training=replace(config.training, recompute=True))) == there


UNCHANGING = {"recompute", "compile", "stop_early"}
"""Options that do not change a run, or not this one: tests/training, tests/experiments/runs/test_best.py."""


def test_every_option_of_training_is_looked_at():
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert OTHER_TRAINING.keys() == names - UNCHANGING
    assert all(value != getattr(RUN, name) for name, value in OTHER_TRAINING.items())


def test_every_option_of_the_data_changes_a_run(plain, place, tmp_path):
    config, there = plain
    assert left(tmp_path / "same", config) == there
    changes = {
        "source": str(place / "others.npz"),
        "binarize": "threshold",
        "validation": 0.3,
        "augment": ("flip",),
    }
    # tests/data, tests/inputs
    of_kinds = {"image_size", "channels", "skip_bad", "label", "levels", "key", "header", "deduplicate"}
    assert changes.keys() == {field.name for field in dataclasses.fields(DataConfig)} - of_kinds
    for name, value in changes.items():
        data = replace(config.data, **{name: value})
        assert left(tmp_path / name, replace(config, data=data)) != there


EVERYTHING: list[ModelConfig] = [
    VAEConfig(objective="iwae", training_samples=50, backward_samples=5, samples_warmup=3, first_samples=2),
    HVAEConfig(objective="dreg", training_samples=50, backward_samples=5, samples_warmup=3, first_samples=10),
    VAEConfig(
        latent_dims=5,
        q="spline",
        flow=FlowConfig(transforms=3, hidden=(9, 8), context=7, bins=6),
        network="mlp",
        hidden=(7, 6),
        activation="gelu",
        dropout=0.25,
        dropout_of="units",
        beta=1 / 3,
        free_bits=0.1,
        kl_warmup=5,
        training_samples=2,
        likelihood=LikelihoodConfig("discretized-gaussian", "shared", 0.7, uniform=0.01),
    ),
    VAEConfig(width=3),
    HVAEConfig(
        levels=4,
        posterior="bottom-up",
        latent_dims=(5, 4, 3, 2),
        network="mlp",
        q="iaf",
        flow=FlowConfig(transforms=1),
        hidden=(),
        first_hidden=(9,),
        activation="relu",
        dropout=1e-9,
        dropout_of="units",
        beta=2.5,
        free_bits=0.1,
        kl_warmup=5,
        kl_balance=True,
        training_samples=2,
        likelihood=LikelihoodConfig("gaussian", "fixed", 1e10),
    ),
    HVAEConfig(
        levels=3,
        levels_per_size=(1, 0, 2),
        block="bottleneck",
        width=32,
        blocks=2,
        likelihood=LikelihoodConfig("logistic-mixture", components=3),
    ),
    DDPMConfig(
        T=9,
        schedule="learned",
        first_log_snr=1 / 3,
        last_log_snr=-1.0,
        prediction="mean",
        variance="beta",
        loss="min-snr",
        gamma=0.1,
        sampling="importance",
        channels=(4, 8),
        blocks=3,
        attention=(8, 4),
        heads=2,
        fourier=(-1, 2),
        dropout=0.9,
        dropout_of="units",
    ),
    DDPMConfig(T="continuous", network="transformer", patch=4, positions="learned", width=5),
]
"""With no option at its default, among those of one kind."""


def test_no_option_is_left_at_its_default():
    for kind in (VAEConfig, HVAEConfig, DDPMConfig):
        default, models = kind(), [model for model in EVERYTHING if isinstance(model, kind)]
        for field in dataclasses.fields(kind):
            assert any(getattr(model, field.name) != getattr(default, field.name) for model in models)
    (flow,) = [m.flow for m in EVERYTHING if getattr(m, "q", None) == "spline"]  # type: ignore[union-attr]
    assert all(getattr(flow, f.name) != getattr(FlowConfig(), f.name) for f in dataclasses.fields(FlowConfig))


@pytest.mark.parametrize("model", EVERYTHING)
def test_every_option_comes_back_from_a_folder(model, plain, tmp_path):
    given = RunConfig(
        plain[0].data, model, replace(RUN, recompute=True, compile="off", stop_early=4, **OTHER_TRAINING)
    )
    names = [field.name for field in dataclasses.fields(TrainingConfig)]
    assert not [name for name in names if getattr(given.training, name) == getattr(TrainingConfig(), name)]
    folder = RunFolder.create(tmp_path / "run", IMAGES, given.training, config=given)
    assert folder.config == given
    assert RunFolder.open(tmp_path / "run").config == given
    assert RunFolder.open(tmp_path / "run").facts == json.loads(json.dumps(folder.facts))
