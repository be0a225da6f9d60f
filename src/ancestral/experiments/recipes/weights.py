"""The weights of a recorded result, beside its result.json: weights.safetensors.

They are the averaged ones that the figure was measured with, and the buffers; nothing of the optimiser. The
result holds the file's fingerprint, and the file is written after it and removed before it, so that weights
that are there are those of the result.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ancestral._internal.atomic import replacing
from ancestral._internal.randomness import own_randomness
from ancestral.core.chain import Chain
from ancestral.experiments.build import build_chain
from ancestral.experiments.recipes.recipe import SHELF, Recipe, open_recipe
from ancestral.experiments.recipes.result import Result
from ancestral.experiments.runs import RunFolder
from ancestral.training.state import model_tensors, restore_model

WEIGHTS = "weights.safetensors"
LARGEST = 3_000_000
"""Bytes that the file must stay below to be kept."""
_PREFIX = "model/"
"""Of the names in the file, as in a checkpoint."""


def record_result(recipe: Recipe, result: Result, chain: Chain) -> Result:
    """Replace the recipe's recorded result and its weights, those of ``chain``; returns what was recorded.

    Weights of ``LARGEST`` bytes or more are not kept, and the result says so: its ``weights`` are None.
    """
    tensors = {_PREFIX + name: tensor.cpu().contiguous() for name, tensor in model_tensors(chain).items()}
    content = save(tensors)
    kept = len(content) < LARGEST
    result = replace(result, weights=_fingerprint(content) if kept else None)
    path = recipe.path / WEIGHTS
    path.unlink(missing_ok=True)
    result.write(recipe.path / "result.json")
    if kept:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return result


def load_recipe(name: str, folder: Path = SHELF) -> Chain:
    """The chain that a recipe's recorded figure is of, on the CPU, in evaluation mode.

    ``ValueError`` when there is no such recipe, when no weights are recorded for it, or when the file is not
    the one that was recorded.
    """
    recipe = open_recipe(name, folder)
    result, path = recipe.result, recipe.path / WEIGHTS
    if result is None or result.weights is None or not path.is_file():
        raise ValueError(
            f"no weights are recorded for the recipe {name!r}. Train it: ancestral recipe run {name} --data "
            f"D --record, which keeps the weights where they are below {LARGEST / 1e6:g} MB."
        )
    content = path.read_bytes()
    if _fingerprint(content) != result.weights:
        raise ValueError(
            f"{path} is not the file that was recorded with result.json (cut short, edited or of another "
            "run). Put it back, or run the recipe again with --record."
        )
    run = RunFolder.open(recipe.path)
    # The weights drawn here are overwritten: the caller's random numbers are not to be spent on them.
    with own_randomness(torch.device("cpu")):
        chain = build_chain(run.config.model, run.spec)
    try:
        restore_model(chain, load(content), _PREFIX)
    except (ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} does not fit the options in {recipe.path / 'config.json'} ({error})."
        ) from error
    return chain.eval()


def _fingerprint(content: bytes) -> str:
    """Of a file, as in ``Result.weights``."""
    return hashlib.sha256(content).hexdigest()
