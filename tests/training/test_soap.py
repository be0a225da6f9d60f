"""SOAP: its steps against the paper's algorithm written out, turned bases, and what it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ancestral.training import TrainingState
from ancestral.training.flat import Bucket, buckets
from ancestral.training.muon import is_matrix
from ancestral.training.soap import BETAS, EVERY, Soap
from tiny import MODELS, TRAINING, built, images

pytestmark = pytest.mark.usefixtures("float64")


def started(**matrices: Tensor) -> tuple[dict[str, nn.Parameter], Bucket]:
    named = {name: nn.Parameter(value.clone()) for name, value in matrices.items()}
    (bucket,) = buckets(named, is_matrix)
    return named, bucket


def written_out(weight: Tensor, gradients: list[Tensor], *, rate: float, decay: float) -> Tensor:
    """Algorithm 3 with the first moment in the weights' own basis, for one matrix with both sides turned."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    left, right = (torch.zeros(n, n) for n in weight.shape)
    for step, g in enumerate(gradients):
        left, right = 0.99 * left + 0.01 * g @ g.T, 0.99 * right + 0.01 * g.T @ g
        if step in (0, EVERY):
            ql, qr = (torch.linalg.eigh(factor).eigenvectors.flip(1) for factor in (left, right))
        elif step % EVERY == 0:
            ql, qr = torch.linalg.qr(left @ ql).Q, torch.linalg.qr(right @ qr).Q
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * (ql.T @ g @ qr) ** 2
        first = ql.T @ m @ qr / (1 - BETAS[0] ** (step + 1))
        second = v / (1 - BETAS[1] ** (step + 1))
        weight = weight * (1 - rate * decay) - rate * ql @ (first / (second.sqrt() + 1e-8)) @ qr.T
    return weight


def test_steps_are_those_of_the_algorithm_written_out():
    """Two matrices of one shape and one of another, over two renewals of the bases by iteration."""
    torch.manual_seed(0)
    starts = {"a": torch.randn(9, 9), "b": torch.randn(9, 9), "c": torch.randn(12, 12)}
    given = {name: [torch.randn_like(w) for _ in range(3 * EVERY + 2)] for name, w in starts.items()}
    named, bucket = started(**starts)
    one = Soap(bucket, weight_decay=0.1, dtype=torch.float64)
    for step in range(3 * EVERY + 2):
        for name, p in named.items():
            assert p.grad is not None
            p.grad.copy_(given[name][step])
        one.step(0.01)
    for name, start in starts.items():
        expected = written_out(start, given[name], rate=0.01, decay=0.1)
        # The first gradient has zeros off the diagonal of its own basis: 1e-16 of rounding over ε = 1e-8.
        torch.testing.assert_close(named[name].detach(), expected, rtol=1e-6, atol=1e-6)
        assert float((expected - start).abs().mean()) > 0.01


def test_turning_both_sides_turns_the_steps():
    """Which is what AdamW lacks: of W = U W′ Vᵀ the gradients are U G′ Vᵀ, and so is each step."""
    torch.manual_seed(0)
    start, gradients = torch.randn(10, 10), torch.randn(25, 10, 10)
    gradients = gradients * torch.logspace(0, -2, 10)
    u, v = (torch.linalg.qr(torch.randn(10, 10)).Q for _ in range(2))

    def moved(kind: str, u: Tensor, v: Tensor) -> Tensor:
        """The end, turned back."""
        named, bucket = started(w=u @ start @ v.T)
        adamw = torch.optim.AdamW([bucket.weight], lr=0.01, weight_decay=0.0)
        one = Soap(bucket, weight_decay=0.0, dtype=torch.float64)
        for g in gradients:
            assert named["w"].grad is not None
            named["w"].grad.copy_(u @ g @ v.T)
            one.step(0.01) if kind == "soap" else adamw.step()
        return u.T @ named["w"].detach() @ v

    plain = torch.eye(10)
    torch.testing.assert_close(moved("soap", u, v), moved("soap", plain, plain), rtol=1e-5, atol=1e-5)
    difference = (moved("adamw", u, v) - moved("adamw", plain, plain)).abs().max()
    assert float(difference) > 0.01


