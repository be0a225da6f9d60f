"""SOAP: its steps against the paper's algorithm written out, turned bases, and what it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ancestral.training import TrainingState, train
from ancestral.training.flat import Bucket, buckets, is_matrix
from ancestral.training.optimizers.soap import BETAS, EVERY, Soap
from tiny import MODELS, TRAINING, built, images

pytestmark = pytest.mark.usefixtures("float64")


def started(**matrices: Tensor) -> tuple[dict[str, nn.Parameter], Bucket]:
    named = {name: nn.Parameter(value.clone()) for name, value in matrices.items()}
    (bucket,) = buckets(named, is_matrix)
    return named, bucket


def written_out(weight: Tensor, gradients: list[Tensor], *, rate: float, decay: float) -> Tensor:
    """Algorithm 3 with the first moment in the weights' own basis, for one matrix with both sides turned.

    As in it, bases are brought up to date after a step, and the first gradient is for them alone.
    """
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    left, right = (torch.zeros(n, n) for n in weight.shape)
    ql, qr = left, right
    for step, g in enumerate(gradients):
        if step > 0:
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * (ql.T @ g @ qr) ** 2
            first = ql.T @ m @ qr / (1 - BETAS[0] ** step)
            second = v / (1 - BETAS[1] ** step)
            weight = weight * (1 - rate * decay) - rate * ql @ (first / (second.sqrt() + 1e-8)) @ qr.T
        left, right = 0.99 * left + 0.01 * g @ g.T, 0.99 * right + 0.01 * g.T @ g
        if step < 50 and step % EVERY == 0:
            ql, qr = (torch.linalg.eigh(factor).eigenvectors.flip(1) for factor in (left, right))
        elif step % EVERY == 0:
            ql, qr = torch.linalg.qr(left @ ql).Q, torch.linalg.qr(right @ qr).Q
    return weight


def test_steps_are_those_of_the_algorithm_written_out():
    """Two matrices of one shape and one of another, over renewals of the bases anew and by iteration."""
    torch.manual_seed(0)
    starts = {"a": torch.randn(9, 9), "b": torch.randn(9, 9), "c": torch.randn(12, 12)}
    given = {name: [torch.randn_like(w) for _ in range(7 * EVERY + 2)] for name, w in starts.items()}
    named, bucket = started(**starts)
    one = Soap(bucket, weight_decay=0.1, dtype=torch.float64)
    for step in range(7 * EVERY + 2):
        for name, p in named.items():
            assert p.grad is not None
            p.grad.copy_(given[name][step])
        one.step(0.01)
    for name, start in starts.items():
        expected = written_out(start, given[name], rate=0.01, decay=0.1)
        torch.testing.assert_close(named[name].detach(), expected, rtol=1e-9, atol=1e-9)
        assert float((expected - start).abs().mean()) > 0.01


def test_turning_both_sides_turns_the_steps():
    """Which is what AdamW lacks: of W = U W′ Vᵀ the gradients are U G′ Vᵀ, and so is each step."""
    torch.manual_seed(0)
    start, gradients = torch.randn(10, 10), torch.randn(65, 10, 10)
    gradients = gradients * torch.logspace(0, -1, 10)
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
    torch.testing.assert_close(moved("soap", u, v), moved("soap", plain, plain), rtol=1e-8, atol=1e-8)
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
    for step in range(12):
        bucket.gradient.normal_()
        assert named["v"].grad is not None
        theirs.grad = named["v"].grad.clone()
        one.step(0.01)
        if step > 0:
            adam.step()
    torch.testing.assert_close(named["v"].detach(), theirs.detach(), rtol=1e-9, atol=1e-9)
    basis = dict(one.moments())["rows_basis/w"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(9))


@pytest.mark.parametrize("skipped", [{0, 1, 4}, {13, 14}, {2 * EVERY, 6 * EVERY}])
def test_a_skipped_step_changes_nothing_of_it(skipped):
    """At the start, between renewals of the bases, and where they would be renewed anew and by iteration."""
    torch.manual_seed(0)
    named, bucket = started(w=torch.randn(9, 9))
    one = Soap(bucket, weight_decay=0.1, dtype=torch.float64)
    for step in range(7 * EVERY):
        bucket.gradient.normal_()
        if step in skipped:
            bucket.gradient.fill_(float("nan"))
        before = {name: tensor.clone() for name, tensor in one.moments()}
        weight = named["w"].detach().clone()
        one.step(0.01, torch.tensor(float(step in skipped)))
        same = all(torch.equal(tensor, before[name]) for name, tensor in one.moments())
        assert same == (step in skipped)
        assert torch.equal(weight, named["w"]) == (step in skipped or step == 0 or {*range(step)} <= skipped)
    assert bool(torch.isfinite(named["w"]).all())


def test_skipped_steps_are_as_if_they_had_not_come():
    """Between two renewals of the bases, which are of all steps, it is the run without them."""
    torch.manual_seed(0)
    start, gradients = torch.randn(9, 9), torch.randn(EVERY + 4, 9, 9)
    ends = []
    for kept in (range(EVERY + 4), [step for step in range(EVERY + 4) if step not in (EVERY + 1, EVERY + 2)]):
        named, bucket = started(w=start)
        one = Soap(bucket, weight_decay=0.1, dtype=torch.float64)
        for step in kept:
            assert named["w"].grad is not None
            named["w"].grad.copy_(gradients[step])
            left_out = len(kept) == EVERY + 4 and step in (EVERY + 1, EVERY + 2)
            one.step(0.01, torch.tensor(float(left_out)))
        ends.append(named["w"].detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_step_is_of_rounding(dtype):
    """In its own bases the first gradient is diagonal, and Adam would make steps of the noise beside it."""
    torch.manual_seed(0)
    named, bucket = started(w=torch.zeros(50, 60, dtype=torch.float32))
    one = Soap(bucket, weight_decay=0.0, dtype=dtype)
    for step in range(12):
        gradient = torch.randn(50, 60, dtype=torch.float32) * torch.logspace(0, -2, 60, dtype=torch.float32)
        assert named["w"].grad is not None
        named["w"].grad.copy_(gradient)
        before = named["w"].detach().clone()
        one.step(1.0)
        moved = before - named["w"].detach()
        assert bool(moved.any()) == (step > 0)
        if step > 0:
            assert float(moved.square().mean().sqrt()) < 1.2
            along = float(torch.cosine_similarity(moved.flatten(), gradient.flatten(), dim=0))
            assert along > (0.2 if step == 1 else 0.0)


def test_a_gradient_that_is_no_number_is_told_by_the_weights():
    named, bucket = started(w=torch.ones(9, 9))
    one = Soap(bucket, weight_decay=0.0, dtype=torch.float64)
    for _ in range(2):
        bucket.gradient.fill_(float("nan"))
        one.step(0.01)
    assert bool(named["w"].isnan().all())


def test_kernels_are_the_same_in_any_layout():
    """Of 288 columns, which keep their own basis: of 72, fewer gradients than that leave some of it open."""
    torch.manual_seed(0)
    kernel, gradients = torch.randn(9, 32, 3, 3), torch.randn(25, 9, 32, 3, 3)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        named, bucket = started(kernel=kernel.contiguous(memory_format=layout))
        one = Soap(bucket, weight_decay=0.5, dtype=torch.float64)
        for g in gradients:
            assert named["kernel"].grad is not None
            named["kernel"].grad.copy_(g)
            one.step(0.01)
        ends.append(named["kernel"].detach().clone())
    torch.testing.assert_close(ends[0], ends[1].contiguous())
    assert float((ends[0] - kernel).abs().mean()) > 0.01


@pytest.mark.parametrize("optimizer", ["muon", "soap"])
def test_a_run_goes_on_in_the_precision_that_it_was_started_in(optimizer):
    """Where another machine would choose another: by the checkpoint's decisions, for the optimiser, too."""
    torch.set_default_dtype(torch.float32)
    data = images()
    options = {"optimizer": optimizer, "steps": 25}
    states = []
    for precision in ("bf16", "fp32"):
        torch.manual_seed(0)
        states.append(
            TrainingState(built(MODELS["vae-mlp"], data), replace(TRAINING, precision=precision, **options))
        )
    first, second = states
    for _, _ in zip(range(13), train(first, data), strict=False):
        pass
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second.restore(kept, first.images_seen, first.decisions())
    list(train(first, data))
    list(train(second, data))
    ends = [state.tensors() for state in states]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


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
