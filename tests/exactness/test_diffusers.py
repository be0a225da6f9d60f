"""The DDPM's formulas against the independent implementation in diffusers (which counts t from 0)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from ancestral._internal.randomness import GeneratorNoise
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion, variance_of
from ancestral.models.diffusion.schedules import Schedule, posterior, strided
from ancestral.parts.scaling import Scaling
from ancestral.sampling import Ancestral

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": lambda T: Schedule.linear(T, first=1e-4, last=0.02),
    "squaredcos_cap_v2": Schedule.cosine,
}
PREDICTIONS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}
VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large", "learned": "learned_range"}
each_schedule = pytest.mark.parametrize("name", SCHEDULES)


def theirs(name: str, T: int, **options) -> DDPMScheduler:
    """Their scheduler, its betas taken in float64 so that the formulas are compared and not roundings."""
    scheduler = DDPMScheduler(
        num_train_timesteps=T,
        beta_schedule=name,
        clip_sample=False,
        trained_betas=DDPMScheduler(num_train_timesteps=T, beta_schedule=name).betas.double().numpy(),
        **options,
    )
    scheduler.betas = SCHEDULES[name](T).betas
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


class Network(nn.Module):
    """Some nonlinear function of z and t, with a second output in (−1, 1) where the variance is learned."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        out = torch.sin(z + 3.0 * time.reshape(-1, 1, 1, 1))
        if not self.learned:
            return out
        # They read a share of (v + 1) / 2 where we read sigmoid(raw), so raw is 2 artanh(v).
        return torch.cat([out, 2.0 * torch.atanh(self.variance(z))], dim=1)

    @staticmethod
    def variance(z: Tensor) -> Tensor:
        return 0.9 * torch.cos(z)


def ours(name: str, T: int, *, prediction: str = "noise", variance: str = "posterior") -> Diffusion:
    scaling = Scaling(DataSpec((2, 3, 3)))
    scaling.shift += 0.5
    scaling.scale *= 3.0
    return Diffusion(
        Network(learned=variance == "learned"),
        SCHEDULES[name](T),
        scaling=scaling,
        parametrization=PARAMETRIZATIONS[prediction],
        variance=variance_of(variance),
    ).double()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 2, 3, 3, dtype=torch.float64)


@each_schedule
@pytest.mark.parametrize("T", [1000, 50])
def test_their_schedules_are_ours(name, T):
    scheduler, schedule = DDPMScheduler(num_train_timesteps=T, beta_schedule=name), SCHEDULES[name](T)
    torch.testing.assert_close(scheduler.betas.double(), schedule.betas, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=2e-4, atol=1e-9
    )


def test_their_default_is_our_default():
    torch.testing.assert_close(
        DDPMScheduler().alphas_cumprod.double(), Schedule.linear(1000).alpha_bar[1:], rtol=2e-4, atol=1e-9
    )


@each_schedule
def test_noising(name):
    scheduler, chain = theirs(name, 1000), ours(name, 1000)
    t = torch.tensor([1, 2, 500, 1000])
    x, eps = images(), images()
    q = chain.q_marginal(x, t)
    z = q.loc + q.scale * eps
    torch.testing.assert_close(z, scheduler.add_noise(x, eps, t - 1))
    velocity = PARAMETRIZATIONS["velocity"].from_data(x, z, chain.closed_forms(x, t))
    torch.testing.assert_close(velocity, scheduler.get_velocity(x, eps, t - 1), rtol=1e-8, atol=1e-8)


@each_schedule
@pytest.mark.parametrize("T", [1000, 30])
def test_posterior_variances(name, T):
    small = theirs(name, T)
    large = theirs(name, T, variance_type="fixed_large")
    schedule = SCHEDULES[name](T)
    bar = schedule.log_alpha_bar
    law = posterior(bar[:-1], bar[1:])
    expected = torch.stack([small._get_variance(t) for t in range(T)])
    # Their 1 − ᾱ_t loses digits where ᾱ_t is near 1; at t = 1 they put 1e−20 for 0.
    torch.testing.assert_close(law.variance[1:], expected[1:], rtol=1e-8, atol=0)
    assert law.variance[0] == 0
    expected = torch.stack([large._get_variance(t) for t in range(T)])
    torch.testing.assert_close(law.step_variance, expected, rtol=1e-8, atol=0)


