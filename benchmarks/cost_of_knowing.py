"""What a diffusion bound costs to know: its error against network calls, for each way of drawing levels.

    .venv/bin/python benchmarks/cost_of_knowing.py [RUN]

RUN is the folder of a trained DDPM on integer data; by default one is trained on digits, with T = 1000 and
all options at their defaults, for 300 steps. The error is the root mean square, over repeated seeds, of the
difference from a sweep over all levels on the same 1,000 test images (where the data have fewer, these are
gone through several times: each has draws of its own every time), in bits/dim. Network calls are those for
one image, with its share of the pilot's.

A table of the terms' means and variances at some levels, measured once, predicts both the error of a sweep
and the whole curve (lines); repeated estimates verify it (points). The figure asked for is 0.005 bits/dim
with 20 times fewer calls than the sweep. Results: results/cost_of_knowing.json, docs/cost-of-knowing.png.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ancestral
from ancestral._internal.randomness import reseed
from ancestral.bounds import DRAWS, SampledLevelsBound
from ancestral.bounds.levels import Proposal
from ancestral.evaluation.loop import evaluation_mode

ROOT = Path(__file__).parent.parent
ASKED, FEWER, IMAGES = 0.005, 20, 1000
CURVE = (2, 4, 8, 16, 32, 64, 128)
VERIFIED = (
    ("importance", 4),
    ("importance", 8),
    ("low-discrepancy", 8),
    ("low-discrepancy", 16),
    ("uniform", 8),
    ("uniform", 32),
)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Table:
    """Of the terms at some levels, in nats; all at 1 … T by interpolation."""

    place: np.ndarray
    """Where the measured levels lie in [0, 1)."""
    mean: np.ndarray
    within: np.ndarray
    """The variance that z_t gives one image's term, averaged over images."""
    between: np.ndarray
    """The variance of the images' means."""
    first: float
    """The variance that z_1 gives one image's reconstruction."""

    def at(self, name: str, u: np.ndarray) -> np.ndarray:
        """One of the three at any places."""
        return np.interp(u, self.place, getattr(self, name))


@torch.no_grad()
def measured(chain: Any, x: Tensor, *, count: int, draws: int = 2) -> Table:
    """The table, from ``draws`` z_t for each image at ``count`` levels."""
    levels = sorted({round(2 + i * (chain.T - 2) / (count - 1)) for i in range(count)})
    h = chain.features(x)
    columns = []
    for t in levels:
        at = torch.full((len(x),), t)
        columns.append(torch.stack([chain.matching_at(h, at) for _ in range(draws)]).double())
    costs = torch.stack(columns)
    within = costs.var(dim=1).mean(dim=1)
    between = (costs.mean(dim=1).var(dim=1) - within / draws).clamp(min=0.0)
    q = chain.q_marginal(h, torch.ones(len(x), dtype=torch.long))
    last = torch.stack([chain.p_step(q.sample(), 1).log_prob(x) for _ in range(4)]).double()
    return Table(
        (np.array(levels) - 2) / (chain.T - 1),
        costs.mean(dim=(1, 2)).numpy(),
        within.numpy(),
        between.numpy(),
        float(last.var(dim=0).mean()),
    )


