"""Training by each objective: the bound rises, in any precision, and records say what was minimised."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ancestral.chain import Chain
from ancestral.config import DataConfig, RunConfig, TrainingConfig
from ancestral.elbo import Reweighting
from ancestral.evaluation import log_likelihood
from ancestral.marginal import MarginalChain
from ancestral.objectives import Objective
from ancestral.runs import RunFolder, train_run
from ancestral.spec import DataSpec
from ancestral.training import TrainingState, train
from tiny import MODELS, TRAINING, built, images, saved_images

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
    records = list(train(TrainingState(chain, training), data))
    assert bound(chain, data.test.x) > before + 4.0
    assert chain.loss_name == NAMES[objective]
    for record in records:
        terms = {name: float(value) for name, value in record.terms.items()}
        draws = terms.pop("effective_draws", 1.0)
        assert 1.0 - 1e-5 <= draws <= 4.0 + 1e-5
        # The average over draws is the ELBO: the bound is above it, and by most where one draw is all.
        assert sum(terms.values()) > float(record.loss) - 1e-3
        assert record.loss.dtype == torch.float32


def test_a_run_of_an_objective_keeps_it(tmp_path):
    model = replace(MODELS["ladder"], objective="dreg", training_samples=3)
    config = RunConfig(DataConfig(saved_images(tmp_path)), model, replace(TRAINING, steps=2))
    train_run(config, tmp_path / "run", device="cpu")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config == config
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"reconstruction", "matching", "prior", "effective_draws"} == json.loads(lines[0])["terms"].keys()


def test_what_an_objective_cannot_do_is_refused():
    class Levels(MarginalChain):
        q_marginal = q_top = p_top = p_step = None

    with pytest.raises(ValueError, match=r"objective is 'iwae': Levels is trained on single.*Use 'elbo'"):
        Levels(3, DataSpec((2,)), objective=Objective("iwae"))

    class Paths(Chain):
        q_top = p_top = p_step = None

    with pytest.raises(ValueError, match=r"objective is 'dreg' with beta = 0.5 and free_bits = 0.*Leave"):
        Paths(1, DataSpec((2,)), objective=Objective("dreg"), reweighting=Reweighting(beta=0.5))
    with pytest.raises(ValueError, match=r"bound is 'dregs'.*Did you mean 'dreg'"):
        Objective("dregs")
    with pytest.raises(ValueError, match=r"samples_warmup is 3 and samples is 1.*Leave it at 0"):
        Objective("iwae", samples_warmup=3)
    with pytest.raises(ValueError, match=r"first_samples is 4 and samples is 4.*fewer draws"):
        Objective("iwae", 4, samples_warmup=3, first_samples=4)
    with pytest.raises(ValueError, match=r"first_samples is 2 and samples_warmup is 0: no steps have fewer"):
        Objective("iwae", 4, first_samples=2)
    with pytest.raises(ValueError, match=r"backward_samples is 2 with bound 'elbo'"):
        Objective("elbo", 4, 2)
    with pytest.raises(ValueError, match=r"backward_samples is 5; it must be"):
        Objective("iwae", 4, 5)
