"""Samplers: the ancestral one, which every chain has, and those of few steps, which act on a denoiser.

A sampler visits levels from the noise down. ``step(denoise, z, t, s, noise)`` leads from level t to level s;
``denoise`` is ``diffusion.Denoiser`` or what wraps it. Only the ancestral sampler over all levels draws from
the chain's own p: the others change p, so they have no ELBO and evaluation never uses them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral._internal.randomness import Noise
from ancestral.core import walk
from ancestral.core.chain import Chain
from ancestral.distributions import full_precision
from ancestral.models.diffusion.denoiser import Denoised, Denoiser, NoiseLevel
from ancestral.models.diffusion.schedules import strided
from ancestral.sampling import grids, solvers

SAMPLERS = ("ancestral", "ddim", "dpm++2m", "dpm++2m-sde", "heun")
SPACINGS = ("snr", "diffusers")
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class End:
    """Where a sample ends: p(x|z) at the last level visited."""

    distribution: Distribution
    prediction: Tensor | None = None
    """The network's prediction of x, in the data's units, which few-step samplers take for the mean."""

    def value(self, final: str, noise: Noise) -> Tensor:
        """A draw for "draw"; for "mean" the prediction, or the distribution's mean where there is none."""
        checks.one_of("final", final, ("draw", "mean"))
        if final == "draw":
            return full_precision(noise.sample(self.distribution))
        return full_precision(self.distribution.mean) if self.prediction is None else self.prediction


Visited = tuple[int, Tensor | End]
"""A level and z there, (n, …); at level 0 the end of the sample."""


class Sampler(ABC):
    """A way to draw from a chain. ``Sampler.named`` makes one by its name."""

    name: ClassVar[str]
    steps: int | None

    @staticmethod
    def named(
        name: str = "ancestral",
        steps: int | None = None,
        eta: float | None = None,
        spacing: str | None = None,
    ) -> Sampler:
        """The sampler of this name with these options.

        "ancestral" is the model's own, over all T levels or ``steps`` of them. The others take few steps (50,
        or T where that is less, by default): "ddim", deterministic for ``eta`` 0 and for 1 the ancestral step
        with the posterior's variance; "dpm++2m" and, stochastic, "dpm++2m-sde"; and "heun", with two network
        calls in each step but the last.

        ``spacing`` says which levels they visit: "snr" (the default) suits any schedule; with "diffusers" each
        takes the levels, and so the steps, of the scheduler of its name in diffusers (see ``grids``).
        ``ValueError`` for an unknown name and for options that the sampler does not have.
        """
        checks.one_of("sampler", name, SAMPLERS)
        if steps is not None:
            checks.integer("steps", steps, low=1)
        if eta is not None:
            checks.number("eta", eta, low=0.0, high=1.0)
            if name != "ddim":
                raise ValueError(
                    f"eta is {eta:g} and the sampler is {name}: only ddim has an eta. Leave it out, or use "
                    "sampler ddim."
                )
        if spacing is not None:
            checks.one_of("spacing", spacing, SPACINGS)
            if name == "ancestral":
                raise ValueError(
                    f"spacing is {spacing} and the sampler is ancestral, whose steps are even in t. Leave it "
                    f"out, or use another sampler: {', '.join(SAMPLERS[1:])}."
                )
        if name == "ancestral":
            return Ancestral(steps)
        if name == "ddim":
            return Ddim(steps, spacing or "snr", eta or 0.0)
        if name == "heun":
            return Heun(steps, spacing or "snr")
        return DpmSolver(steps, spacing or "snr", name == "dpm++2m-sde")

    def check(self, chain: Chain) -> None:
        """Raise ``ValueError`` for a chain that this sampler cannot draw from, or more steps than levels."""
        if not chain.denoises:
            given = f"{self.steps} steps" if self.name == "ancestral" else f"sampler {self.name}"
            raise ValueError(
                f"{given} for a {type(chain).__name__}: only a diffusion model has levels to leave out. Leave "
                "it out."
            )

    def taken(self, chain: Chain) -> int:
        """How many steps it takes."""
        return min(chain.T, DEFAULT_STEPS) if self.steps is None else self.steps

    def calls(self, chain: Chain) -> int:
        """How many network calls one batch takes."""
        self.check(chain)
        return self.taken(chain)

    @abstractmethod
    def states(self, chain: Chain, n: int, noise: Noise, *, condition: Any = None) -> Iterator[Visited]:
        """The walk of n samples: z at each level visited, then the end at level 0."""


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The chain's own p, level by level: all T levels, or ``steps`` of them, evenly spread.

    With fewer than T it is the model on a subset of its levels, whose p is not the one the ELBO is of.
    """

    name = "ancestral"
    steps: int | None = None

    def check(self, chain: Chain) -> None:
        """As ``Sampler``; over all levels it suits every chain."""
        if self.steps is None:
            return
        super().check(chain)
        checks.integer("steps", self.steps, low=1, high=chain.T)

    def taken(self, chain: Chain) -> int:
        """As ``Sampler``: all levels by default."""
        return chain.T if self.steps is None else self.steps

    def states(
        self,
        chain: Chain,
        n: int,
        noise: Noise,
        *,
        condition: Any = None,
        start: tuple[int, Tensor] | None = None,
    ) -> Iterator[Visited]:
        """As ``Sampler``. ``start``, (t, z_t), begins below the top; ``steps`` are then those of 1 … t."""
        top = chain.T if start is None else start[0]
        if self.steps is None or self.steps == top:
            choose = walk.noise(noise)
            for t, state in walk.generate(chain, n, choose, condition=condition, start=start):
                yield t, End(state) if isinstance(state, Distribution) else state
            return
        denoise = chain.denoiser(condition)
        z = noise.sample(denoise.top(n)) if start is None else start[1]
        levels = strided(top, self.steps)
        for t, s in pairwise(levels):
            yield t, z
            z = self.step(denoise, z, denoise.level(t), denoise.level(s), noise)
        yield levels[-1], z
        yield 0, End(denoise.last(denoise(z, denoise.level(levels[-1])), z, levels[-1]))

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """z_s ~ p(z_s|z_t)."""
        return noise.sample(denoise.step(denoise(z, t), z, int(t.t), int(s.t)))


@dataclass(frozen=True)
class FewSteps(Sampler):
    """A sampler of few steps over a grid of noise levels."""

    steps: int | None = None
    spacing: str = "snr"

    @abstractmethod
    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """z at level s from z, (n, *shape), at level t."""

    def begun(self) -> Self:
        """The sampler at the beginning of a walk; one that remembers earlier steps returns a new object."""
        return self

    def grid(self, chain: Chain) -> list[NoiseLevel]:
        """The levels of the network calls, from the noise down."""
        make = self._theirs() if self.spacing == "diffusers" else grids.even_in_snr
        return make(chain.denoiser().schedule, self.taken(chain))

    def _theirs(self) -> grids.MakeGrid:
        """The grid of the scheduler of this name in diffusers."""
        return grids.linspace

    def check(self, chain: Chain) -> None:
        """As ``Sampler``."""
        super().check(chain)
        self.grid(chain)

    def states(self, chain: Chain, n: int, noise: Noise, *, condition: Any = None) -> Iterator[Visited]:
        """As ``Sampler``. Where a level lies between two of the chain's it is rounded."""
        denoise, levels, run = chain.denoiser(condition), self.grid(chain), self.begun()
        z = noise.sample(denoise.top(n))
        for t, s in pairwise(levels):
            yield round(t.t), z
            z = run.step(denoise, z, t, s, noise)
        last = round(levels[-1].t)
        yield last, z
        denoised = denoise(z, denoise.level(last))
        yield 0, End(denoise.last(denoised, z, last), denoise.mean(denoised))


