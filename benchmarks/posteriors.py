"""How much of the gap between the ELBO and log p(x) each family of posteriors closes, and a picture of it.

    .venv/bin/python benchmarks/posteriors.py

8×8 digits cut at one half, and mlps of 64 units. For each of some seeds, one number of steps for each family:

* the same decoder: a VAE of two latent numbers is trained (with a spline posterior, which constrains it
  least), its decoder is kept, and an encoder of each family is trained for it. The gap to log p(x) is had by
  quadrature: as the encoder leaves it, and with q fitted to each digit by itself, which leaves the family's
  own share. The picture shows the fitted q over the true posterior;
* the same hierarchy: as above with two levels of two numbers, q from the data upwards and of the family at
  both levels; log p(x) from importance samples of the family with the tightest bound;
* a decoder of its own: each family is trained from the start with its decoder, as a user would.

Gaps are in nats over the first test digits; what a family saves is told beside the diagonal Gaussian's on the
same digits. Writes benchmarks/results/posteriors.json and docs/posteriors.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

import ancestral
from ancestral.bounds import Estimate, Fitting
from ancestral.bounds.fitted import fitted_features
from ancestral.bounds.hmc import frozen
from ancestral.config.autoencoders import Q
from ancestral.evaluation import PosteriorGrid, posterior_grids, save_posteriors
from ancestral.experiments.bench.machine import this_machine

HERE = Path(__file__).resolve().parent
FAMILIES: tuple[Q, ...] = get_args(Q)
NAMES = {
    "diagonal": "diagonal Gaussian",
    "full": "full covariance",
    "iaf": "inverse autoregressive",
    "spline": "neural spline",
}
FLOW = ancestral.FlowConfig(transforms=2, hidden=(32,), context=8)
SHOWN = 4
CELLS = 81
Gaps = dict[str, Tensor]
"""(n,) for each family: the gap of each digit."""


def vae(q: Q) -> ancestral.VAEConfig:
    """The model of a family: the same networks but for the encoder's last layer."""
    flow = FLOW if q in ("iaf", "spline") else ancestral.FlowConfig()
    return ancestral.VAEConfig(q=q, flow=flow, network="mlp", hidden=(64,), latent_dims=2)


def hierarchy(q: Q) -> ancestral.HVAEConfig:
    """Two levels of two numbers, the family at both."""
    flow = FLOW if q in ("iaf", "spline") else ancestral.FlowConfig()
    return ancestral.HVAEConfig(
        levels=2, posterior="bottom-up", q=q, flow=flow, network="mlp", hidden=(64,), latent_dims=(2, 2)
    )


def trained(config: Any, data: ancestral.Dataset, *, steps: int, seed: int, like: Any = None) -> Any:
    """A chain of these options; with ``like``, p is that chain's and only q is trained."""
    torch.manual_seed(seed)
    chain: Any = ancestral.build_chain(config, data.spec, train=data.seen())
    of_p = ["decoder", "downs"] if hasattr(chain, "downs") else ["decoder"]
    for name in of_p:
        if like is not None:
            setattr(chain, name, getattr(like, name))
        for parameter in getattr(chain, name).parameters():
            parameter.requires_grad_(like is None)
    training = ancestral.TrainingConfig(
        steps=steps, seed=seed, learning_rate=2e-3, compile="off", precision="fp32"
    )
    ancestral.fit(chain, data, training, device="cpu")
    return chain


class Given(nn.Module):
    """An encoder that gives one example's features, whatever it reads."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = nn.Parameter(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.h.expand(len(x), -1)


def fitted_grids(chain: Any, x: Tensor, fitting: Fitting) -> list[PosteriorGrid]:
    """q and the posterior of each digit on a grid, with q fitted to it."""
    torch.manual_seed(0)
    with frozen(chain):
        h = fitted_features(chain, x, fitting)
    encoder, grids = chain.encoder, []
    for i in range(len(x)):
        chain.encoder = Given(h[i : i + 1])
        grids += posterior_grids(chain, x[i : i + 1], cells=CELLS)
    chain.encoder = encoder
    return grids


def gaps_of(grids: list[PosteriorGrid]) -> Tensor:
    return torch.tensor([grid.gap for grid in grids])


def hierarchy_gaps(chains: dict[Q, Any], x: Tensor, samples: int) -> Gaps:
    """log p(x) from the importance samples whose bound is highest, minus each family's ELBO."""
    elbos, best = {}, []
    for q, chain in chains.items():
        found = ancestral.evaluate(chain, x, bound="iwae", samples=samples).tighter
        elbos[q], bound = found.curve.values[:, 0], found.curve.best
        best.append(bound)
    exact = max(best, key=lambda bound: float(bound.mean()))
    return {q: exact - elbo for q, elbo in elbos.items()}


