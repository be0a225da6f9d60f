"""What a chain's latents hold of x: reconstructions, interpolations and walks, for any chain.

A *code* of x is z_t … z_T drawn from q(·|x), down to a level t; what lies below is p's to fill in. With t = 1
all of it is q's. So a code at level t shows what levels t and above know of x: nearly all in a VAE, the
outline at the top of a hierarchy, in a DDPM what noise of level t has left.

Codes are mixed as *noise*: a latent z under the law of p that it stands under, (z − mean) / sd given the
latents above, which is standard normal where x is the model's own. The spherical path (Shoemake 1985; for
latents, White 2016) between two such vectors keeps to where their prior's mass is. Of a ``MarginalChain`` z_t
itself is mixed (Ho et al. 2020, section 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral._internal.randomness import GeneratorNoise, mixed, own_randomness, reseed
from ancestral.core import entrance
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.core.marginal import marginal
from ancestral.core.walk import generated, infer
from ancestral.distributions import full_precision
from ancestral.evaluation.loop import Progress, evaluation_mode
from ancestral.sampling.samplers import Ancestral, End

STEPS = 50
"""The levels of a ``MarginalChain`` that p visits by default, of all T: as in ``sampling.preview``."""
SHOWN = 6
"""The most levels that codes are made at by default."""
_PATH, _FILL = 1, 2
"""Keep the seeds of q's draws apart from p's."""

Code = dict[int, Tensor]
"""By level: the noise of z_t … z_T, each (n, …), or z_t alone in a ``MarginalChain``."""


@dataclass(frozen=True)
class Reconstructions:
    """Examples from codes of theirs."""

    levels: tuple[int, ...]
    """The lowest level that q's code holds, for each of ``x``."""
    x: tuple[Tensor, ...]
    """For each level the means of p(x|z_1), (n, *shape), in the data's units, on the CPU."""
    rmse: tuple[float, ...]
    """For each level, the root of the mean squared difference from the examples, in the data's units."""

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {"levels": list(self.levels), "rmse": list(self.rmse)}