def their_step(scheduler: DDPMScheduler, out: Tensor, t: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of one of their reverse steps, from two calls with the same noise."""

    def step() -> Tensor:
        return scheduler.step(out, t - 1, z, generator=torch.Generator().manual_seed(t)).prev_sample

    noise = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(t))
    drawn = step()
    kept = scheduler._get_variance
    scheduler._get_variance = lambda *_, **__: torch.tensor(
        -torch.inf if scheduler.variance_type == "learned_range" else 0.0
    )
    mean = step()
    scheduler._get_variance = kept
    return mean, (drawn - mean) / noise


@each_schedule
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
@torch.no_grad()
def test_one_reverse_step(name, prediction, variance):
    T = 40
    scheduler = theirs(name, T, prediction_type=PREDICTIONS[prediction], variance_type=VARIANCES[variance])
    chain = ours(name, T, prediction=prediction, variance=variance)
    denoise, z = chain.denoiser(), images()
    for t in (T, 17, 2):
        out = chain.network(z, torch.full((4,), t / T, dtype=torch.float64))
        if variance == "learned":
            out[:, 2:] = Network.variance(z)
        mean, sigma = their_step(scheduler, out, t, z)
        for step in (chain.p_step(z, t), denoise.step(denoise(z, denoise.level(t)), z, t, t - 1)):
            torch.testing.assert_close(step.mean, mean, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(step.variance.sqrt(), sigma.abs(), rtol=1e-7, atol=1e-9)
    # Their last step is a point: the mean of ours, in the data's units.
    out = chain.network(z, torch.full((4,), 1 / T, dtype=torch.float64))
    point = scheduler.step(out if variance != "learned" else out[:, :2], 0, z).prev_sample
    for last in (chain.p_step(z, 1), denoise.last(denoise(z, denoise.level(1)), z, 1)):
        torch.testing.assert_close(last.mean, chain.scaling.inverse(point), rtol=1e-8, atol=1e-8)


@each_schedule
@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("steps", [40, 13, 5, 1])
@torch.no_grad()
def test_a_whole_trajectory(name, variance, steps):
    """The same network, the same noise and the same levels: the same images, for fewer steps too."""
    T = 40
    scheduler = theirs(name, T, variance_type=VARIANCES[variance])
    chain = ours(name, T, variance=variance)
    scheduler.set_timesteps(timesteps=[t - 1 for t in strided(T, steps)])
    torch.manual_seed(7)
    noise = GeneratorNoise(torch.default_generator)
    *states, end = [state for _, state in Ancestral(steps).states(chain, 4, noise)]
    torch.manual_seed(7)
    z = images()
    for i, t in enumerate(scheduler.timesteps.tolist()):
        torch.testing.assert_close(states[i], z, rtol=1e-7, atol=1e-7)
        out = chain.network(z, torch.full((4,), (t + 1) / T, dtype=torch.float64))
        stepped = scheduler.step(out, t, z)
        z = stepped.prev_sample
    # The last step lands on the data: ours is a distribution around their point.
    torch.testing.assert_close(
        end.distribution.mean, chain.scaling.inverse(stepped.pred_original_sample), rtol=1e-7, atol=1e-7
    )
    assert len(states) == steps


@pytest.mark.parametrize(("T", "steps"), [(1000, 1000), (1000, 50), (1000, 10), (100, 10), (100, 2)])
def test_their_even_spacing_is_ours(T, steps):
    scheduler = DDPMScheduler(num_train_timesteps=T, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    assert [t + 1 for t in scheduler.timesteps.tolist()] == strided(T, steps)