@dataclass(frozen=True)
class Ddim(FewSteps):
    """DDIM (Song et al. 2021): deterministic for ``eta`` = 0."""

    name = "ddim"
    eta: float = 0.0

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """As ``FewSteps``."""
        return stepped(solvers.first_order(t, s, self.eta), z, denoise(z, t), noise)

    def _theirs(self) -> grids.MakeGrid:
        return grids.leading


@dataclass(frozen=True)
class Heun(FewSteps):
    """Heun's method (Karras et al. 2022): the change of û is seen from a guess at the next level."""

    name = "heun"

    def calls(self, chain: Chain) -> int:
        """Two network calls in each step but the last."""
        return 2 * super().calls(chain) - 1

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """As ``FewSteps``."""
        weights, denoised = solvers.heun(t, s), denoise(z, t)
        guess = stepped(weights, z, denoised, noise)
        return guess + weights.change * (denoise(guess, s).data - denoised.data)

    def check(self, chain: Chain) -> None:
        """As ``Sampler``."""
        super().check(chain)
        if self.spacing == "diffusers" and not chain.denoiser().between_levels:
            raise ValueError(
                "heun with diffusers' spacing calls the network between its levels, where the mean it predicts "
                "is not defined. Use spacing snr, or another sampler."
            )

    def _theirs(self) -> grids.MakeGrid:
        return grids.karras


@dataclass(frozen=True)
class DpmSolver(FewSteps):
    """DPM-Solver++(2M) (Lu et al. 2022), or its SDE form: û is extrapolated from the step before."""

    stochastic: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """As ``Sampler``."""
        return "dpm++2m-sde" if self.stochastic else "dpm++2m"

    def begun(self) -> Self:
        """As ``FewSteps``, without a step before."""
        run = type(self)(self.steps, self.spacing, self.stochastic)
        object.__setattr__(run, "_before", None)
        return run

    def step(self, denoise: Denoiser, z: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """As ``FewSteps``. On a sampler that is not ``begun`` every step is of first order."""
        before: tuple[NoiseLevel, Tensor] | None = getattr(self, "_before", None)
        weights = solvers.multistep(t, s, float(self.stochastic), None if before is None else before[0])
        denoised = denoise(z, t)
        z = stepped(weights, z, denoised, noise)
        if before is not None:
            z = z + weights.change * (denoised.data - before[1])
        if hasattr(self, "_before"):
            object.__setattr__(self, "_before", (t, denoised.data))
        return z


def stepped(weights: solvers.Weights, z: Tensor, denoised: Denoised, noise: Noise) -> Tensor:
    """a z + b û + γ̃ ε."""
    z = weights.z * z + weights.data * denoised.data
    return z + weights.noise * noise.normal(z.shape, z) if weights.noise > 0 else z


def quick_sampler(chain: Chain, steps: int = DEFAULT_STEPS) -> Sampler:
    """The ancestral sampler; of a diffusion model over at most ``steps`` of its levels."""
    return Ancestral(min(chain.T, steps)) if chain.denoises else Ancestral()
