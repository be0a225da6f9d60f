"""Each few-step sampler against diffusers' scheduler: the same network and noise, step by step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor, nn

from ancestral._internal.randomness import GeneratorNoise
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling
from ancestral.sampling import Sampler
from ancestral.sampling.samplers import End

SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": lambda T: Schedule.linear(T, first=1e-4, last=0.02),
    "cosine": Schedule.cosine,
    "log-linear": Schedule.log_linear,
}
PREDICTIONS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}
GRIDS = [(1000, 20), (1000, 7), (40, 13), (40, 2), (40, 1)]
"""T and steps; some divide T and some do not."""
# numpy's of torch's tensors, in their set_timesteps.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class InDoubles:
    """A module whose float32 is float64: their arithmetic is single whatever it is given."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str):
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture(autouse=True)
def in_doubles(monkeypatch) -> None:
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler):
        module = importlib.import_module(kind.__module__)
        monkeypatch.setattr(module, "torch", InDoubles(torch))
        monkeypatch.setattr(module, "np", InDoubles(module.np))


class Network(nn.Module):
    """Some nonlinear function of z and of any time; bounded."""

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return torch.sin(z + 3.0 * time.reshape(-1, 1, 1, 1))


def chain_of(schedule: str, T: int, prediction: str) -> Diffusion:
    return Diffusion(
        Network(),
        SCHEDULES[schedule](T),
        scaling=Scaling(DataSpec((2, 3, 3))),
        parametrization=PARAMETRIZATIONS[prediction],
    ).double()


def theirs(kind: type, chain: Diffusion, **options):
    scheduler = kind(
        num_train_timesteps=chain.T,
        trained_betas=chain.schedule.betas.numpy(),
        prediction_type=PREDICTIONS[chain.parametrization.name],
        **options,
    )
    assert scheduler.alphas_cumprod.dtype == torch.float64
    return scheduler


def asked(chain: Diffusion, z: Tensor, t: Tensor) -> Tensor:
    """The network where they would ask it; their t counts from 0."""
    return chain.network(z, ((t.double() + 1.0) / chain.T).expand(len(z)))


def noises(seed: int = 7) -> Iterator[Tensor]:
    """The numbers that a sampler draws after this seed, one (4, 2, 3, 3) after another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=generator)


def ours(chain: Diffusion, sampler: Sampler, seed: int = 7) -> list[Tensor]:
    """z at each level visited, then û."""
    noise = GeneratorNoise(torch.Generator().manual_seed(seed))
    *states, last = [state for _, state in sampler.states(chain, 4, noise)]
    assert isinstance(last, End)
    return [*states, last.prediction]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("T", "steps"), GRIDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@torch.no_grad()
def test_ddim(schedule, prediction, T, steps, eta):
    chain = chain_of(schedule, T, prediction)
    scheduler = theirs(DDIMScheduler, chain, clip_sample=False)
    scheduler.set_timesteps(steps)
    noise = noises()
    expected = [next(noise)]
    for t in scheduler.timesteps:
        z = expected[-1]
        drawn = next(noise) if eta else None
        expected.append(scheduler.step(asked(chain, z, t), t, z, eta=eta, variance_noise=drawn).prev_sample)
    same(ours(chain, Sampler.named("ddim", steps, eta, "diffusers")), expected)


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-sde"])
@pytest.mark.parametrize(("T", "steps"), GRIDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@torch.no_grad()
def test_dpm_solver(schedule, prediction, T, steps, name):
    chain = chain_of(schedule, T, prediction)
    kind = "sde-dpmsolver++" if name.endswith("sde") else "dpmsolver++"
    scheduler = theirs(DPMSolverMultistepScheduler, chain, algorithm_type=kind)
    scheduler.set_timesteps(steps)
    noise = noises()
    expected = [next(noise)]
    for t in scheduler.timesteps:
        z = expected[-1]
        drawn = next(noise) if name.endswith("sde") else None
        expected.append(scheduler.step(asked(chain, z, t), t, z, variance_noise=drawn).prev_sample)
    same(ours(chain, Sampler.named(name, steps, spacing="diffusers")), expected)


# One step of theirs starts at the level with the least noise, where nothing is left to do; ours at T.
@pytest.mark.parametrize(("T", "steps"), GRIDS[:-1])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@torch.no_grad()
def test_heun(schedule, prediction, T, steps):
    chain = chain_of(schedule, T, prediction)
    scheduler = theirs(HeunDiscreteScheduler, chain, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == Sampler.named("heun", steps).calls(chain)
    # Their state is z/α = z √(1 + ς²), as Karras et al. have it.
    width = [(1.0 + scheduler.sigmas[i].square()).sqrt() for i in (0, *range(2, 2 * steps, 2), 2 * steps - 1)]
    x = next(noises()) * width[0]
    expected = [x / width[0]]
    for t in scheduler.timesteps:
        z = scheduler.scale_model_input(x, t)
        x = scheduler.step(asked(chain, z, t), t, x).prev_sample
        if scheduler.state_in_first_order or len(expected) == steps:
            expected.append(x / width[len(expected)])
    same(ours(chain, Sampler.named("heun", steps, spacing="diffusers")), expected)


@torch.no_grad()
def test_the_network_is_asked_between_levels_where_they_ask_it():
    chain = chain_of("linear", 1000, "noise")
    times: list[float] = []
    chain.network.register_forward_pre_hook(lambda _, args: times.append(float(args[1][0])))
    scheduler = theirs(HeunDiscreteScheduler, chain, use_karras_sigmas=True)
    scheduler.set_timesteps(10)
    ours(chain, Sampler.named("heun", 10, spacing="diffusers"))
    torch.testing.assert_close(
        torch.tensor(times).double(), (scheduler.timesteps + 1) / 1000, rtol=1e-6, atol=0
    )
    assert any(abs(1000 * time - round(1000 * time)) > 0.1 for time in times)