def predicted(table: Table, plan: SampledLevelsBound, T: int) -> float:
    """The variance of one image's estimate, nats²: what draws in strata leave of each part of it.

    A term's variance is that of z_t, of the image, and of the level. z_t's is there for each draw. What the
    levels differ by goes with the strata of a group, and what the image's own profile differs from the mean
    one (here: by a factor of its own) with the strata of an image; both stay for uniform draws.
    """
    u = (np.arange(20_000) + 0.5) / 20_000
    place, density = (v.numpy() for v in plan.proposal.at(torch.from_numpy(u)))
    weight = (T - 1) / density
    mean, within = table.at("mean", place), table.at("within", place)
    noise = float(np.mean(weight**2 * within)) / plan.levels
    profile = weight * mean
    spread = float(np.mean(weight**2 * table.at("between", place))) / max(float(np.mean(profile**2)), 1e-300)
    strata = 1 if plan.draws == "uniform" else max(1, plan.levels // plan.replicates)
    own = spread * _left(profile, strata) / plan.levels
    shared = _left(profile, strata * plan.group) / plan.levels
    return table.first / plan.replicates + noise + own + shared


def _left(profile: np.ndarray, strata: int) -> float:
    """The variance of one draw that is left within strata."""
    return float(np.mean([part.var() for part in np.array_split(profile, strata)]))


def proposal_of(table: Table) -> Proposal:
    """What a pilot of many images would propose."""
    u = torch.rand(40_000, dtype=torch.float64)
    square = table.at("mean", u.numpy()) ** 2 + table.at("between", u.numpy()) + table.at("within", u.numpy())
    return Proposal.of(u, torch.from_numpy(np.sqrt(square)), 32)


@torch.no_grad()
def swept(chain: Any, x: Tensor, *, draws: int = 40) -> Tensor:
    """A sweep's bounds, (n,) nats, with more z_1 than its one, whose noise would be most of its error."""
    found = chain.elbo(x)
    q = chain.q_marginal(chain.features(x), torch.ones(len(x), dtype=torch.long))
    last = torch.stack([chain.p_step(q.sample(), 1).log_prob(x).double() for _ in range(draws)])
    return last.mean(dim=0) - found.matching.double().sum(dim=1) - found.prior


def verified(chain: Any, x: Tensor, draws: str, levels: int, *, truth: float, times: int) -> dict[str, Any]:
    """The error there is over several seeds, beside the one that is stated."""
    results = [ancestral.evaluate(chain, x, levels=levels, draws=draws, seed=i) for i in range(times)]
    units = 1.0 / (results[0].dims * math.log(2.0))
    off = [units * (r.elbo.mean - truth) for r in results]
    stated = [units * (r.elbo.stderr_estimator or math.nan) for r in results]
    pilot = results[0].estimator["pilot_calls"]
    return {
        "draws": draws,
        "levels": levels,
        "calls": results[0].network_calls_per_image + pilot / len(x),
        "error": math.sqrt(sum(o * o for o in off) / times),
        "stated": math.sqrt(sum(s * s for s in stated) / times),
        "seeds": times,
    }


def curve(table: Table, chain: Any) -> list[dict[str, Any]]:
    """What the table says of ``IMAGES`` images."""
    T, dims = chain.T, chain.spec.dims
    points = []
    for draws in DRAWS:
        for levels in CURVE:
            plan = SampledLevelsBound(levels, draws).grouped(IMAGES)
            if draws == "importance":
                size = plan.pilot_size(IMAGES)
                plan = replace(plan, proposal=proposal_of(table), pilot_calls=size)
            error = math.sqrt(predicted(table, plan, T) / IMAGES) / (dims * math.log(2.0))
            calls = plan.calls(chain) + plan.pilot_calls / IMAGES
            points.append({"draws": draws, "levels": levels, "calls": calls, "error": error})
    u = (np.arange(T - 1) + 0.5) / (T - 1)
    variance = table.first + float(table.at("within", u).sum())
    error = math.sqrt(variance / IMAGES) / (dims * math.log(2.0))
    return [*points, {"draws": "sweep", "levels": T - 1, "calls": float(T), "error": error}]


def needed(points: list[dict[str, Any]]) -> dict[str, float | None]:
    """For each way of drawing, the fewest calls with the error that is asked for, between two points."""
    found: dict[str, float | None] = {}
    for draws in DRAWS:
        line = sorted((p["error"], p["calls"]) for p in points if p["draws"] == draws)
        errors, calls = np.log(np.array(line)).T
        within = errors[0] <= math.log(ASKED)
        found[draws] = float(np.exp(np.interp(math.log(ASKED), errors, calls))) if within else None
    return found


def plotted(points: list[dict[str, Any]], checks: list[dict[str, Any]], path: Path) -> None:
    """Error against calls: lines by the table, points by repetition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for draws, colour in zip((*DRAWS, "sweep"), ("#888888", "#3b6fb6", "#c1442e", "black"), strict=True):
        line = [p for p in points if p["draws"] == draws]
        style = {"marker": "s", "linestyle": "none"} if draws == "sweep" else {}
        axes.plot([p["calls"] for p in line], [p["error"] for p in line], color=colour, label=draws, **style)
        seen = [c for c in checks if c["draws"] == draws]
        bars = [c["error"] / math.sqrt(2 * c["seeds"]) for c in seen]
        spots = ([c["calls"] for c in seen], [c["error"] for c in seen])
        axes.errorbar(*spots, yerr=bars, color=colour, marker="o", linestyle="none", capsize=2)
    axes.axhline(ASKED, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="network calls per image")
    axes.set_ylabel(f"error of the estimator, bits/dim, {IMAGES:,} images")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def trained(steps: int) -> tuple[Any, Any, str]:
    """The default DDPM on digits: its chain, its data and what it is."""
    data = ancestral.load_data("digits")
    config = ancestral.DDPMConfig()
    with tempfile.TemporaryDirectory() as folder:
        run = ancestral.RunConfig(
            ancestral.DataConfig("digits"), config, ancestral.TrainingConfig(steps=steps)
        )
        ancestral.train_run(run, Path(folder) / "run", device="cpu")
        chain = ancestral.load_run(Path(folder) / "run")
    return chain, data, f"the default DDPM on digits, T = {config.T}, {steps} steps"


def given(path: Path) -> tuple[Any, Any, str]:
    """A run, its data and its name."""
    from ancestral.experiments.runs import RunFolder

    config = RunFolder.open(path).config
    data = ancestral.load_data(
        config.data.source, binarize=config.data.binarize, validation=config.data.validation
    )
    kind, steps = config.model.kind, config.training.steps
    name = Path(config.data.source).name
    chain = ancestral.load_run(path)
    parameters = sum(p.numel() for p in chain.parameters())
    return chain, data, f"a {kind} of {parameters:,} parameters on {name}, T = {chain.T}, {steps} steps"


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a trained DDPM's folder")
    parser.add_argument("--n", type=int, default=IMAGES, help="different test images, at most")
    parser.add_argument("--seeds", type=int, default=50, help="repetitions of each estimate")
    parser.add_argument("--levels", type=int, default=40, help="levels in the table")
    parser.add_argument("--steps", type=int, default=300, help="of training, where no run is given")
    parser.add_argument("--quick", action="store_true", help="see in seconds that it works; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.n, options.seeds, options.levels, options.steps = 8, 1, 5, 2
    chain, data, name = trained(options.steps) if options.run is None else given(options.run)
    x = data.test.x[: options.n]
    reseed(CPU, 0)
    with evaluation_mode(chain):
        table = measured(chain, x, count=options.levels)
        each = swept(chain, x)
    points = curve(table, chain)
    index = torch.arange(64 if options.quick else IMAGES) % len(x)
    checks = [
        verified(chain, x[index], draws, levels, truth=float(each[index].mean()), times=options.seeds)
        for draws, levels in (VERIFIED[:1] if options.quick else VERIFIED)
    ]
    for check in checks:
        print(
            f"{check['draws']:<16} {check['levels']:>3} levels {check['calls']:7.2f} calls  "
            f"error {check['error']:.5f}  stated {check['stated']:.5f} bits/dim"
        )
    calls = needed(points)
    print(f"calls for {ASKED} bits/dim over {IMAGES} images: {calls}; the sweep takes {chain.T}")
    if options.quick:
        return
    result = {
        "name": "cost of knowing",
        "model": name,
        "different_images": len(x),
        "images": IMAGES,
        "asked": ASKED,
        "calls_needed": calls,
        "elbo": float(each[index].mean()),
        "curve": points,
        "verified": checks,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "version": ancestral.__version__,
    }
    out = ROOT / "benchmarks" / "results" / "cost_of_knowing.json"
    out.write_text(json.dumps([result], indent=1) + "\n", encoding="utf-8")
    plotted(points, checks, ROOT / "docs" / "cost-of-knowing.png")
    best = calls["importance"]
    if best is None or best > chain.T / FEWER:
        sys.exit(f"importance draws need {best} calls an image, more than {chain.T} / {FEWER}")


if __name__ == "__main__":
    main()
