"""Checkpoints: complete or absent, never half there, and never taken for what they are not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ancestral._internal.atomic import write_text_atomically
from ancestral.training import CheckpointError, load_checkpoint, save_checkpoint
from ancestral.training import checkpoint as module
from ancestral.training.checkpoint import checkpoints, prune


def tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "model/w": torch.full((2, 3), value),
        "optimizer/step/w": torch.tensor(value),
        "model/bits": torch.tensor([1, 2], dtype=torch.uint8),
        "model/double": torch.tensor([value / 3], dtype=torch.float64),
    }


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = save_checkpoint(tmp_path / "new" / "place", 12, tensors(), images_seen=99)
    assert path == tmp_path / "new" / "place" / "step-00000012"
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "state.safetensors"]
    loaded, facts = load_checkpoint(path)
    assert (facts["step"], facts["images_seen"]) == (12, 99)
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    for value in (1.0, 2.0):
        path = save_checkpoint(tmp_path, 3, tensors(value), images_seen=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert float(load_checkpoint(path)[0]["optimizer/step/w"]) == 2.0


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 30, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, tensors(), images_seen=step)
    (tmp_path / ".incomplete-step-00000031").mkdir()
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-00000032").write_text("a file")
    assert [module.step_of(path) for path in checkpoints(tmp_path)] == [1, 2, 30, 99_999_999, 100_000_000]
    prune(tmp_path, 2)
    assert [module.step_of(path) for path in checkpoints(tmp_path)] == [99_999_999, 100_000_000]
    assert not (tmp_path / ".incomplete-step-00000031").exists()
    assert (tmp_path / "step-notes").exists()


class Killed(BaseException):
    """What stops a process, nowhere caught."""


CALLS = [
    *((Path, name) for name in ("mkdir", "rename", "write_text")),
    (os, "fsync"),
    (shutil, "rmtree"),
    (module, "save_file"),
]
"""Everything that saving does to the disk."""


def save_and_prune(folder: Path, step: int, *, keep: int) -> None:
    save_checkpoint(folder, step, tensors(float(step)), images_seen=step)
    prune(folder, keep)


def half_removed(folder: Path) -> None:
    """What removing a folder has done when it is stopped on its way."""
    for path in list(folder.glob("*"))[:1]:
        path.unlink()


def cut(monkeypatch, call: int, *, after: bool) -> None:
    """Make the disk's call of this number the last one, before or after it has done its work."""
    count, remove = [0], shutil.rmtree

    def counted(original):
        def wrapped(*args, **kwargs):
            count[0] += 1
            if count[0] == call and not after:
                if original is remove:
                    half_removed(args[0])
                raise Killed
            out = original(*args, **kwargs)
            if count[0] == call:
                raise Killed
            return out

        return wrapped

    for owner, name in CALLS:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("after", [False, True])
def test_wherever_saving_is_cut_short_a_whole_checkpoint_is_there(after, tmp_path, monkeypatch):
    for call in itertools.count(1):
        folder = tmp_path / str(call)
        for step in (1, 2):
            save_and_prune(folder, step, keep=2)
        with monkeypatch.context() as patch:
            cut(patch, call, after=after)
            try:
                save_and_prune(folder, 3, keep=1)
                break
            except Killed:
                pass
        there = checkpoints(folder)
        assert module.step_of(there[-1]) >= 2
        for path in there:
            loaded, facts = load_checkpoint(path)
            assert float(loaded["optimizer/step/w"]) == facts["step"] == module.step_of(path)
        # And whatever lies about, the next saving is as good as the first.
        save_and_prune(folder, 4, keep=1)
        assert [p.name for p in folder.iterdir()] == ["step-00000004"]
    assert call > 12


def damage(path: Path, how: str) -> None:
    state, facts = path / "state.safetensors", path / "state.json"
    body = state.read_bytes()
    if how == "cut short":
        state.write_bytes(body[:-1])
    elif how == "one bit":
        state.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    elif how == "empty":
        state.write_bytes(b"")
    elif how == "no tensors":
        state.unlink()
    elif how == "no facts":
        facts.unlink()
    elif how == "empty facts":
        facts.write_text("")
    elif how == "not text":
        facts.write_bytes(b"\xff\xfe")
    elif how == "a list":
        facts.write_text("[]")
    else:
        values = json.loads(facts.read_text())
        name, _, value = how.partition(" ")
        if value:
            values[name] = json.loads(value)
        else:
            del values[name]
        facts.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "how",
    [
        *("cut short", "one bit", "empty", "no tensors", "no facts", "empty facts", "not text", "a list"),
        *("format", "format 2", "sha256", 'sha256 "0"', "step", "step 1.5", "images_seen", 'images_seen "3"'),
    ],
)
def test_a_damaged_checkpoint_is_named(how, tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(), images_seen=16)
    load_checkpoint(path)
    damage(path, how)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_text_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text_atomically(path, "old")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            write_text_atomically(path, "new")
    assert path.read_text() == "old"
    write_text_atomically(path, "newer")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "newer")]
