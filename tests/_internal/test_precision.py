"""Networks in bf16 where asked for; laws, losses, weights and the optimiser in fp32 always."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ancestral._internal import precision
from ancestral._internal.precision import autocast, compute_dtype
from ancestral.core.walk import infer
from ancestral.experiments.build import build_chain
from ancestral.training import TrainingState, train
from tiny import MODELS, TRAINING, built, images, with_dropout

CPU = torch.device("cpu")
DATA = images()


def state(model: str, *, precision: str) -> TrainingState:
    torch.manual_seed(0)
    training = replace(TRAINING, precision=precision, steps=3)
    return TrainingState(built(with_dropout(MODELS[model]), DATA), training)


def losses(model: str, *, precision: str) -> list[float]:
    return [float(record.loss) for record in train(state(model, precision=precision), DATA)]


@pytest.mark.parametrize("model", MODELS)
def test_bf16_changes_the_loss_a_little(model):
    """Three decimal digits are left of the networks' outputs; of the laws all are."""
    full, half = losses(model, precision="fp32"), losses(model, precision="bf16")
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


class Spy(nn.Module):
    """Notes the dtypes that a module gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dtypes: set[torch.dtype] = set()

    def forward(self, *args):
        out = self.inner(*args)
        self.dtypes.add(out.dtype)
        return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_laws_and_losses_are_fp32(precision):
    for model, network in (
        ("vae-mlp", "decoder"),
        ("vae-conv", "decoder"),
        ("ladder", "head"),
        ("ddpm", "network"),
    ):
        one = state(model, precision=precision)
        spy = Spy(getattr(one.chain, network))
        setattr(one.chain, network, spy)
        one = TrainingState(one.chain, one.config)
        for record in train(one, DATA):
            assert {record.loss.dtype, *(term.dtype for term in record.terms.values())} == {torch.float32}
            if record.step == 1:
                # Before the first step the distributions of two examples are checked, in fp32.
                spy.dtypes.clear()
        assert spy.dtypes == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {tensor.dtype for tensor in one.tensors().values()} == {torch.float32}


@pytest.mark.parametrize("model", MODELS)
def test_laws_of_networks_in_bf16_are_fp32(model):
    chain = state(model, precision="bf16").chain
    with autocast(torch.bfloat16, CPU):
        links = [(link, link.p, link.q) for link in infer(chain, DATA.train.x[:4])]
    for link, *laws in links:
        for law in laws:
            law = getattr(law, "part", law)
            assert law is None or {law.loc.dtype, law.scale.dtype} == {torch.float32}
        assert link.t == 0 or link.value.dtype == torch.float32


@pytest.mark.parametrize(("gain", "taken"), [(3.0, torch.bfloat16), (0.6, torch.float32)])
def test_auto_precision_is_bf16_for_convolutions_where_it_is_faster(gain, taken, monkeypatch):
    spec = DATA.spec
    mlp, conv = (build_chain(MODELS[name], spec) for name in ("vae-mlp", "vae-conv"))
    monkeypatch.setattr(precision, "_cpu_gain", lambda network: gain)
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: True, raising=False)
    assert compute_dtype("auto", CPU, conv) == taken
    assert compute_dtype("auto", CPU, mlp, rows=999) == torch.float32
    assert compute_dtype("auto", CPU, mlp, rows=1000) == taken
    assert compute_dtype("auto", CPU, build_chain(MODELS["vae-conv"], spec).double()) == torch.float32
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, probe)
    assert compute_dtype("auto", CPU, conv) == torch.float32
    assert compute_dtype("bf16", CPU, mlp) == torch.bfloat16
    assert compute_dtype("fp32", CPU, conv) == torch.float32


@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_what_a_processor_gains_is_measured_once(network):
    assert precision._cpu_gain(network) > 0.0
    assert precision._cpu_gain(network) == precision._cpu_gain(network)


def test_fp32_is_not_autocast_at_all():
    with autocast(torch.float32, CPU):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(torch.bfloat16, CPU):
        assert torch.is_autocast_enabled("cpu")
