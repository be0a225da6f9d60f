"""The warm-up of the KLs: its weights at known steps, in plain, compiled and resumed training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ancestral.config import DataConfig, HVAEConfig, RunConfig, VAEConfig
from ancestral.experiments.build import build_chain
from ancestral.experiments.runs import RunFolder, load_run, train_run
from ancestral.experiments.runs.fitting import fit
from ancestral.training import StepRecord, TrainingState, train
from ancestral.training.objective import objective_of
from tiny import TRAINING, built, images, saved_images, vectors

LADDER = HVAEConfig(levels=3, width=8, latent_dims=(2,), kl_warmup=4)

MARKOV = HVAEConfig(levels=2, posterior="bottom-up", network="mlp", hidden=(8,), latent_dims=(3, 2))


@pytest.mark.parametrize("model", [VAEConfig(network="mlp", hidden=(16,), kl_warmup=4), LADDER], ids=str)
def test_each_step_weighs_the_kls_as_far_as_it_has_come(model):
    """loss = reconstruction + min((step + 1) / 4, 1) Σ KL, with the terms reported as they are."""
    data = images()
    one = TrainingState(built(model, data), TRAINING)
    weights = []
    for record in train(one, data):
        terms = {name: float(term) for name, term in record.terms.items()}
        kl = terms["matching"] + terms["prior"]
        weights.append((float(record.loss) - terms["reconstruction"]) / kl if kl else None)
        if record.step == 1:
            # At the start q is p; from now on there is something to weigh.
            with torch.no_grad():
                for p in one.parameters.values():
                    p.add_(0.1 * torch.randn_like(p))
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    assert weights[1:] == pytest.approx(expected[1:], abs=1e-3)


def test_the_bound_is_never_weighted():
    data = images()
    chain = built(LADDER, data)
    objective = objective_of(chain)
    x = data.train.x[:8]
    found = []
    for step in (0, 100):
        objective.at_step(step)
        torch.manual_seed(0)
        found.append(chain.elbo(x).total)
    assert torch.equal(*found)


def test_without_a_step_the_weight_is_one():
    data = images()
    torch.manual_seed(0)
    warm, plain = built(LADDER, data), built(replace(LADDER, kl_warmup=0), data)
    plain.load_state_dict(warm.state_dict())
    assert not objective_of(warm).state_dict()  # the weight is no part of what is saved
    losses = []
    for chain in (warm, plain):
        for p in chain.posteriors.parameters():
            torch.nn.init.constant_(p, 0.1)
        torch.manual_seed(1)
        losses.append(float(objective_of(chain)(chain, data.train.x[:8]).value.detach()))
    assert losses[0] == losses[1]


def test_a_run_stopped_within_the_warm_up_is_the_one_that_was_not(tmp_path):
    data = images()
    for name, stops in (("whole", [100]), ("parts", [1, 2, 5, 100])):
        for stop in stops:
            taken = [RunFolder.open(tmp_path / name).step if (tmp_path / name).exists() else 0]

            def should_stop(taken: list[int] = taken, stop: int = stop) -> bool:
                taken[0] += 1
                return taken[0] >= stop

            torch.manual_seed(0)
            chain = built(replace(LADDER, kl_balance=True), data)
            fit(chain, data, TRAINING, out=tmp_path / name, device="cpu", should_stop=should_stop)
    for file in ("metrics.jsonl", "checkpoints/step-00000007/state.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_step_sees_the_weight_of_its_step():
    data = vectors()
    model = VAEConfig(hidden=(8,), kl_warmup=5)
    losses = []
    for how in ("on", "off"):
        torch.manual_seed(0)
        one = TrainingState(
            build_chain(model, data.spec, train=data.seen()), replace(TRAINING, compile=how, precision="fp32")
        )
        losses.append([float(record.loss) for record in train(one, data)])
        assert one.compiled is (how == "on")
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_read_back_has_no_trace_of_it(tmp_path):
    config = RunConfig(DataConfig(saved_images(tmp_path)), LADDER, replace(TRAINING, steps=2))
    train_run(config, tmp_path / "run", device="cpu")
    chain = load_run(tmp_path / "run")
    assert float(objective_of(chain).step) == math.inf
    assert not any("step" in name for name, _ in chain.named_buffers())


def stepped(model: HVAEConfig, steps: int) -> Iterator[tuple[StepRecord, Tensor]]:
    """The records of a run from the same initial weights each time, with all weights after each step."""
    data = images()
    torch.manual_seed(0)
    state = TrainingState(built(model, data), replace(TRAINING, steps=steps))
    for record in train(state, data):
        yield record, torch.cat([p.detach().flatten() for p in state.parameters.values()])


@pytest.mark.parametrize("kept", [None, 2])
@pytest.mark.parametrize("objective", ["elbo", "iwae", "dreg"])
def test_the_first_steps_take_one_draw(objective, kept):
    """Step by step the weights of a run of k = 1, and from then on others."""
    if objective == "elbo" and kept is not None:
        pytest.skip("it has no weights to choose draws by")
    warmup = 3
    one = replace(MARKOV, objective=objective)
    many = replace(one, training_samples=4, samples_warmup=warmup, backward_samples=kept)
    weights = []
    for model in (one, many):
        weights.append([])
        for record, after in stepped(model, warmup + 2):
            weights[-1].append(after)
            draws = float(record.terms.get("effective_draws", 1.0))
            assert (draws > 1.001) == (objective != "elbo" and model is many and record.step > warmup)
    same = [torch.equal(a, b) for a, b in zip(*weights, strict=True)]
    assert same == [True] * warmup + [False] * 2


@pytest.mark.parametrize(("kept", "first"), [(None, 3), (2, 3), (2, 2), (3, 2)])
def test_the_first_steps_take_so_many_draws(kept, first):
    """The weights of a run of as many draws from the start, whose gradient goes through as many of them."""
    warmup = 3
    few = replace(
        MARKOV,
        objective="dreg",
        training_samples=first,
        backward_samples=kept if kept is not None and kept < first else None,
    )
    many = replace(few, training_samples=5, backward_samples=kept, samples_warmup=warmup, first_samples=first)
    weights = [[after for _, after in stepped(model, warmup + 2)] for model in (few, many)]
    same = [torch.equal(a, b) for a, b in zip(*weights, strict=True)]
    assert same == [True] * warmup + [False] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_steps_take_one_draw_first_too():
    data = images()
    model = replace(MARKOV, objective="dreg", training_samples=4, samples_warmup=2, backward_samples=2)
    found = []
    for compile in ("off", "on"):
        torch.manual_seed(0)
        state = TrainingState(built(model, data), replace(TRAINING, steps=4, compile=compile))
        found.append([float(record.terms["effective_draws"]) for record in train(state, data)])
        assert state.compiled == (compile == "on")
    assert found[1] == pytest.approx(found[0], abs=1e-3)
    assert found[0][:2] == pytest.approx([1.0, 1.0])
    assert min(found[0][2:]) > 1.001
