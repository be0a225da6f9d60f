"""The four targets of a DDPM: converted into one another exactly, and one reverse law from all four."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ancestral.config import DDPMConfig
from ancestral.core.batch import Batch
from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal
from ancestral.distributions.discretized import DiscretizedNormal
from ancestral.models.diffusion import (
    PARAMETRIZATIONS,
    ContinuousDiffusion,
    Diffusion,
    GaussianDiffusion,
    LogLinear,
    MeanPrediction,
    variance_of,
)
from ancestral.models.diffusion.schedules import Schedule
from ancestral.objectives import Hybrid, Objective, OneLevel, Simple
from ancestral.parts.scaling import Scaling
from ancestral.sampling import Ancestral, trajectory
from ancestral.sampling import draw as drawn

pytestmark = pytest.mark.usefixtures("float64")

T = 12
SPEC = DataSpec((2, 3, 3), levels=8)
VARIANCES = ("posterior", "beta", "learned")
LOSSES = ("simple", "min-snr", "hybrid", "vlb")


def objective(loss: str, chain: GaussianDiffusion) -> Objective:
    if loss == "vlb":
        return OneLevel(chain)
    if loss == "hybrid":
        return Hybrid(chain)
    return Simple(chain, min_snr=5.0 if loss == "min-snr" else None)


class Fixed(nn.Module):
    """A network that answers with a given tensor, and remembers what it was asked."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        self.z, self.time = z, time
        return self.out


def ddpm(
    out: Tensor,
    *,
    spec: DataSpec = SPEC,
    schedule: Schedule | None = None,
    prediction: str = "noise",
    variance: str = "posterior",
) -> Diffusion:
    return Diffusion(
        Fixed(out),
        Schedule.cosine(T) if schedule is None else schedule,
        scaling=Scaling(spec),
        parametrization=PARAMETRIZATIONS[prediction],
        variance=variance_of(variance),
    )


def draw(n: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, 3, 3), torch.randn(n, 2, 3, 3)


def by_definition(prediction: str, u: Tensor, eps: Tensor, schedule: Schedule, t: int) -> Tensor:
    """The target as the notes define it, from the data and the noise."""
    bar, before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    beta = schedule.betas[t - 1]
    z = bar.sqrt() * u + (1 - bar).sqrt() * eps
    mean = (before.sqrt() * beta * u + (1 - beta).sqrt() * (1 - before) * z) / (1 - bar)
    return {"noise": eps, "data": u, "mean": mean, "velocity": bar.sqrt() * eps - (1 - bar).sqrt() * u}[
        prediction
    ]


@pytest.mark.parametrize("prediction", PARAMETRIZATIONS)
@pytest.mark.parametrize("build", [Schedule.cosine, Schedule.log_linear, Schedule.sigmoid])
def test_targets_convert_round_trip_at_every_level(prediction, build):
    schedule = build(T)
    u, eps = draw()
    chain = ddpm(u, prediction=prediction, schedule=schedule)
    for t in range(1, T + 1):
        k = chain.closed_forms(u, t)
        z = k.signal * u + k.noise * eps
        target = chain.parametrization.from_data(u, z, k)
        # The mean is read through c_0, which is small where ᾱ is: the round trip loses as many digits.
        exact = 1e-13 / float(torch.minimum(k.c0, k.signal).min())
        torch.testing.assert_close(
            target, by_definition(prediction, u, eps, schedule, t), atol=1e-10, rtol=1e-9
        )
        torch.testing.assert_close(
            chain.parametrization.to_data(target, z, k), u, atol=max(exact, 1e-12), rtol=1e-9
        )


