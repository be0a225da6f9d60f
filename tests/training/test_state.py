"""The optimiser, the rate, the average: what one training step is, against plain formulas."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ancestral.config import TrainingConfig, VAEConfig
from ancestral.experiments.build import build_chain
from ancestral.training import TrainingState, train
from ancestral.training.state import model_tensors, restore_model
from tiny import MODELS, TRAINING, built, images, vectors


def state(training: TrainingConfig = TRAINING, *, model: str = "vae-mlp") -> TrainingState:
    data = images()
    return TrainingState(built(MODELS[model], data), training)


def test_only_matrices_and_kernels_decay():
    one = state(replace(TRAINING, weight_decay=0.3), model="ddpm")
    decays = {}
    for bucket, group in zip(one.buckets, one.optimizer.param_groups, strict=True):
        assert group["params"][0] is bucket.weight
        decays |= dict.fromkeys(bucket.places, group["weight_decay"])
    assert decays == {name: 0.3 if p.ndim > 1 else 0.0 for name, p in one.parameters.items()}


def test_without_gradients_only_the_decay_moves_a_weight():
    """AdamW with zero gradients is p ← (1 − rate · decay) p for matrices, and nothing for biases."""
    training = replace(TRAINING, weight_decay=0.25, learning_rate=0.1, warmup=0, ema=0.0)
    one = state(training)
    nn.init.ones_(one.parameters["encoder.1.linear0.bias"])
    before = {name: p.detach().clone() for name, p in one.parameters.items()}
    one.update()
    for name, parameter in one.parameters.items():
        factor = 1.0 - 0.1 * 0.25 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_an_update_is_adamw():
    """Against the formulas of Loshchilov & Hutter 2019, algorithm 2, in float64, over some steps."""
    training = replace(TRAINING, steps=100, weight_decay=0.1, learning_rate=0.05, warmup=3)
    one = state(training)
    name, parameter = "encoder.1.linear0.weight", one.parameters["encoder.1.linear0.weight"]
    theirs = parameter.detach().double()
    m, v = torch.zeros_like(theirs), torch.zeros_like(theirs)
    for step in range(1, 6):
        for p in one.parameters.values():
            assert p.grad is not None
            p.grad.copy_(torch.randn_like(p))
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        one.update()
        rate = one.learning_rate(step - 1)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient.square()
        theirs = theirs - rate * 0.1 * theirs
        theirs = theirs - rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach().double(), theirs, rtol=2e-5, atol=2e-6)
        torch.testing.assert_close(
            one.tensors()[f"optimizer/exp_avg/{name}"].double(), m, rtol=1e-5, atol=1e-6
        )


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    one = state(replace(TRAINING, steps=1000, warmup=40, learning_rate=0.02))
    assert [one.learning_rate(step) for step in (0, 19, 39)] == pytest.approx([0.02 / 40, 0.01, 0.02])
    assert one.learning_rate(40) == 0.02
    assert one.learning_rate(40 + 960 // 2) == pytest.approx(0.01)
    assert one.learning_rate(40 + 960 // 4) == pytest.approx(0.02 * (0.5 + math.sqrt(0.125)))
    assert one.learning_rate(1000) == pytest.approx(0.0, abs=1e-12)
    rates = [one.learning_rate(step) for step in range(1000)]
    assert all(0 < rate <= 0.02 for rate in rates)
    assert all(a > b for a, b in itertools.pairwise(rates[40:]))


@pytest.mark.parametrize(
    ("steps", "warmup", "peak"), [(1000, 400, 100), (50, 100, 5), (9, 100, 0), (1, 7, 0)]
)
def test_the_warm_up_takes_a_tenth_of_the_steps_at_most(steps, warmup, peak):
    one = state(replace(TRAINING, steps=steps, warmup=warmup, learning_rate=1.0))
    rates = [one.learning_rate(step) for step in range(steps)]
    assert rates.index(1.0) == max(peak - 1, 0)
    assert min(rates) > 0


def test_a_step_takes_its_rate_from_the_schedule():
    data, training = images(), replace(TRAINING, steps=30, warmup=3, learning_rate=0.01)
    one = TrainingState(built(MODELS["vae-mlp"], data), training)
    for record in train(one, data):
        rate = one.learning_rate(record.step - 1)
        assert record.learning_rate == rate
        assert all(group["lr"] == rate for group in one.optimizer.param_groups)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_ramped(decay):
    """ema ← d ema + (1 − d) p with d = min(decay, (1 + step) / (10 + step))."""
    data, training = images(), replace(TRAINING, steps=12, learning_rate=0.05, ema=decay)
    one = TrainingState(built(MODELS["vae-mlp"], data), training)
    ours = {name: p.detach().double() for name, p in one.parameters.items()}
    for record in train(one, data):
        d = min(decay, record.step / (9 + record.step))
        for name, p in one.parameters.items():
            ours[name] = d * ours[name] + (1 - d) * p.detach().double()
            torch.testing.assert_close(one.ema[name].double(), ours[name], rtol=1e-4, atol=1e-5)
            assert decay > 0 or torch.equal(one.ema[name], p)


def test_averaged_weights_are_lent():
    one = state()
    for average in one.ema.values():
        average.add_(1.0)
    before = {name: p.detach().clone() for name, p in one.parameters.items()}
    one.chain.train()

    @one.averaged()
    def fail() -> None:
        assert not one.chain.training
        assert all(torch.equal(p, one.ema[name]) for name, p in one.chain.named_parameters())
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert one.chain.training
    assert all(torch.equal(p, before[name]) for name, p in one.parameters.items())


def test_tensors_hold_each_parameter_and_lasting_buffer_once():
    data = vectors()
    chain = build_chain(VAEConfig(hidden=(8,)), data.spec, train=data.train.x)
    named = model_tensors(chain)
    for what in ("shift", "scale"):
        assert sum(name.endswith(f"scaling.{what}") for name in named) == 1
    assert len({tensor.data_ptr() for tensor in named.values()}) == len(named)
    assert {p.data_ptr() for p in chain.parameters()} < {tensor.data_ptr() for tensor in named.values()}


def test_another_models_tensors_are_refused():
    spec = images().spec

    def chain(hidden: tuple[int, ...]):
        return build_chain(VAEConfig(network="mlp", hidden=hidden, latent_dims=4), spec)

    tensors = {f"model/{name}": tensor for name, tensor in model_tensors(chain((16,))).items()}
    restore_model(chain((16,)), tensors, "model/")
    with pytest.raises(
        ValueError, match=r"of another model: encoder.1.linear0.weight is of shape \(16, 64\)"
    ):
        restore_model(chain((12,)), tensors, "model/")
    with pytest.raises(ValueError, match=r"of another model: .* is missing"):
        restore_model(chain((16, 16)), tensors, "model/")
    deeper = {f"model/{name}": tensor for name, tensor in model_tensors(chain((16, 16))).items()}
    with pytest.raises(ValueError, match=r"of another model: this one has no .*linear1"):
        restore_model(chain((16,)), deeper, "model/")


def test_a_chain_without_parameters_is_refused():
    chain = copy.deepcopy(state().chain)
    for module in list(chain.modules()):
        module._parameters.clear()
    with pytest.raises(ValueError, match="nothing to train"):
        TrainingState(chain, TRAINING)
