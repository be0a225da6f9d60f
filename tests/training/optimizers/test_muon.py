"""Muon: orthogonal steps of matrices against their singular values, torch's own, and what AdamW keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ancestral.training import TrainingState, train
from ancestral.training.flat import buckets, is_matrix
from ancestral.training.optimizers.muon import MOMENTUM, Muon, orthogonalised
from tiny import MODELS, TRAINING, built, images

MUON = replace(TRAINING, optimizer="muon")


def by_singular_values(matrix: Tensor) -> Tensor:
    """The iteration as what it does to singular values: s ← 3.4445 s − 4.7750 s³ + 2.0315 s⁵, five times."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(8, 8), (9, 40), (40, 9)])
def test_singular_values_become_nearly_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e5])[:, None, None]
    found = orthogonalised(matrices, dtype=torch.float64)
    for matrix, one in zip(matrices, found, strict=True):
        torch.testing.assert_close(one, by_singular_values(matrix))
        large = torch.linalg.svdvals(matrix) > 0.05 * torch.linalg.matrix_norm(matrix)
        near = torch.linalg.svdvals(one)
        assert float(near.max()) < 1.3
        assert int((near > 0.65).sum()) >= int(large.sum())


def test_a_gradient_of_zeros_moves_nothing():
    assert torch.equal(orthogonalised(torch.zeros(1, 9, 9), dtype=torch.float32), torch.zeros(1, 9, 9))


@pytest.mark.filterwarnings("default")
def test_steps_are_those_of_torch_s_muon():
    """Which takes 0.2 of our scale, at most, and iterates in bf16."""
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(12, 30))
    theirs = nn.Parameter(ours.detach().clone())
    (bucket,) = buckets({"matrix": ours}, is_matrix)
    one = Muon(bucket, weight_decay=0.1, dtype=torch.float32)
    other = torch.optim.Muon(
        [theirs], lr=0.05, weight_decay=0.02, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    start = ours.detach().clone()
    for _ in range(6):
        gradient = torch.randn(12, 30)
        assert ours.grad is not None
        ours.grad.copy_(gradient)
        theirs.grad = gradient.clone()
        one.step(0.01)
        other.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    assert float((moved - expected).norm() / expected.norm()) < 0.02


@pytest.mark.usefixtures("float64")
def test_a_kernel_is_the_matrix_of_what_an_output_reads_in_any_layout():
    torch.manual_seed(0)
    kernel, gradient = torch.randn(9, 8, 3, 3), torch.randn(9, 8, 3, 3)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(kernel.clone().contiguous(memory_format=layout))
        (bucket,) = buckets({"kernel": p}, is_matrix)
        assert p.grad is not None
        p.grad.copy_(gradient)
        Muon(bucket, weight_decay=0.5, dtype=torch.float64).step(0.01)
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[0], ends[1])
    # Nesterov's momentum of a first gradient is a multiple of it.
    step = math.sqrt(72) * 0.01 * by_singular_values(gradient.flatten(1)).unflatten(1, (8, 3, 3))
    torch.testing.assert_close(ends[0], kernel * (1 - 0.01 * 0.5) - step)


def test_what_is_no_matrix_goes_to_adamw():
    """Vectors, images of three axes, and matrices with few rows or columns."""
    shapes = {(9, 9): True, (8, 2, 2, 2): True, (7, 40): False, (9,): False, (8, 9, 9): False, (): False}
    for shape, expected in shapes.items():
        assert is_matrix(nn.Parameter(torch.zeros(shape))) == expected, shape
    data = images()
    one = TrainingState(built(MODELS["ladder"], data), MUON)
    of_muon = {name for muon in one.matrix_optimizers for name in muon.bucket.places}
    assert of_muon == {name for name, p in one.parameters.items() if is_matrix(p)}
    for name in one.parameters:
        assert (f"optimizer/momentum/{name}" in one.tensors()) == (name in of_muon)
        assert (f"optimizer/exp_avg_sq/{name}" in one.tensors()) == (name not in of_muon)


def test_the_rest_is_adamw_s_step():
    """From the same gradients, what is not Muon's moves as it does where all is AdamW's."""
    data = images()
    states = []
    for training in (MUON, TRAINING):
        torch.manual_seed(0)
        states.append(TrainingState(built(MODELS["vae-conv"], data), training))
    muon, adamw = states
    torch.manual_seed(1)
    for name, p in muon.parameters.items():
        gradient = torch.randn_like(p)
        for one in states:
            grad = one.parameters[name].grad
            assert grad is not None
            grad.copy_(gradient)
    muon.update()
    adamw.update()
    for name, p in muon.parameters.items():
        assert torch.equal(p, adamw.parameters[name]) != is_matrix(p), name


def test_a_model_of_matrices_alone_has_no_adamw():
    data = images()
    chain = built(MODELS["vae-mlp"], data)
    for name, p in chain.named_parameters():
        p.requires_grad_(name == "encoder.1.linear0.weight")
    one = TrainingState(chain, MUON)
    assert one.optimizer is None
    before = {name: p.detach().clone() for name, p in one.parameters.items()}
    kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    assert [record.step for record in train(one, data)] == [1, 2, 3, 4, 5, 6, 7]
    assert all(not torch.equal(p, before[name]) for name, p in one.parameters.items())
    one.restore(kept, 0)
    assert all(torch.equal(p, before[name]) for name, p in one.parameters.items())


def test_it_lowers_a_loss_that_adamw_takes_longer_for():
    """‖W A − B‖² with A of condition number 1000: in the directions that hardly show in a gradient, too."""
    torch.manual_seed(0)
    scales = torch.logspace(0, -3, 16)
    a, target = scales[:, None] * torch.linalg.qr(torch.randn(16, 16))[0], torch.randn(16, 16)
    losses = {}
    for name in ("muon", "adamw"):
        w = nn.Parameter(torch.zeros(16, 16))
        (bucket,) = buckets({"w": w}, is_matrix)
        muon = Muon(bucket, weight_decay=0.0, dtype=torch.float32)
        adamw = torch.optim.AdamW([bucket.weight], weight_decay=0.0)
        for step in range(300):
            loss = ((w - target) @ a).square().sum()
            bucket.gradient.zero_()
            loss.backward()
            rate = 0.05 * (1 - step / 300)
            adamw.param_groups[0]["lr"] = rate
            muon.step(rate) if name == "muon" else adamw.step()
        losses[name] = float(((w.detach() - target) @ a).square().sum())
    assert losses["muon"] < losses["adamw"] < 0.1
