"""Laws with a flow: densities that integrate to 1 and are the change of variables; what draws leave."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from ancestral.core.walk import has_closed_kl
from ancestral.distributions import DiagonalNormal, standard_normal
from ancestral.distributions.flow import FLOWS, LARGEST, FlowNormal, NormalizingFlow

pytestmark = pytest.mark.usefixtures("float64")
each_kind = pytest.mark.parametrize("kind", FLOWS)
EXACT = {"atol": 1e-9, "rtol": 1e-9}


def bent(kind: str, features: int, *, context: int = 3, seed: int = 0, by: float = 0.3) -> NormalizingFlow:
    """A flow that is far from the identity."""
    torch.manual_seed(seed)
    flow = NormalizingFlow(kind, features, context, transforms=3, hidden=(16, 8), bins=5)
    for parameter in flow.parameters():
        parameter.data += by * torch.randn(parameter.shape)
    return flow


def law(flow: NormalizingFlow, shape: tuple[int, ...]) -> FlowNormal:
    """A law over (n, d, …) around some diagonal one."""
    context = torch.randn(shape[0], flow.context, *shape[2:])
    return FlowNormal(DiagonalNormal(torch.randn(shape), 0.3 + torch.rand(shape)), flow, context)


def grid(q: FlowNormal, points: int = 201) -> tuple[Tensor, Tensor]:
    """Points (points², 2) over a rectangle that holds a law of two numbers, and the area of one's cell."""
    drawn = q.sample((5000,))[:, 0]
    low, high = drawn.amin(0), drawn.amax(0)
    low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
    axes = [torch.linspace(float(a), float(b), points) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes), ((high - low) / (points - 1)).prod()


def copy(value: Tensor) -> Tensor:
    return value.detach().clone()


@each_kind
def test_a_flow_starts_as_the_identity(kind):
    for shape in ((5, 3), (5, 1), (4, 2, 3, 3)):
        q = law(NormalizingFlow(kind, shape[1], 3, hidden=(16,)), shape)
        z = torch.randn(shape)
        torch.testing.assert_close(q.log_prob(z), q.around.log_prob(z), **EXACT)
        torch.testing.assert_close(q.centre, q.around.loc, **EXACT)
        torch.manual_seed(3)
        drawn = q.rsample()
        torch.testing.assert_close(q.log_prob(drawn), q.around.log_prob(drawn), **EXACT)


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_a_density_integrates_to_one(kind, seed):
    q = law(bent(kind, 2, seed=seed), (1, 2))
    with torch.no_grad():
        z, cell = grid(q)
        density, plain = q.log_prob(z).exp(), q.around.log_prob(z).exp()
    assert float(density.sum() * cell) == pytest.approx(1.0, abs=2e-3)
    # It is another law, and not the one around which it is.
    assert float((density - plain).abs().sum() / plain.sum()) > 0.2


@each_kind
@pytest.mark.parametrize("features", [1, 2, 5])
def test_a_density_is_the_change_of_variables(kind, features):
    """log q(T(ε)) = log N(ε) − log |det ∂T/∂ε|, with the Jacobian from autograd."""
    flow = bent(kind, features)
    loc, scale, context = torch.randn(1, features), 0.3 + torch.rand(1, features), torch.randn(1, 3)
    q = FlowNormal(DiagonalNormal(loc, scale), flow, context)
    for _ in range(5):
        eps = torch.randn(features)

        def drawn(e: Tensor) -> Tensor:
            return (loc + scale * flow(e[None], context)[0])[0]

        jacobian = torch.autograd.functional.jacobian(drawn, eps)
        expected = DiagonalNormal(torch.zeros(1, features), torch.ones(1, features)).log_prob(eps[None])
        expected = expected - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(q.log_prob(drawn(eps)[None]), expected, atol=1e-7, rtol=1e-7)


@each_kind
@pytest.mark.parametrize("shape", [(6, 4), (6, 1), (3, 2, 3, 4)])
def test_a_draw_leaves_the_density_that_a_copy_of_it_has(kind, shape, monkeypatch):
    q = law(bent(kind, shape[1]), shape)
    z = q.rsample()
    assert (q.batch_shape, q.event_shape, z.shape) == (shape[:1], shape[1:], shape)
    expected = q.log_prob(copy(z))
    assert expected.shape == shape[:1]
    torch.testing.assert_close(q.log_prob(z), expected, atol=1e-7, rtol=1e-7)
    # Another value has another density, and after another draw the first has its own still.
    assert (q.log_prob(z + 0.1) != expected).all()
    q.rsample()
    torch.testing.assert_close(q.log_prob(z), expected, atol=1e-7, rtol=1e-7)
    # The value drawn last costs no inverse.
    z = q.rsample()
    monkeypatch.setattr(q.flow, "inverse", None)
    assert bool(torch.isfinite(q.log_prob(z)).all())


