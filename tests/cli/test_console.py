"""Any character can be written, whatever the terminal shows, and nothing after it is lost."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ancestral
from ancestral.cli.console import any_character

NAME = os.fsdecode(b"caf\xe9")
TEXT = f"−85.1 ± 0.2 ≥ … 学 {NAME} 🙂\nafter"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "-85.1 +- 0.2 >= ... \\u5b66 caf\\udce9 \\U0001f642\nafter"),
        ("latin-1", "-85.1 ± 0.2 >= ... \\u5b66 caf\\udce9 \\U0001f642\nafter"),
        ("utf-8", "−85.1 ± 0.2 ≥ … 学 caf\\udce9 🙂\nafter"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_characters_are_replaced(stream, errors, encoding, expected, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, encoding=encoding, errors=errors))
    with any_character():
        print(TEXT, end="", file=getattr(sys, stream), flush=True)
    assert raw.getvalue().decode(encoding) == expected
    assert getattr(sys, stream).errors == errors


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"PYTHONIOENCODING": "latin-1:strict"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "utf-8:strict"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_commands_end_well_in_any_locale(environment, tmp_path):
    """Help, a mistake, and a table with names that are not ASCII."""
    run = [sys.executable, "-m", "ancestral"]
    source = str(Path(ancestral.__file__).parents[1])
    rest = {
        **os.environ,
        "PYTHONPATH": source,
        "OMP_NUM_THREADS": "1",
        "ANCESTRAL_CACHE": str(tmp_path / "cache"),
        **environment,
    }
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "größe.csv").write_text(
        "größe,b\n" + "1.5,2.5\n2.5,0.5\n0.1,0.4\n" * 9, encoding="utf-8"
    )
    for arguments, status in (
        (["sample", "--help"], 0),
        (["train", "vae", "--data", NAME + "é", "--out", "r"], 2),
        (["data", os.path.join(NAME, "größe.csv")], 0),
    ):
        ended = subprocess.run([*run, *arguments], capture_output=True, env=rest, cwd=tmp_path, timeout=120)
        assert ended.returncode == status, ended.stderr
        assert b"Traceback" not in ended.stderr
        if arguments[0] == "data":
            # The last line is there.
            assert b"ddpm" in ended.stdout.splitlines()[-1]


def test_a_full_standard_output_is_a_message(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "ancestral", "train"], stdout=full, stderr=subprocess.PIPE, timeout=120
        )
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines() == [
        "ancestral: standard output: No space left on device. Nothing that was complete before is lost."
    ]
