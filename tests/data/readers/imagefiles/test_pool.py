"""Many files: the same pixels, in the same order, whether they are decoded here or by processes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ancestral.data.readers.imagefiles import pool as pools
from ancestral.data.readers.imagefiles.decode import Decoded, Form
from ancestral.data.readers.imagefiles.pool import Pool
from ancestral.data.readers.imagefiles.worker import Unread


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    paths = []
    for number in range(300):
        path = tmp_path / f"{number:03}.png"
        if number == 250:
            path.write_bytes(b"broken")
        else:
            Image.fromarray(generator.integers(0, 256, (5, 4), np.uint8)).save(path)
        paths.append(str(path))
    Image.new("RGB", (4, 5)).save(tmp_path / "299.png")
    return [(path, 100) for path in paths]


def decoded(files, form):
    with Pool(len(files)) as pool:
        return [pair for batch in pool.decode(iter(files), form) for pair in zip(*batch, strict=True)]


def test_processes_and_none_give_the_same(files, monkeypatch):
    monkeypatch.setattr(pools, "_BATCH_FILES", 7)
    form = Form(1, only_grey=True)
    many = decoded(files, form)
    monkeypatch.setattr(pools, "FEW", 1_000)
    few = decoded(files, form)
    assert [path for path, _ in many] == [path for path, _ in few] == [path for path, _ in files]
    for (path, one), (_, other) in zip(many, few, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Decoded):
            np.testing.assert_array_equal(one.pixels, other.pixels)
            np.testing.assert_array_equal(one.pixels[0], np.asarray(Image.open(path)))
        else:
            assert one == other
    assert many[250][1] == Unread("it is of no kind that Pillow reads")
    assert many[299][1] == Unread(form=Form(3))


def test_a_process_that_dies_is_started_again(files):
    with Pool(len(files)) as pool:
        for process in pool._all:
            process.kill()
            process.wait()
        found = [result for _, results in pool.decode(iter(files), Form(1)) for result in results]
    assert sum(isinstance(result, Decoded) for result in found) == 299


def test_a_file_that_ends_its_process_is_the_one_that_is_bad(files, monkeypatch):
    real = pools._answered

    def answered(process, batch, form):
        if any(path.endswith("123.png") for path in batch):
            process.kill()
            process.wait()
        return real(process, batch, form)

    monkeypatch.setattr(pools, "_answered", answered)
    found = dict(decoded(files, Form(1)))
    bad = {path[-7:-4] for path, result in found.items() if isinstance(result, Unread)}
    assert bad == {"123", "250"}


def test_a_script_without_a_guard_can_load_a_folder(files, tmp_path):
    """multiprocessing would run it again in each process."""
    folder = str(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "from ancestral.data import load_data, Reading\n"
        f"data = load_data({folder!r}, reading=Reading(skip_bad=True))\n"
        "print(data.spec.shape, len(data.train) + len(data.validation) + len(data.test))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert ended.stdout == "(3, 5, 4) 299\n", ended.stderr
