"""Parameters as views of flat buffers: the same numbers in the same layout, and nothing between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ancestral.training import TrainingState, train
from ancestral.training.flat import buckets, views
from tiny import MODELS, TRAINING, built, images


def network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Module()
    module.kernel = nn.Parameter(torch.randn(5, 3, 3, 2).contiguous(memory_format=torch.channels_last))
    module.matrix = nn.Parameter(torch.randn(7, 3))
    module.turned = nn.Parameter(torch.randn(4, 9).t())
    module.gain = nn.Parameter(torch.randn(5))
    module.number = nn.Parameter(torch.randn(()))
    module.wide = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
    return module


def test_parameters_keep_their_values_and_layout():
    module = network()
    before = {name: (p.detach().clone(), p.stride()) for name, p in module.named_parameters()}
    parts = buckets(dict(module.named_parameters()))
    assert sorted((str(part.weight.dtype), part.decayed) for part in parts) == [
        ("torch.float32", False),
        ("torch.float32", True),
        ("torch.float64", True),
    ]
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name][0])
        assert p.stride() == before[name][1]
        assert p.grad is not None
        assert p.grad.stride() == p.stride()


def test_flattening_is_the_inverse_of_the_views():
    parts = buckets(dict(network().named_parameters()))
    for part in parts:
        numbers = torch.arange(len(part.weight), dtype=part.weight.dtype) + 1.0
        inside = part.flattened({name: torch.ones_like(v) for name, v in part.views(numbers).items()})
        assert 0 < int(inside.sum()) <= len(numbers)
        assert torch.equal(part.flattened(part.views(numbers)), numbers * inside)
        assert int(inside.sum()) == sum(view.numel() for view in part.views(numbers).values())


def test_every_parameter_starts_a_register():
    for part in buckets(dict(network().named_parameters())):
        assert all(place.offset % 16 == 0 for place in part.places.values())


def test_the_gradient_of_a_view_arrives_in_the_buffer():
    module = network()
    parts = buckets(dict(module.named_parameters()))
    sum((p.double() ** 3).sum() for p in module.parameters()).backward()
    found = views(parts, [part.gradient for part in parts])
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name], 3 * p.detach() ** 2)
        assert p.grad.data_ptr() == found[name].data_ptr()


def test_what_lies_between_the_parameters_stays_zero():
    data = images()
    one = TrainingState(built(MODELS["vae-mlp"], data), replace(TRAINING, weight_decay=0.1))
    for _ in train(one, data):
        pass
    for bucket in one.buckets:
        inside = bucket.flattened({name: torch.ones(place.shape) for name, place in bucket.places.items()})
        assert float(bucket.weight.detach()[inside == 0].abs().sum()) == 0.0
        assert float(bucket.average[inside == 0].abs().sum()) == 0.0
        assert float(bucket.weight.detach()[inside == 1].abs().min()) >= 0.0


@pytest.mark.parametrize("model", ["vae-mlp", "ddpm"])
def test_released_parameters_are_the_average_in_memory_of_their_own(model):
    data = images()
    one = TrainingState(built(MODELS[model], data), TRAINING)
    strides = {name: p.stride() for name, p in one.parameters.items()}
    for _ in train(one, data):
        pass
    one.release()
    for name, p in one.chain.named_parameters():
        assert torch.equal(p, one.ema[name])
        assert p.grad is None
        assert p.untyped_storage().nbytes() == p.nbytes
        assert p.stride() == strides[name]


def test_frozen_parameters_are_left_alone():
    data = images()
    chain = built(MODELS["vae-mlp"], data)
    frozen = chain.get_parameter("encoder.1.linear0.weight")
    frozen.requires_grad_(False)
    before = frozen.clone()
    one = TrainingState(chain, replace(TRAINING, weight_decay=0.5))
    for _ in train(one, data):
        pass
    assert torch.equal(frozen, before)
    assert torch.equal(one.tensors()["model/encoder.1.linear0.weight"], before)
    assert "ema/encoder.1.linear0.weight" not in one.tensors()