@pytest.mark.parametrize("t", [1, 2, 7, T])
def test_the_four_parametrisations_are_one_reverse_law(t):
    u, eps = draw()
    schedule = Schedule.log_linear(T, first=5.0, last=-5.0)
    spec = DataSpec((2, 3, 3))
    means = []
    for prediction in PARAMETRIZATIONS:
        chain = ddpm(u, spec=spec, prediction=prediction, schedule=schedule)
        k = chain.closed_forms(u, t)
        z = k.signal * u + k.noise * eps
        chain.network.out = by_definition(prediction, u, eps, schedule, t)
        law = chain.p_step(z, t)
        assert isinstance(law, DiagonalNormal)
        means.append(law.mean)
        assert (chain.network.time == t / T).all()
        # The right answer makes p's mean q's, and with it the KL nothing, at every level.
        if t > 1:
            q = chain.q_step(z, u, t)
            torch.testing.assert_close(law.mean, q.mean, atol=1e-9, rtol=1e-9)
            assert torch.distributions.kl_divergence(q, law).max() < 1e-15
    for mean in means[1:]:
        torch.testing.assert_close(mean, means[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(T, 1), (9, 4), (7, 6), (5, 0)])
def test_the_four_parametrisations_are_one_law_of_a_longer_step(t, s):
    """A network that was trained for the mean of t → t − 1 says the same of the data for t → s."""
    u, eps = draw()
    schedule = Schedule.log_linear(T, first=5.0, last=-5.0)
    bar_t, bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    z = bar_t.sqrt() * u + (1 - bar_t).sqrt() * eps
    step = 1 - bar_t / bar_s
    mean = (bar_s.sqrt() * step * u + (bar_t / bar_s).sqrt() * (1 - bar_s) * z) / (1 - bar_t)
    variance = step * (1 - bar_s) / (1 - bar_t) if s else step
    for prediction in PARAMETRIZATIONS:
        out = by_definition(prediction, u, eps, schedule, t)
        chain = ddpm(out, spec=DataSpec((2, 3, 3)), prediction=prediction, schedule=schedule)
        denoise = chain.denoiser()
        denoised = denoise(z, denoise.level(t))
        torch.testing.assert_close(denoised.data, u, atol=1e-9, rtol=1e-9)
        law = denoise.last(denoised, z, t) if s == 0 else denoise.step(denoised, z, t, s)
        torch.testing.assert_close(law.mean, mean, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(law.variance, variance.expand_as(u), rtol=1e-9, atol=0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_reverse_variance(variance):
    u, eps = draw()
    raw = torch.linspace(-4.0, 4.0, u.numel()).reshape(u.shape)
    schedule = Schedule.cosine(T)
    out = torch.cat([eps, raw], dim=1) if variance == "learned" else eps
    chain = ddpm(out, spec=DataSpec((2, 3, 3)), variance=variance)
    bar = schedule.alpha_bar
    for t in range(1, T + 1):
        beta = schedule.betas[t - 1]
        tilde = beta * (1 - bar[t - 1]) / (1 - bar[t])
        second = schedule.betas[1] * (1 - bar[1]) / (1 - bar[2])
        if t == 1:
            tilde = torch.minimum(second, beta) if variance == "learned" else beta
        share = torch.sigmoid(raw)
        expected = {
            "beta": beta.expand_as(u),
            "posterior": tilde.expand_as(u),
            "learned": tilde ** (1 - share) * beta**share,
        }[variance]
        torch.testing.assert_close(chain.p_step(eps, t).variance, expected, rtol=1e-9, atol=0)
        if t > 1:
            assert torch.equal(chain.p_step(eps, t).variance, chain.p_step(eps, torch.full((3,), t)).variance)


def test_levels_may_differ_within_a_batch():
    u, eps = draw(4)
    chain = ddpm(eps, prediction="velocity")
    t = torch.tensor([2, 5, 9, T])
    together = chain.p_step(u, t)
    marginal = chain.q_marginal(u, t)
    for i, level in enumerate(t.tolist()):
        chain.network.out = eps[i : i + 1]
        alone = chain.p_step(u[i : i + 1], level)
        torch.testing.assert_close(together.mean[i : i + 1], alone.mean)
        torch.testing.assert_close(marginal.mean[i : i + 1], chain.q_marginal(u[i : i + 1], level).mean)
        assert float(chain.log_snr(t)[i]) == pytest.approx(float(Schedule.cosine(T).log_snr[level - 1]))


def test_the_last_law_is_over_the_levels_of_integer_data():
    u, eps = draw()
    chain = ddpm(u, prediction="data")
    law = chain.p_step(eps, 1)
    assert isinstance(law, DiscretizedNormal)
    assert law.levels == 8
    torch.testing.assert_close(law.loc, u)
    torch.testing.assert_close(law.scale**2, Schedule.cosine(T).betas[0].expand_as(u))
    assert chain.discrete
    assert chain.sample(3).dtype == torch.uint8
    x = torch.randint(0, 8, (3, 2, 3, 3), dtype=torch.uint8)
    torch.testing.assert_close(chain.features(x), x / 3.5 - 1.0, rtol=1e-15, atol=1e-15)
    assert chain.elbo_of(x).bits_per_dim.shape == (3,)


def test_what_cannot_be_is_refused():
    out = torch.zeros(1)
    with pytest.raises(ValueError, match=r"prediction is 'nose'.*Did you mean 'noise'"):
        DDPMConfig(prediction="nose")
    with pytest.raises(ValueError, match=r"variance is 'betas'.*Did you mean 'beta'"):
        DDPMConfig(variance="betas")
    with pytest.raises(ValueError, match=r"fixed variance is 'betas'; it must be 'posterior' or 'beta'"):
        variance_of("betas")
    with pytest.raises(ValueError, match=r"loss is 'vlbo'.*Did you mean 'vlb'"):
        DDPMConfig(loss="vlbo")
    for loss in ("simple", "min-snr"):
        with pytest.raises(ValueError, match=r"gives it no gradient. Use loss 'hybrid' or 'vlb'"):
            objective(loss, ddpm(out, variance="learned"))
    with pytest.raises(ValueError, match="its second part only trains a learned variance"):
        Hybrid(ddpm(out))
    with pytest.raises(ValueError, match="gamma is 0"):
        Simple(ddpm(out), min_snr=0.0)
    with pytest.raises(ValueError, match="vlb_weight is 0"):
        Hybrid(ddpm(out, variance="learned"), vlb_weight=0.0)
    with pytest.raises(ValueError, match="sampling is 'odd'; it must be one of"):
        OneLevel(ddpm(out), sampling="odd")
    limit = ContinuousDiffusion(Fixed(out), LogLinear(T), scaling=Scaling(SPEC))
    with pytest.raises(ValueError, match="T is continuous and the loss is simple"):
        Simple(limit)
    with pytest.raises(ValueError, match="prediction is 'mean', which is that of a step"):
        ContinuousDiffusion(Fixed(out), LogLinear(T), scaling=Scaling(SPEC), parametrization=MeanPrediction())
    # An objective keeps what it needs of the chain that it was made for, and knows another one.
    with pytest.raises(ValueError, match=rf"made for {T - 1} cells of levels, and the chain has 29"):
        OneLevel(ddpm(out)).check(ddpm(out, schedule=Schedule.cosine(30)))
    chain = ddpm(torch.zeros(2, 2, 3, 3))
    for steps in (0, T + 1):
        with pytest.raises(ValueError, match=f"steps is {steps}; it must be from 1 to {T}"):
            drawn(chain, 2, sampler=Ancestral(steps))
    with pytest.raises(ValueError, match="frames is 0"):
        trajectory(chain, 2, frames=0)


def test_every_loss_has_its_own_name():
    names = {
        objective(loss, ddpm(torch.zeros(1), variance="learned" if loss == "hybrid" else "beta")).name
        for loss in LOSSES
    }
    assert len(names) == len(LOSSES)


@pytest.mark.parametrize("levels", [None, 8, 256])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_every_level(levels, loss):
    """Also where the network is far off and û is thousands: noise prediction at the last of 1,000 levels."""
    torch.set_default_dtype(torch.float32)
    spec = DataSpec((2, 3, 3), levels=levels)
    learned = loss in ("hybrid", "vlb")
    out = (10.0 * torch.randn(1000, 4 if learned else 2, 3, 3)).requires_grad_()
    x = torch.randint(0, levels, (1000, 2, 3, 3)) if levels else torch.randn(1000, 2, 3, 3)
    chain = ddpm(
        out,
        spec=spec,
        schedule=Schedule.cosine(1000),
        variance="learned" if learned else "posterior",
    )
    value = objective(loss, chain).loss(chain, Batch(x)).value
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(out.grad).all()
