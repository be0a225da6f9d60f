"""What a user calls: a sampler by its name and steps, and samples drawn with it, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.diffusion import DDPM, Prediction
from ancestral.distributions import full_precision
from ancestral.samplers import grids, solvers
from ancestral.samplers.engine import computing
from ancestral.samplers.grids import Grid
from ancestral.schedules import spread

SAMPLERS = ("ancestral", "ddim", "dpm++2m", "dpm++2m-sde", "heun")
SPACINGS = ("snr", "diffusers")
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Sampler:
    """A way to draw from a DDPM, by name, in ``steps`` steps.

    "ancestral" is the model's own (all T levels, or ``steps`` of them: ``DDPM.generate``) and the only one
    that every chain has. The others are of few steps (50, or T where that is less, when left out): "ddim",
    deterministic for ``eta`` 0 and for 1 the ancestral step with the posterior's variance; "dpm++2m" and,
    stochastic, "dpm++2m-sde"; and "heun", which asks the network twice in each step but the last.

    ``spacing`` says which levels they visit: "snr" (the default) suits any schedule; with "diffusers" each
    takes the levels, and so the steps, of the scheduler of its name in diffusers (see ``grids``).
    """

    name: str = "ancestral"
    steps: int | None = None
    eta: float | None = None
    spacing: str | None = None

    def __post_init__(self) -> None:
        checks.one_of("sampler", self.name, SAMPLERS)
        if self.steps is not None:
            checks.integer("steps", self.steps, low=1)
        if self.eta is not None:
            checks.number("eta", self.eta, low=0.0, high=1.0)
            if self.name != "ddim":
                raise ValueError(
                    f"eta is {self.eta:g} and the sampler is {self.name}: only ddim has an eta. Leave it "
                    "out, or take sampler ddim."
                )
        if self.spacing is not None:
            checks.one_of("spacing", self.spacing, SPACINGS)
            if self.name == "ancestral":
                raise ValueError(
                    f"spacing is {self.spacing} and the sampler is ancestral, whose steps are even in t. "
                    f"Leave it out, or take another sampler: {', '.join(SAMPLERS[1:])}."
                )

    def check(self, chain: Chain) -> None:
        """Refuse a chain that this sampler cannot draw from, and more steps than it has levels."""
        if not isinstance(chain, DDPM):
            if self == Sampler():
                return
            given = f"{self.steps} steps" if self.name == "ancestral" else f"sampler {self.name}"
            raise ValueError(
                f"{given} for a {type(chain).__name__}: only a DDPM has levels to leave out. Leave it out."
            )
        if self.name == "ancestral":
            checks.integer("steps", self.taken(chain), low=1, high=chain.T)
            return
        self._grid(chain)
        if chain.prediction == "mean" and self.name == "heun" and self.spacing == "diffusers":
            raise ValueError(
                "heun with diffusers' spacing asks the network between its levels, where the mean it "
                "predicts is not defined. Use spacing snr, or another sampler."
            )

    def calls(self, chain: Chain) -> int:
        """How many network calls one batch takes."""
        self.check(chain)
        steps = self.taken(chain)
        return 2 * steps - 1 if self.name == "heun" else steps

    def taken(self, chain: Chain) -> int:
        """How many steps it takes: the default's number where ``steps`` is left out."""
        default = chain.T if self.name == "ancestral" else min(chain.T, DEFAULT_STEPS)
        return default if self.steps is None else self.steps

    def _grid(self, chain: DDPM) -> Grid:
        theirs = {"ddim": grids.leading, "heun": grids.karras}.get(self.name, grids.linspace)
        make = theirs if self.spacing == "diffusers" else grids.even_in_snr
        return make(chain.schedule, self.taken(chain))

    def _weights(self, grid: Grid) -> solvers.Weights:
        if self.name == "ddim":
            return solvers.first_order(grid, self.eta or 0.0)
        if self.name == "heun":
            return solvers.heun(grid)
        return solvers.multistep(grid, 1.0 if self.name == "dpm++2m-sde" else 0.0)

    def generate(self, chain: DDPM, n: int) -> Iterator[tuple[int, Tensor | Prediction]]:
        """The few steps: (t, z_t) for each level visited, z_t (n, *shape), then (0, the prediction of x).

        The last is the network's answer at the last level. Where t lies between two levels it is rounded.
        """
        grid = self._grid(chain)
        levels = [int(t) for t in grid.levels.round()]
        z = chain.p_top(n).sample()
        states = solvers.walk(chain, grid, self._weights(grid), z, ahead=self.name == "heun")
        for t, z in zip(levels, states, strict=True):
            yield t, z
        yield 0, chain.predict(z, levels[-1], 0)