def reconstruct(
    chain: Chain,
    x: Given,
    *,
    levels: Sequence[int] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Reconstructions:
    """Code x, (n, *shape), at each of ``levels`` (by default up to 6 of 1 … T) and decode.

    ``steps`` is how many of a ``MarginalChain``'s T levels p visits, from a level below T in proportion.
    Raises ``ValueError`` for a level that the chain does not have, and as ``entrance.batch`` for x.
    """
    x = entrance.entered(chain, x)
    levels = default_levels(chain.T) if levels is None else checked_levels(chain, levels)
    parts = []
    for index, level in enumerate(levels):
        code = _encoded(chain, x, level=level, seed=seed)
        parts.append(decode(chain, code, steps=steps, seed=seed))
        progress(index + 1, len(levels))
    target = x.cpu().double()
    rmse = tuple(float((part.double() - target).square().mean().sqrt()) for part in parts)
    return Reconstructions(tuple(levels), tuple(parts), rmse)


def interpolate(
    chain: Chain,
    a: Given,
    b: Given,
    *,
    points: int = 8,
    level: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """From each of ``a`` to its partner in ``b``, (n, *shape) both: (n, points, *shape) on the CPU, ends
    included.

    Codes are of ``level`` (by default 1; in a ``MarginalChain`` the middle one) and mixed along the spherical
    path. Both ends are coded with the same draws of q, and what lies below the code is filled with the same
    draws of p at every point, so that neighbouring points differ by their codes alone.
    """
    checks.integer("points", points, low=2)
    a, b = (entrance.examples(chain, end, what=name) for name, end in (("a", a), ("b", b)))
    entrance.entered(chain, a)
    if a.shape != b.shape:
        raise ValueError(
            f"the ends are {tuple(a.shape)} and {tuple(b.shape)}; give as many of the one as of the other."
        )
    level = middle(chain) if level is None else checked_levels(chain, [level])[0]
    first, last = (_encoded(chain, end, level=level, seed=seed) for end in (a, b))
    return _between(chain, first, last, points=points, steps=steps, seed=seed, progress=progress)


def latent_walk(
    chain: Chain,
    n: int,
    *,
    points: int = 8,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Between two draws from the prior, n times: (n, points, *shape) on the CPU; noise of all levels is
    mixed."""
    checks.integer("n", n, low=1)
    checks.integer("points", points, low=2)
    device = next(chain.parameters()).device
    ends = []
    for number in (3, 4):
        with torch.no_grad(), evaluation_mode(chain), own_randomness(device):
            reseed(device, seed, number)
            if chain.single_levels:
                ends.append({chain.T: chain.p_top(n).sample()})
            else:
                ends.append({t: torch.randn_like(z) for t, z in enumerate(generated(chain, n)[0], 1)})
    return _between(chain, ends[0], ends[1], points=points, steps=steps, seed=seed, progress=progress)


def default_levels(T: int) -> list[int]:
    """At most ``SHOWN`` of 1 … T, evenly spread, both ends among them, but not T of many: it holds nothing of
    x."""
    if T <= SHOWN:
        return list(range(1, T + 1))
    return sorted({max(1, round(T * i / SHOWN)) for i in range(SHOWN)})


def middle(chain: Chain) -> int:
    """The level that codes are of by default when they are mixed."""
    return max(1, chain.T // 2) if chain.single_levels else 1


def checked_levels(chain: Chain, levels: Sequence[int]) -> list[int]:
    """The levels themselves. ``ValueError`` for one that the chain does not have, or none."""
    if not levels:
        raise ValueError("no level is given; give at least one of 1 … T, or leave levels out.")
    for level in levels:
        checks.integer("level", level, low=1, high=chain.T)
    return list(levels)


def encode(chain: Chain, x: Given, *, level: int = 1, seed: int = 0) -> Code:
    """A code of x, (n, *shape), drawn from q: see the module. The caller's random state is left as it was."""
    return _encoded(chain, entrance.entered(chain, x), level=level, seed=seed)


@torch.no_grad()
def _encoded(chain: Chain, x: Tensor, *, level: int, seed: int) -> Code:
    checks.integer("level", level, low=1, high=chain.T)
    device = next(chain.parameters()).device
    x = x.to(device)
    with own_randomness(device), evaluation_mode(chain):
        reseed(device, seed, _PATH)
        if chain.single_levels:
            at = torch.full((len(x),), level, device=device)
            return {level: marginal(chain).q_marginal(chain.features(x), at).sample()}
        links = {link.t: link for link in infer(chain, x)}
        return {t: _noise(links[t].p, links[t].value) for t in range(level, chain.T + 1)}


@torch.no_grad()
def decode(chain: Chain, code: Code, *, steps: int = STEPS, seed: int = 0) -> Tensor:
    """The mean of p(x|z_1) of a code, (n, *shape), on the CPU; what the code leaves out is drawn from p."""
    n = len(next(iter(code.values())))
    filling = GeneratorNoise(torch.Generator().manual_seed(mixed(seed, _FILL)))
    with evaluation_mode(chain):
        if chain.single_levels:
            ((level, z),) = code.items()
            count = max(1, min(level, round(steps * level / chain.T)))
            sampler = Ancestral(count if steps < chain.T else None)
            *_, (_, end) = sampler.states(chain, n, filling, start=(level, z))
            assert isinstance(end, End)
            return end.value("mean", filling).cpu()

        def choose(t: int, p: Distribution) -> Tensor:
            return p.mean + p.stddev * code[t] if t in code else filling.sample(p)

        return full_precision(generated(chain, n, choose)[1].mean).cpu()


def _noise(law: Distribution, z: Tensor) -> Tensor:
    return (z - law.mean) / law.stddev


def _between(
    chain: Chain, first: Code, last: Code, *, points: int, steps: int, seed: int, progress: Progress
) -> Tensor:
    found = []
    for index in range(points):
        share = index / (points - 1)
        mixed = {t: spherical(first[t], last[t], share) for t in first}
        found.append(decode(chain, mixed, steps=steps, seed=seed))
        progress(index + 1, points)
    return torch.stack(found, dim=1)


def spherical(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at ``share`` of the way from a to b, (n, …) both, along the great circle of each example.

    sin((1 − s) θ) a / sin θ + sin(s θ) b / sin θ with θ their angle; the straight line where they are
    (nearly) parallel, or opposite, which no circle through both is alone in.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    lengths = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = ((flat_a * flat_b).sum(dim=1) / lengths.clamp(min=1e-30)).clamp(-1.0, 1.0)
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < 1e-4
    safe = torch.where(straight, 1.0, sine)
    of_a = torch.where(straight, 1.0 - share, ((1.0 - share) * angle).sin() / safe)
    of_b = torch.where(straight, share, (share * angle).sin() / safe)
    return (of_a[:, None] * flat_a + of_b[:, None] * flat_b).reshape(a.shape).to(a.dtype)