@each_kind
def test_a_value_changed_in_place_is_another_value(kind):
    q = law(bent(kind, 3), (4, 3))
    with torch.no_grad():
        z = q.rsample()
        z += 1.0
        torch.testing.assert_close(q.log_prob(z), q.log_prob(copy(z)), **EXACT)


@each_kind
def test_gradients_of_the_density_a_draw_leaves(kind):
    """Through the draw and through the law, as those of a copy that is still bound to both."""
    q = law(bent(kind, 3), (4, 3))
    parameters = [*q.flow.parameters()]
    torch.manual_seed(1)
    z = q.rsample()
    left = torch.autograd.grad(q.log_prob(z).sum(), parameters, retain_graph=True)
    bound = torch.autograd.grad(q.log_prob(z.clone()).sum(), parameters, retain_graph=True)
    for a, b in zip(left, bound, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    # A detached copy is a constant: the score, whose mean is 0, and which is not the gradient above.
    score = torch.autograd.grad(q.log_prob(copy(z)).sum(), parameters)
    assert max(float((a - b).abs().max()) for a, b in zip(left, score, strict=True)) > 1e-3
    # A draw without a graph has a density with one.
    z = q.sample()
    assert q.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad


@each_kind
def test_draws_have_the_density(kind):
    """The mean of q's own log density over its draws is the quadrature's."""
    q = law(bent(kind, 2), (1, 2))
    with torch.no_grad():
        z, cell = grid(q)
        log_q = q.log_prob(z)
        expected = float((log_q.exp() * log_q).sum() * cell)
        found = q.log_prob(q.sample((4000,))[:, 0])
    assert abs(float(found.mean()) - expected) < 4.0 * float(found.std()) / 4000**0.5 + 1e-3


@each_kind
def test_the_context_bends_the_law_of_its_own_example_and_position(kind):
    flow = bent(kind, 2)
    around = DiagonalNormal(torch.zeros(3, 2, 2, 2), torch.ones(3, 2, 2, 2))
    context, z = torch.randn(3, 3, 2, 2), torch.randn(3, 2, 2, 2)
    before = FlowNormal(around, flow, context).log_prob(z)
    changed = context.clone()
    changed[1, :, 0, 1] += 1.0
    after = FlowNormal(around, flow, changed).log_prob(z)
    assert ((before != after) == torch.tensor([False, True, False])).all()
    # An image's density is the product of its positions', each with the flow they share.
    parts = [
        FlowNormal(
            DiagonalNormal(around.loc[..., i, j], around.scale[..., i, j]), flow, context[..., i, j]
        ).log_prob(z[..., i, j])
        for i in range(2)
        for j in range(2)
    ]
    torch.testing.assert_close(before, sum(parts), **EXACT)


@each_kind
def test_flows_stay_in_fp32_under_autocast(kind):
    flow, loc = bent(kind, 3).float(), torch.zeros(4, 3, dtype=torch.float32)
    context = torch.randn(4, 3, dtype=torch.float32)
    expected = FlowNormal(DiagonalNormal(loc, loc + 1.0), flow, context)
    torch.manual_seed(1)
    z = expected.rsample()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = FlowNormal(DiagonalNormal(loc, loc + 1.0), flow, context)
        torch.manual_seed(1)
        again = q.rsample()
        assert torch.equal(q.log_prob(again), expected.log_prob(z))
        assert torch.equal(q.log_prob(copy(again)), expected.log_prob(copy(z)))
    assert again.dtype == torch.float32
    assert torch.equal(again, z)


def test_what_a_flow_refuses(monkeypatch):
    with pytest.raises(ValueError, match="the kind of a flow is 'maf'; it must be one of iaf, spline"):
        NormalizingFlow("maf", 2, 3)
    with pytest.raises(ValueError, match=f"taken over is {LARGEST + 1}; it must be from 1 to {LARGEST}"):
        NormalizingFlow("iaf", LARGEST + 1, 3)
    with pytest.raises(ValueError, match=r"a hidden layer of a flow over 9 entries is 8; .* least 9"):
        NormalizingFlow("iaf", 9, 3, hidden=(9, 8))
    with pytest.raises(ValueError, match="bins is 1"):
        NormalizingFlow("spline", 2, 3, bins=1)
    assert not has_closed_kl(
        law(NormalizingFlow("iaf", 2, 3), (1, 2)), standard_normal(1, (2,), torch.zeros(1))
    )
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ValueError, match=r"q is 'iaf', .* needs zuko: pip install 'ancestral\[flows\]'"):
        NormalizingFlow("iaf", 2, 3)


def test_every_entry_is_read_by_those_behind_it():
    """Of two maps in opposite orders every output depends on every input."""
    flow = bent("iaf", 6)
    context = torch.zeros(1, 3)
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, context)[0][0], torch.randn(1, 6))[:, 0]
    assert (jacobian != 0).all()
    first = nn.ModuleList(flow.maps)[0]
    of_one = torch.autograd.functional.jacobian(lambda e: first(context)(e)[0], torch.randn(1, 6))[:, 0]
    assert torch.equal(of_one != 0, torch.ones(6, 6).tril().bool())
