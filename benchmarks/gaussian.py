"""The three families at default settings on data whose entropy is known: how close is each bound?

    .venv/bin/python benchmarks/gaussian.py

20,000 vectors from a 6-dimensional Gaussian with a random covariance (seed 1), 3,000 steps with every
option at its default. No ELBO may exceed minus the entropy by more than its error bar; the gap left is
printed in nats, beside the mean of the true log density on the same test vectors.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import ancestral

DIMS, COUNT, SEED = 6, 20_000, 1
MODELS: dict[str, ancestral.VAEConfig | ancestral.HVAEConfig | ancestral.DDPMConfig] = {
    "vae": ancestral.VAEConfig(),
    "hvae, top-down": ancestral.HVAEConfig(),
    "hvae, bottom-up": ancestral.HVAEConfig(posterior="bottom-up"),
    "ddpm": ancestral.DDPMConfig(),
}


def main() -> None:
    """Train and evaluate each model; print a line each and write the results."""
    generator = torch.Generator().manual_seed(SEED)
    factor = torch.randn(DIMS, DIMS, generator=generator, dtype=torch.float64)
    covariance = factor @ factor.T / DIMS + 0.1 * torch.eye(DIMS)
    mean = 3.0 * torch.randn(DIMS, generator=generator, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(mean, covariance)
    noise = torch.randn(COUNT, DIMS, generator=generator, dtype=torch.float64)
    values = mean + noise @ torch.linalg.cholesky(covariance).T
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gaussian.npy"
        np.save(path, values.float().numpy())
        data = ancestral.load_data(str(path))
    bound, true = -float(truth.entropy()), float(truth.log_prob(data.test.x.double()).mean())
    print(f"minus the entropy: {bound:.4f} nats; mean log density of the test vectors: {true:.4f}")
    results = []
    for name, config in MODELS.items():
        torch.manual_seed(0)
        chain = ancestral.build_chain(config, data.spec, train=data.seen())
        training = ancestral.TrainingConfig()
        ancestral.fit(chain, data, training)
        samples = 1 if name == "ddpm" else 20
        levels = 100 if name == "ddpm" else None
        elbo = ancestral.evaluate(chain, data.test.x, samples=samples, levels=levels).elbo
        result = {
            "model": name,
            "elbo": elbo.mean,
            "stderr": elbo.stderr,
            "minus_entropy": bound,
            "gap": bound - elbo.mean,
            "test_log_density": true,
            "steps": training.steps,
            "batch_size": training.batch_size,
            "n": len(data.test),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }
        results.append(result)
        print(f"{name:<16} ELBO {elbo:8.4f}, gap {result['gap']:7.4f} nats", flush=True)
    out = Path(__file__).parent / "results" / "gaussian.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if any(r["gap"] > 0.2 or r["gap"] < -2.0 * r["stderr"] for r in results):
        sys.exit("a bound is further than 0.2 nats from the entropy, or beyond it")


if __name__ == "__main__":
    main()