def summary(gaps: list[Gaps]) -> dict[str, Any]:
    """Over digits and seeds: each family's gap, and what it is below the diagonal's on the same ones.

    A digit's errors are averaged over seeds first, as digits are what figures are to be generalised over.
    """
    mean = {q: torch.stack([one[q] for one in gaps]).mean(dim=0) for q in FAMILIES}
    return {
        q: {
            "gap": Estimate.of(mean[q]).json(),
            "below_diagonal": Estimate.of(mean["diagonal"] - mean[q]).json(),
        }
        for q in FAMILIES
    }


def main() -> None:
    """Train and measure each family; print a line each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="of each training")
    parser.add_argument("--n", type=int, default=100, help="test digits that are measured")
    parser.add_argument("--seeds", type=int, default=2, help="of weights and training")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples of a hierarchy")
    parser.add_argument("--quick", action="store_true", help="a few steps and digits, and nothing is written")
    options = parser.parse_args()
    fitting = Fitting(steps=1000)
    if options.quick:
        options.steps, options.n, options.seeds, options.samples = 20, 4, 1, 50
        fitting = Fitting(steps=5)
    data = ancestral.load_data("digits", binarize="threshold")
    x = data.test.x[: options.n]
    found: dict[str, list[Gaps]] = {
        name: [] for name in ("same decoder", "same decoder, q fitted", "same hierarchy", "own decoder")
    }
    rows: dict[str, list[PosteriorGrid]] = {}
    for seed in range(options.seeds):

        def train(config: Callable[[Q], Any], q: Q, like: Any = None, seed: int = seed) -> Any:
            return trained(config(q), data, steps=options.steps, seed=seed, like=like)

        free = train(vae, "spline")
        same = {q: train(vae, q, free) for q in FAMILIES}
        fitted = {q: fitted_grids(same[q], x, fitting) for q in FAMILIES}
        rows = rows or {NAMES[q]: grids[:SHOWN] for q, grids in fitted.items()}
        own = {q: free if q == "spline" else train(vae, q) for q in FAMILIES}
        found["same decoder"].append({q: gaps_of(posterior_grids(same[q], x, cells=CELLS)) for q in FAMILIES})
        found["same decoder, q fitted"].append({q: gaps_of(fitted[q]) for q in FAMILIES})
        found["own decoder"].append({q: gaps_of(posterior_grids(own[q], x, cells=CELLS)) for q in FAMILIES})
        top = train(hierarchy, "spline")
        levels = {q: train(hierarchy, q, top) for q in FAMILIES}
        found["same hierarchy"].append(hierarchy_gaps(levels, x, options.samples))
        print(f"seed {seed} done", flush=True)
    results = {name: summary(gaps) for name, gaps in found.items()}
    for name, families in results.items():
        for q, one in families.items():
            gap, below = (Estimate.from_json(one[name]) for name in ("gap", "below_diagonal"))
            print(f"{name:<23} {q:<9} gap {gap:6.3f} nats, below the diagonal's by {below:6.3f}")
    if options.quick:
        return
    facts = {
        "name": "posteriors",
        "data": "digits, threshold, test",
        "n": options.n,
        "steps": options.steps,
        "seeds": options.seeds,
        "unit": "nats",
        "machine": str(this_machine(torch.device("cpu"))),
        "version": ancestral.__version__,
    }
    out = HERE / "results" / "posteriors.json"
    out.write_text(json.dumps([{**facts, **results}], indent=1) + "\n", encoding="utf-8")
    save_posteriors(HERE.parent / "docs" / "posteriors.png", rows)


if __name__ == "__main__":
    main()