def test_a_long_side_keeps_its_own_basis():
    """And with two long sides it is Adam."""
    torch.manual_seed(0)
    named, bucket = started(w=torch.randn(9, 300), v=torch.randn(300, 257))
    one = Soap(bucket, weight_decay=0.0, dtype=torch.float64)
    kept = {name for name, _ in one.moments()}
    assert {"rows_basis/w", "rows_factor/w"} <= kept
    assert not any(name.endswith("/v") and name.startswith(("rows", "columns")) for name in kept)
    assert "columns_basis/w" not in kept
    theirs = nn.Parameter(named["v"].detach().clone())
    adam = torch.optim.Adam([theirs], lr=0.01, betas=BETAS)
    for _ in range(12):
        bucket.gradient.normal_()
        assert named["v"].grad is not None
        theirs.grad = named["v"].grad.clone()
        one.step(0.01)
        adam.step()
    torch.testing.assert_close(named["v"].detach(), theirs.detach(), rtol=1e-9, atol=1e-9)
    basis = dict(one.moments())["rows_basis/w"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(9))


def test_skipped_steps_are_not_seen():
    """Left out one after another, also where a basis would be renewed: the same as never having come."""
    torch.manual_seed(0)
    start = torch.randn(9, 9)
    skipped = {0, 1, 4, EVERY, EVERY + 1, 2 * EVERY + 3}
    ends = []
    for spoilt in (float("nan"), 1e9):
        torch.manual_seed(1)
        named, bucket = started(w=start)
        one = Soap(bucket, weight_decay=0.1, dtype=torch.float64)
        for step in range(3 * EVERY):
            bucket.gradient.normal_()
            skip = torch.tensor(float(step in skipped))
            before = {name: tensor.clone() for name, tensor in one.moments()}
            if step in skipped:
                bucket.gradient.fill_(spoilt)
            one.step(0.01, skip)
            if step in skipped:
                assert all(torch.equal(tensor, before[name]) for name, tensor in one.moments())
        ends.append(named["w"].detach())
    assert torch.equal(*ends)
    assert bool(torch.isfinite(ends[0]).all())
    assert not torch.equal(ends[0], start)


def test_it_lowers_a_loss_further_than_adamw():
    """Whose steep directions are mixtures of weights and of which only noisy gradients are seen."""
    torch.manual_seed(0)
    turn, other = (torch.linalg.qr(torch.randn(16, 16)).Q for _ in range(2))
    a = turn @ torch.diag(torch.logspace(0, -3, 16)) @ other
    target, losses = torch.randn(16, 16), {}
    for name in ("soap", "adamw"):
        torch.manual_seed(1)
        named, bucket = started(w=torch.zeros(16, 16))
        soap = Soap(bucket, weight_decay=0.0, dtype=torch.float64)
        adamw = torch.optim.AdamW([bucket.weight], weight_decay=0.0)
        for step in range(400):
            bucket.gradient.zero_()
            seen = a @ torch.randn(16, 32) / 32**0.5
            ((named["w"] - target) @ seen).square().sum().backward()
            rate = 0.05 * (1 - step / 400)
            adamw.param_groups[0]["lr"] = rate
            soap.step(rate) if name == "soap" else adamw.step()
        losses[name] = float(((named["w"].detach() - target) @ a).square().sum())
    assert losses["soap"] < 0.5 * losses["adamw"]
    assert losses["adamw"] < 0.1


def test_what_is_no_matrix_goes_to_adamw_and_a_checkpoint_has_it_all():
    data = images()
    one = TrainingState(built(MODELS["vae-mlp"], data), replace(TRAINING, optimizer="soap"))
    kept = one.tensors()
    for name, p in one.parameters.items():
        assert (f"optimizer/turned_avg/{name}" in kept) == is_matrix(p)
        assert (f"optimizer/rows_basis/{name}" in kept) == (is_matrix(p) and len(p) <= 256)
        assert (f"optimizer/exp_avg/{name}" in kept) == (not is_matrix(p))
