"""How much of the gap between the ELBO and log p(x) each family of posteriors closes, and a picture of it.

    .venv/bin/python benchmarks/posteriors.py

8×8 digits cut at one half, a VAE of two latent numbers with an mlp of 64 units on either side, so that
log p(x) and the true posterior p(z|x) are had by quadrature. Two questions, one number of steps for each
family:

* the same decoder: one decoder is trained (with a spline posterior, which constrains it least) and kept, and
  an encoder of each family is trained for it. All gaps are to the same posteriors, which the picture shows;
* a decoder of its own: each family is trained from the start with its decoder, as a user would.

Gaps are in nats, by quadrature, over the first test digits. Writes benchmarks/results/posteriors.json and
docs/posteriors.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any, get_args

import torch

import ancestral
from ancestral.config.autoencoders import Q
from ancestral.evaluation import Estimate, posterior_grids, save_posteriors

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


def config(q: Q) -> ancestral.VAEConfig:
    """The model of a family: the same networks but for the encoder's last layer."""
    flow = FLOW if q in ("iaf", "spline") else ancestral.FlowConfig()
    return ancestral.VAEConfig(q=q, flow=flow, network="mlp", hidden=(64,), latent_dims=2)


def trained(q: Q, data: ancestral.Dataset, steps: int, *, decoder: Any = None) -> tuple[ancestral.VAE, float]:
    """A VAE of the family, and the seconds it took; with ``decoder``, that one, which is not trained."""
    torch.manual_seed(0)
    chain = ancestral.build_chain(config(q), data.spec, train=data.seen())
    assert isinstance(chain, ancestral.VAE)
    if decoder is not None:
        chain.decoder = decoder
    for parameter in chain.decoder.parameters():
        parameter.requires_grad_(decoder is None)
    start = time.perf_counter()
    training = ancestral.TrainingConfig(steps=steps, learning_rate=2e-3, compile="off", precision="fp32")
    ancestral.fit(chain, data, training, device="cpu")
    return chain, time.perf_counter() - start


def measured(chain: ancestral.VAE, data: ancestral.Dataset, n: int, seconds: float) -> tuple[Any, list[Any]]:
    """The figures of a chain, and the grids to show."""
    grids = posterior_grids(chain, data.test.x[:n], cells=81)
    figures = {
        "gap": Estimate.of(torch.tensor([grid.gap for grid in grids])).json(),
        "log_likelihood": Estimate.of(torch.tensor([grid.log_likelihood for grid in grids])).json(),
        "least_share_of_q_on_a_grid": min(grid.share for grid in grids),
        "seconds_of_training": round(seconds, 2),
    }
    return figures, posterior_grids(chain, data.test.x[:SHOWN])


def main() -> None:
    """Train and measure each family; print a line each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="of each training")
    parser.add_argument("--n", type=int, default=100, help="test digits that are measured")
    parser.add_argument("--quick", action="store_true", help="a few steps and digits, and nothing is written")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.n = 20, 4
    data = ancestral.load_data("digits", binarize="threshold")
    free, seconds = trained("spline", data, options.steps)
    results: dict[str, dict[str, Any]] = {"same decoder": {}, "own decoder": {}}
    rows = {}
    for q in FAMILIES:
        fixed = trained(q, data, options.steps, decoder=free.decoder)
        results["same decoder"][q], rows[NAMES[q]] = measured(fixed[0], data, options.n, fixed[1])
        own = (free, seconds) if q == "spline" else trained(q, data, options.steps)
        results["own decoder"][q], _ = measured(own[0], data, options.n, own[1])
        for which, found in results.items():
            gap, likelihood = found[q]["gap"], found[q]["log_likelihood"]
            print(
                f"{which:<13} {q:<9} gap {gap['mean']:6.3f} ± {gap['stderr']:.3f} nats, log p(x) "
                f"{likelihood['mean']:8.3f} ± {likelihood['stderr']:.3f}",
                flush=True,
            )
    if options.quick:
        return
    facts = {
        "name": "posteriors",
        "data": "digits, threshold, test",
        "n": options.n,
        "steps": options.steps,
        "seed": 0,
        "unit": "nats",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "version": ancestral.__version__,
    }
    out = HERE / "results" / "posteriors.json"
    out.write_text(json.dumps([{**facts, **results}], indent=1) + "\n", encoding="utf-8")
    save_posteriors(HERE.parent / "docs" / "posteriors.png", rows)


if __name__ == "__main__":
    main()
