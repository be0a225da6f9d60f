"""Images of odd and thin shapes: default options train, or an error says what does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ancestral
from inputs.cases import Cases

CASES = Cases("Thin and tiny images")
SMALL = {
    "vae": ancestral.VAEConfig(),
    "bottom-up": ancestral.HVAEConfig(posterior="bottom-up", hidden=(16,)),
    "ladder": ancestral.HVAEConfig(),
    "ddpm": ancestral.DDPMConfig(T=4),
}


def trained(x: np.ndarray, kind: str) -> None:
    """Train two steps on x and check that the samples have its shape and the ELBO is finite."""
    np.save("x.npy", x)
    data = ancestral.load_data("x.npy")
    torch.manual_seed(0)
    chain = ancestral.build_chain(SMALL[kind], data.spec, train=data.seen())
    plan = ancestral.TrainingConfig(steps=2, batch_size=8, evaluate_every=0)
    chain = ancestral.fit(chain, data, plan).chain
    assert tuple(chain.sample(2).shape[1:]) == data.spec.shape
    assert np.isfinite(ancestral.evaluate(chain, data.test.x[:5]).elbo.mean)


def grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, *shape)).astype(np.uint8)


@CASES.add(
    "series of 1×128 and 128×1 as images",
    answer="VAEs train; a DDPM's error says to store vectors",
)
def series(folder: Path) -> None:
    for shape in ((1, 128), (128, 1)):
        for kind in ("vae", "bottom-up", "ladder"):
            trained(grey(*shape), kind)
        with pytest.raises(ValueError, match=r"sides of at least 2.*floats of shape \(N, 128\)"):
            trained(grey(*shape), "ddpm")
    trained(grey(1, 128).reshape(60, 128).astype(np.float32), "ddpm")


@CASES.add(
    "images of one pixel", answer="VAEs train; for a ladder an error names --model.posterior bottom-up"
)
def one_pixel(folder: Path) -> None:
    for kind in ("vae", "bottom-up"):
        trained(grey(1, 1), kind)
    for kind in ("ladder", "ddpm"):
        with pytest.raises(ValueError, match=r"floats of shape \(N, "):
            trained(grey(1, 1), kind)
