"""Training by each objective: the bound rises, in any precision, and records say what was minimised.

An objective is the trainer's: it is made from a chain's options or given, and is no part of the chain.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ancestral.bounds import log_likelihood
from ancestral.config import DataConfig, DDPMConfig, HVAEConfig, RunConfig, TrainingConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.experiments.build import build_chain
from ancestral.experiments.runs import RunFolder, fit, train_run
from ancestral.models.diffusion import (
    ContinuousDiffusion,
    Diffusion,
    LearnedSchedule,
    LogLinear,
    variance_of,
)
from ancestral.models.diffusion.schedules import Schedule
from ancestral.networks import TimeMLP
from ancestral.objectives import (
    DReG,
    Few,
    FirstFew,
    Hybrid,
    Iwae,
    NegativeElbo,
    Objective,
    OneLevel,
    RandomLevels,
    Simple,
    default_objective,
)
from ancestral.parts.scaling import Scaling
from ancestral.training import TrainingState, train
from ancestral.training.objective import objective_of
from tiny import MODELS, TRAINING, built, images, saved_images, vectors

NAMES = {
    "elbo": "negative ELBO",
    "iwae": "negative IWAE-4 bound",
    "dreg": "negative IWAE-4 bound, DReG gradient",
}


def bound(chain: Chain, x: torch.Tensor) -> float:
    """IWAE-20 of x, always with the same seed."""
    torch.manual_seed(9)
    return float(log_likelihood(chain.eval(), x, samples=20).mean())


@pytest.mark.parametrize("objective", NAMES)
@pytest.mark.parametrize("name", ["vae-mlp", "vae-conv", "bottom-up", "ladder"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_raises_the_bound(objective, name, precision):
    data = images()
    training = TrainingConfig(
        steps=25, batch_size=16, learning_rate=1e-2, warmup=2, precision=precision, ema=0.5
    )
    torch.manual_seed(0)
    chain = built(replace(MODELS[name], objective=objective, training_samples=4), data)
    before = bound(chain, data.test.x)
    state = TrainingState(chain, training)
    records = list(train(state, data))
    assert bound(chain, data.test.x) > before + 4.0
    assert state.objective.name == NAMES[objective]
    for record in records:
        terms = {name: float(value) for name, value in record.terms.items()}
        draws = terms.pop("effective_draws", 1.0)
        assert 1.0 - 1e-5 <= draws <= 4.0 + 1e-5
        # The average over draws is the ELBO: the bound is above it, and by most where one draw is all.
        assert sum(terms.values()) > float(record.loss) - 1e-3
        assert record.loss.dtype == torch.float32


def test_a_run_of_an_objective_keeps_it(tmp_path):
    model = replace(MODELS["ladder"], objective="dreg", training_samples=3, dropout=0.0)
    model = replace(model, likelihood=replace(model.likelihood, uniform=0.0))
    config = RunConfig(DataConfig(saved_images(tmp_path)), model, replace(TRAINING, steps=2))
    train_run(config, tmp_path / "run", device="cpu")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config == config
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"reconstruction", "matching", "prior", "effective_draws"} == json.loads(lines[0])["terms"].keys()


# Compositions ---------------------------------------------------------------------------------------


def diffusion(*, variance: str = "posterior", learned: bool = False, T: int = 4) -> Diffusion:
    """A diffusion model of two numbers, built by hand."""
    outputs = 2 * (2 if variance == "learned" else 1)
    noising = LearnedSchedule(T, first=5.0, last=-5.0) if learned else Schedule.log_linear(T)
    return Diffusion(
        TimeMLP(2, outputs, hidden=8, depth=1),
        noising,
        scaling=Scaling(DataSpec((2,))),
        variance=variance_of(variance),
    )


def continuous(*, variance: str = "posterior") -> ContinuousDiffusion:
    outputs = 2 * (2 if variance == "learned" else 1)
    network, scaling = TimeMLP(2, outputs, hidden=8, depth=1), Scaling(DataSpec((2,)))
    return ContinuousDiffusion(network, LogLinear(4), scaling=scaling, variance=variance_of(variance))


def refused(chain: Chain, objective: Objective, message: str) -> None:
    """A trainer does not begin with an objective that the chain cannot be trained with."""
    with pytest.raises(ValueError, match=message):
        objective.check(chain)
    with pytest.raises(ValueError, match=message):
        TrainingState(chain, TRAINING, objective)
    with pytest.raises(ValueError, match=message):
        fit(chain, vectors(), TRAINING, objective=objective, device="cpu")


@pytest.mark.parametrize(
    "objective",
    [
        Iwae(4),
        DReG(4),
        Few(DReG(4), backward=2),
        FirstFew(Iwae(4), Iwae(2), steps=3),
        FirstFew(Iwae(4), NegativeElbo(), steps=3),
    ],
    ids=lambda objective: objective.name,
)
@pytest.mark.parametrize("chain", [diffusion(), continuous()], ids=["levels", "continuous"])
def test_a_diffusion_model_has_no_paths_to_weigh(objective, chain):
    refused(chain, objective, r"trained on single levels.*Use objective 'elbo', or a \(hierarchical\) VAE")


def test_what_has_no_weights_cannot_be_chosen_from():
    for objective in (NegativeElbo(4), FirstFew(Iwae(4), Iwae(2), steps=3)):
        with pytest.raises(ValueError, match=r"no importance weights to choose.*Use Few with Iwae or DReG"):
            Few(objective, backward=2)
    for backward in (0, 5):
        with pytest.raises(ValueError, match=f"backward_samples is {backward}; it must be"):
            Few(Iwae(4), backward=backward)


@pytest.mark.parametrize("first", [Iwae(4), Iwae(5), NegativeElbo(4), Few(DReG(6), backward=2)])
def test_the_first_steps_must_have_fewer_samples(first):
    message = rf"first steps have {first.samples} samples and the others 4; the first must have fewer"
    with pytest.raises(ValueError, match=message):
        FirstFew(Iwae(4), first, steps=3)
    with pytest.raises(ValueError, match="samples_warmup is 0; it must be"):
        FirstFew(Iwae(4), Iwae(1), steps=0)


@pytest.mark.parametrize("kind", [NegativeElbo, RandomLevels, Iwae, DReG])
def test_there_is_at_least_one_sample(kind):
    with pytest.raises(ValueError, match="samples is 0; it must be"):
        kind(0)


def test_the_weights_of_kls_are_checked():
    for options, message in (
        ({"beta": -1.0}, "beta is -1"),
        ({"free_bits": -0.5}, "free_bits is -0.5"),
        ({"kl_warmup": -1}, "kl_warmup is -1"),
        ({"kl_balance": True}, r"kl_balance is on and kl_warmup is 0.*Give a kl_warmup, or leave"),
    ):
        with pytest.raises(ValueError, match=message):
            NegativeElbo(**options)


def test_what_is_no_bound_trains_neither_a_variance_nor_a_schedule():
    learned, use = (
        diffusion(variance="learned"),
        "Use loss 'hybrid' or 'vlb', or variance 'beta' or 'posterior'",
    )
    for options in ({}, {"min_snr": 5.0}):
        with pytest.raises(ValueError, match=f"variance is 'learned'.*no gradient. {use}"):
            Simple(learned, **options)
        with pytest.raises(
            ValueError, match=r"schedule is learned.*no bound.*Use loss 'vlb', or a fixed schedule"
        ):
            Simple(diffusion(learned=True), **options)
        with pytest.raises(ValueError, match=r"in continuous time there is the bound only. Use loss vlb"):
            Simple(continuous(), **options)
    with pytest.raises(ValueError, match=r"schedule is learned.*Use loss 'vlb', or a fixed schedule"):
        Hybrid(diffusion(variance="learned", learned=True))
    with pytest.raises(ValueError, match=r"in continuous time there is the bound only. Use loss vlb"):
        Hybrid(continuous(variance="learned"))
    # And an objective that was made for another chain.
    simple = Simple(diffusion())
    refused(learned, simple, f"variance is 'learned'.*{use}")
    refused(diffusion(learned=True), simple, "Use loss 'vlb', or a fixed schedule")


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_a_hybrid_is_for_a_learned_variance(variance):
    message = (
        f"variance is '{variance}'.*only trains a learned variance. Use variance 'learned', or loss 'simple'"
    )
    with pytest.raises(ValueError, match=message):
        Hybrid(diffusion(variance=variance))
    refused(diffusion(variance=variance), Hybrid(diffusion(variance="learned")), message)


def test_options_that_do_not_go_together_are_refused_before_training():
    spec = DataSpec((2,))
    for options, message in (
        ({"loss": "simple", "variance": "learned"}, "Use loss 'hybrid' or 'vlb'"),
        ({"loss": "hybrid", "variance": "beta"}, "Use variance 'learned', or loss 'simple'"),
        (
            {"loss": "simple", "variance": "beta", "schedule": "learned"},
            "Use loss 'vlb', or a fixed schedule",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build_chain(DDPMConfig(T=4, **options), spec)


def test_numbers_of_diffusion_objectives_are_checked():
    with pytest.raises(ValueError, match="gamma is 0"):
        Simple(diffusion(), min_snr=0.0)
    with pytest.raises(ValueError, match="vlb_weight is 0"):
        Hybrid(diffusion(variance="learned"), vlb_weight=0.0)
    with pytest.raises(ValueError, match=r"sampling is 'evn'.*Did you mean 'even'"):
        OneLevel(diffusion(), sampling="evn")


def test_an_objective_of_levels_is_for_the_levels_that_it_was_made_for():
    refused(
        diffusion(T=9), OneLevel(diffusion()), r"made for 3 cells.*has 8. Make an objective for this chain"
    )
    vae = build_chain(VAEConfig(hidden=(4,)), DataSpec((2,)))
    with pytest.raises(
        ValueError, match=r"is for a diffusion model and the chain is a VAE. Use NegativeElbo"
    ):
        OneLevel(vae)
    refused(vae, OneLevel(diffusion()), "is for a diffusion model and the chain is a VAE. Use NegativeElbo")
    refused(vae, RandomLevels(), "a VAE has no closed-form .* Use the objective NegativeElbo")


def test_without_options_it_is_the_negative_elbo():
    spec = DataSpec((2,))
    for chain, kind in (
        (diffusion(), OneLevel),
        (continuous(), OneLevel),
        (build_chain(VAEConfig(hidden=(4,)), spec), NegativeElbo),
    ):
        chain.config = None
        assert type(default_objective(chain)) is kind
        assert type(objective_of(chain)) is kind


def test_options_that_no_objective_has():
    for kind in (VAEConfig, HVAEConfig):
        for options, message in (
            ({"objective": "dregs"}, r"objective is 'dregs'.*Did you mean 'dreg'"),
            ({"objective": "iwae", "samples_warmup": 3}, r"samples_warmup is 3 and .* is 1.*Leave it at 0"),
            (
                {"objective": "iwae", "training_samples": 4, "samples_warmup": 3, "first_samples": 4},
                r"first_samples is 4 and .* is 4.*fewer draws",
            ),
            (
                {"objective": "iwae", "training_samples": 4, "first_samples": 2},
                r"first_samples is 2 and samples_warmup is 0: no steps have fewer",
            ),
            (
                {"training_samples": 4, "backward_samples": 2},
                r"backward_samples is 2 and objective is 'elbo'",
            ),
            (
                {"objective": "iwae", "training_samples": 4, "backward_samples": 5},
                r"backward_samples is 5; it must be",
            ),
            ({"objective": "dreg", "beta": 0.5}, r"beta is 0.5 with objective 'dreg'.*Leave beta at 1"),
        ):
            with pytest.raises(ValueError, match=message):
                kind(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, NegativeElbo()),
        ({"training_samples": 3, "beta": 2.0, "free_bits": 0.5}, NegativeElbo(3, beta=2.0, free_bits=0.5)),
        ({"objective": "iwae", "training_samples": 5}, Iwae(5)),
        ({"objective": "dreg", "training_samples": 5, "backward_samples": 2}, Few(DReG(5), backward=2)),
        ({"objective": "iwae", "training_samples": 5, "backward_samples": 5}, Iwae(5)),
        (
            {"objective": "iwae", "training_samples": 5, "samples_warmup": 7, "first_samples": 2},
            FirstFew(Iwae(5), Iwae(2), steps=7),
        ),
        (
            {"objective": "dreg", "training_samples": 5, "samples_warmup": 7, "backward_samples": 2},
            FirstFew(Few(DReG(5), backward=2), DReG(1), steps=7),
        ),
    ],
    ids=str,
)
def test_options_name_an_objective(options, expected):
    chain = build_chain(VAEConfig(hidden=(4,), **options), DataSpec((2,)))
    objective = objective_of(chain)
    assert type(objective) is type(expected)
    assert (objective.name, objective.samples) == (expected.name, expected.samples)