ANCESTRAL = Sampler()


@torch.no_grad()
def trajectory(
    chain: DDPM, n: int, *, sampler: Sampler = ANCESTRAL, final: str = "draw", frames: int = 10
) -> tuple[list[int], list[Tensor]]:
    """Sampling with ``frames`` of its states kept: their levels, and each (n, *shape), in the data's units.

    As ``DDPM.trajectory``; the last frame is level 0, the sample, which ends as ``draw`` says.
    """
    sampler.check(chain)
    if sampler.name == "ancestral":
        return chain.trajectory(n, final=final, steps=sampler.steps, frames=frames)
    checks.integer("n", n, low=1)
    checks.integer("frames", frames, low=1)
    checks.one_of("final", final, ("draw", "mean"))
    kept = spread(sampler.taken(chain) + 1, frames)
    levels, states = [], []
    for index, (t, state) in enumerate(sampler.generate(chain, n)):
        if isinstance(state, Prediction):
            levels.append(t)
            states.append(_landed(chain, state, final))
        elif index in kept:
            levels.append(t)
            states.append(chain.scaling.inverse(state))
    return levels, states


def draw(
    chain: Chain,
    n: int,
    *,
    sampler: Sampler = ANCESTRAL,
    final: str = "draw",
    batch_size: int = 256,
    precision: str = "auto",
    compile: str = "auto",
) -> Tensor:
    """n examples, (n, *shape), in the data's units, on the CPU: the device holds ``batch_size`` at a time.

    ``final="draw"`` ends with a draw of p(x|z_t) at the last level t visited, which is level 1 and the
    chain's p(x|z_1) but with diffusers' spacing; ``final="mean"`` with û, the network's prediction of x, cut
    to 0 … levels − 1 for integer data (the ancestral sampler ends as ``Chain.sample``). ``precision`` and
    ``compile`` say how the networks compute (``engine.computing``); all else is in the chain's own precision.
    """
    checks.integer("n", n, low=1)
    checks.integer("batch_size", batch_size, low=1)
    calls = sampler.calls(chain) * math.ceil(n / batch_size)
    with computing(chain, calls=calls, precision=precision, compile=compile):
        parts = [
            batch(chain, min(batch_size, n - first), sampler=sampler, final=final).cpu()
            for first in range(0, n, batch_size)
        ]
    return torch.cat(parts)


@torch.no_grad()
def batch(chain: Chain, n: int, *, sampler: Sampler = ANCESTRAL, final: str = "draw") -> Tensor:
    """n examples at once, (n, *shape), on the chain's device, computed as the caller has it: see ``draw``."""
    if isinstance(chain, DDPM):
        _, states = trajectory(chain, n, sampler=sampler, final=final, frames=1)
        return states[-1]
    sampler.check(chain)
    # A law of one's own may be in the precision of its network.
    return full_precision(chain.sample(n, final=final))


def _landed(chain: DDPM, predicted: Prediction, final: str) -> Tensor:
    if final == "draw":
        return chain.data_law(predicted).sample()
    x = chain.scaling.inverse(predicted.data)
    return x if chain.spec.levels is None else x.clamp(0, chain.spec.levels - 1)
