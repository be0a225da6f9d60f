"""Checkpoints: a folder with state.safetensors and state.json, complete or absent, never half there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ancestral._internal.atomic import TEMPORARY
from ancestral._internal.tensors import load_tensors

FORMAT = 1
_PREFIX = "step-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or is not of this model."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    *,
    images_seen: int,
    decisions: dict[str, Any] | None = None,
    held_out: dict[str, Any] | None = None,
) -> Path:
    """Write ``folder``/step-…, its tensors and, as JSON, how far it is; returns its path.

    Written under a temporary name and renamed when all of it is on the disk, so that a process killed
    at any moment leaves whole checkpoints only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(tensors, temporary / "state.safetensors")
        digest = _sha256(temporary / "state.safetensors")
        facts = {"format": FORMAT, "step": step, "images_seen": images_seen, "sha256": digest}
        facts["decisions"] = decisions or {}
        if held_out is not None:
            facts["held_out"] = held_out
        (temporary / "state.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        for name in ("state.safetensors", "state.json"):
            _sync(temporary / name)
    except (OSError, SafetensorError) as error:
        # A full disk: what was written of it would keep it full.
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"{final} cannot be written ({error}). Make room, then go on with the run") from error
    if final.exists():
        _remove(final)
    temporary.rename(final)
    return final


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a checkpoint. ``CheckpointError`` when it is cut short or was edited."""
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not a checkpoint of this format (format {FORMAT}).")
        for name in ("step", "images_seen"):
            if not isinstance(facts.get(name), int):
                raise CheckpointError(
                    f"{path / 'state.json'}: {name} is {facts.get(name)!r}; it must be a whole number. "
                    "Remove this folder to go on from an older checkpoint."
                )
        if facts.get("sha256") != _sha256(path / "state.safetensors"):
            raise CheckpointError(
                f"{path}: state.safetensors is not the file that was saved (cut short or edited). Remove "
                "this folder to go on from an older checkpoint."
            )
        return load_tensors(path / "state.safetensors"), facts
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}). Remove this folder to go on from an older one."
        ) from error


def checkpoint_digest(path: Path) -> str:
    """The digest of a checkpoint's tensors, without reading them. ``CheckpointError`` as ``load_checkpoint``."""
    try:
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error}). Remove this folder to resume from an older one."
        ) from error


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    numbered = (path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdecimal())
    return sorted((path for path in numbered if path.is_dir()), key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint is of, from its name."""
    return int(path.name[len(_PREFIX) :])


def prune(folder: Path, keep: int, *, spare: int | None = None) -> None:
    """Remove all but the ``keep`` newest checkpoints, and what interrupted ones left.

    That of step ``spare`` stays, and is not one of the ``keep`` unless it is the newest.
    """
    points = checkpoints(folder)
    counted = [path for path in points if step_of(path) != spare or path == points[-1]]
    for path in counted[:-keep]:
        _remove(path)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    # Renamed first: a half-removed checkpoint must not look like one.
    doomed = path.with_name(f"{TEMPORARY}removed-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
