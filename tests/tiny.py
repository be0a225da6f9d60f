"""Data sets, models and options of a few milliseconds, for tests of training, runs and commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.config import Binarize, DDPMConfig, HVAEConfig, ModelConfig, TrainingConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.data.raw import Array, Raw
from ancestral.data.sources import assemble
from ancestral.experiments.build import build_chain

MODELS: dict[str, ModelConfig] = {
    "vae-mlp": VAEConfig(network="mlp", hidden=(16,), latent_dims=4),
    "vae-conv": VAEConfig(width=8, latent_dims=4),
    "ladder": HVAEConfig(levels=2, width=8, latent_dims=(2,)),
    "bottom-up": HVAEConfig(levels=2, posterior="bottom-up", width=8, hidden=(8,), latent_dims=(4, 2)),
    "ddpm": DDPMConfig(T=12, channels=(8, 16), blocks=1),
    "transformer": DDPMConfig(T=12, network="transformer", width=16, blocks=2, heads=2),
}
"""One of each kind, for images of 8×8."""

TRAINING = TrainingConfig(
    steps=7,
    batch_size=16,
    learning_rate=2e-3,
    warmup=2,
    log_every=1,
    evaluate_every=3,
    sample_every=4,
    checkpoint_every=2,
)


def small(kind: str, data: Dataset) -> dict[str, Any]:
    """Options of size that the networks of a kind (a vae, ladder, bottom-up or ddpm) read for these data."""
    image = data.spec.is_image
    return {
        "vae": {"width": 4} if image else {"hidden": (5,)},
        "ladder": {"width": 4},
        "bottom-up": {"hidden": (5,)} | ({"width": 4} if image else {}),
        "ddpm": {"channels": (4,)} if image else {"width": 6},
    }[kind]


def with_dropout(model: ModelConfig) -> ModelConfig:
    """The same model with dropout."""
    return replace(model, dropout=0.3)


def built(model: ModelConfig, data: Dataset) -> Chain:
    """The chain of these options for these data, with weights from torch's global generator."""
    return build_chain(model, data.spec, train=data.seen())


def blobs(n: int, *, size: int = 8, channels: int = 1, levels: int = 17, seed: int = 0) -> Array:
    """Images of one soft spot each, (n, size, size[, channels]), in 0 … levels − 1."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.2, 0.8, (n, channels, 2, 1, 1)) * size
    axis = np.arange(size) + 0.5
    square = (axis[:, None] - centre[:, :, 0]) ** 2 + (axis[None, :] - centre[:, :, 1]) ** 2
    grey = np.round((levels - 1) * np.exp(-square / (0.1 * size * size))).astype(np.uint8)
    return grey[:, 0] if channels == 1 else grey.transpose(0, 2, 3, 1)


def images(
    n: int = 60, *, size: int = 8, channels: int = 1, levels: int = 17, binarize: Binarize = "none"
) -> Dataset:
    """Images in three splits; of 60, 38 are to train on, so that batches of 16 straddle epochs."""
    x = blobs(n, size=size, channels=channels, levels=levels)
    return assemble(Raw("blobs", x, levels=levels), binarize=binarize, validation=0.2)


def vectors(n: int = 80, *, dims: int = 2) -> Dataset:
    """Correlated real vectors, not centred, in three splits."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, dims)) @ rng.normal(size=(dims, dims)) + 3.0
    return assemble(Raw("cloud", x), validation=0.2)


def saved_images(folder: Path) -> str:
    """The path of a file of such images, as --data takes it. A file needs no scikit-learn to be read."""
    path = folder / "blobs.npz"
    np.savez(path, x=blobs(60), levels=17)
    return str(path)


def saved_vectors(folder: Path) -> str:
    """The path of a file of vectors of two numbers, as --data takes it."""
    path = folder / "cloud.npy"
    rng = np.random.default_rng(1)
    np.save(path, (rng.normal(size=(80, 2)) @ rng.normal(size=(2, 2)) + 3.0).astype(np.float32))
    return str(path)
