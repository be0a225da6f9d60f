"""What is wrong with what a user gives: one clear message for each, and nothing changed on the disk.

The messages stand in docs/mistakes.md. ``ANCESTRAL_DOCS=write pytest -n 0 tests/cli/test_bad_input.py``
writes it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ancestral
from ancestral._internal import checks
from commands import Answer, call

PAGE = Path(__file__).parents[2] / "docs" / "mistakes.md"
WRITE = os.environ.get("ANCESTRAL_DOCS") == "write"
TRAIN = ("--out", "run", "--steps", 2, "--batch-size", 8, "--device", "cpu")
VAE = ("train", "vae")
HEAD = """# Mistakes, and what is said of them

Whatever cannot be done is refused with one message (what was given, what is allowed, what to do) and an exit
status other than 0; what was there before is as it was, and nothing half-written is left. Each line of this
table is what a test gives and what it is answered: `tests/cli/test_bad_input.py`.

| what is wrong | command | message |
| --- | --- | --- |
"""


@dataclass(frozen=True)
class Case:
    """One mistake: ``make`` sets the scene in the working directory and returns the command."""

    what: str
    make: Callable[[Path], list[object]]
    status: int = 2


CASES: list[Case] = []


def case(
    what: str, *, status: int = 2
) -> Callable[[Callable[[Path], list[object]]], Callable[[Path], list[object]]]:
    def add(make: Callable[[Path], list[object]]) -> Callable[[Path], list[object]]:
        CASES.append(Case(what, make, status))
        return make

    return add


def array(name: str, x: np.ndarray, **save: bool) -> list[object]:
    np.save(name, x, **save)
    return [*VAE, "--data", name, *TRAIN]


def grey(n: int = 40, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8)


def pictures(folder: Path, n: int = 12, size: int = 8) -> None:
    folder.mkdir()
    for number, pixels in enumerate(grey(n, size)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def idx(folder: Path, *, magic: int = 2051, cut: int = 0) -> list[object]:
    folder.mkdir()
    for part in ("train", "t10k"):
        content = struct.pack(">IIII", magic, 20, 8, 8) + grey(20).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(content[: len(content) - cut])
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 20) + bytes(20))
    return [*VAE, "--data", folder.name, *TRAIN]


def table(text: str | bytes) -> list[object]:
    Path("people.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return [*VAE, "--data", "people.csv", *TRAIN]


def rows(n: int = 40) -> str:
    numbers = np.random.default_rng(0).normal(size=(n, 2))
    return "age,height\n" + "".join(f"{a:.3f},{b:.3f}\n" for a, b in numbers)


# Where data should be --------------------------------------------------------------------------------


@case("a path that is not there")
def _(place):
    return [*VAE, "--data", "nowhere.npy", *TRAIN]


@case("a built-in name, misspelt")
def _(place):
    return [*VAE, "--data", "digts", *TRAIN]


@case("an empty folder")
def _(place):
    Path("pictures").mkdir()
    return [*VAE, "--data", "pictures", *TRAIN]


@case("a kind of file that is not read")
def _(place):
    Path("notes.txt").write_text("hello")
    return [*VAE, "--data", "notes.txt", *TRAIN]


# Images ----------------------------------------------------------------------------------------------


@case("a folder with an image that is broken")
def _(place):
    pictures(place / "pictures")
    (place / "pictures" / "05.png").write_bytes(b"broken")
    return [*VAE, "--data", "pictures", *TRAIN]


@case("images of several sizes, and no --image-size")
def _(place):
    pictures(place / "pictures")
    Image.new("L", (9, 7)).save(place / "pictures" / "wide.png")
    return [*VAE, "--data", "pictures", *TRAIN]


@case("an image that would fill the memory (a decompression bomb)")
def _(place):
    pictures(place / "pictures")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (place / "pictures" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return [*VAE, "--data", "pictures", *TRAIN]


@case("an IDX file that was cut short")
def _(place):
    return idx(place / "mnist", cut=100)


@case("an IDX file with a wrong magic number")
def _(place):
    return idx(place / "mnist", magic=1234)


@case("images smaller than the network can halve")
def _(place):
    np.save("tiny.npy", grey(size=4))
    return ["train", "ddpm", "--data", "tiny.npy", *TRAIN, "--model.channels", 8, 8, 8, 8, 8]


@case("a Bernoulli decoder on 256 grey levels")
def _(place):
    return [*array("grey.npy", grey()), "--model.likelihood.kind", "bernoulli"]


# Arrays ----------------------------------------------------------------------------------------------


@case("not-a-number in the data")
def _(place):
    x = np.ones((40, 3), np.float32)
    x[7, 1] = np.nan
    return array("x.npy", x)


@case("infinity in the data")
def _(place):
    x = np.ones((40, 3), np.float32)
    x[7, 1] = np.inf
    return array("x.npy", x)


@case("an array of Python objects")
def _(place):
    return array("x.npy", np.array([{}] * 40), allow_pickle=True)


@case("complex numbers")
def _(place):
    return array("x.npy", np.ones((40, 3), np.complex64))


@case("no rows")
def _(place):
    return array("x.npy", np.ones((0, 3), np.float32))


@case("labels of another length")
def _(place):
    np.savez("x.npz", x=grey(), y=np.zeros(39, np.int64))
    return [*VAE, "--data", "x.npz", *TRAIN]


@case("an .npz that was cut short")
def _(place):
    np.savez("x.npz", x=grey())
    Path("x.npz").write_bytes(Path("x.npz").read_bytes()[:-500])
    return [*VAE, "--data", "x.npz", *TRAIN]


# Tables ----------------------------------------------------------------------------------------------


@case("a CSV with a column of text")
def _(place):
    return table("age,city\n" + "".join(f"{i},Rome\n" for i in range(40)))


@case("a CSV with ragged rows")
def _(place):
    return table(rows() + "1,2,3\n")


@case("a CSV in another encoding")
def _(place):
    return table("größe,alter\n".encode("latin-1") + b"1,2\n" * 40)


@case("a CSV with a missing value")
def _(place):
    return table(rows() + "1,\n")


@case("a column of labels that is not there")
def _(place):
    return [*table(rows()), "--label", "heigth"]


# Options ---------------------------------------------------------------------------------------------


@case("a command, misspelt")
def _(place):
    return ["trian", "vae"]


@case("a model, misspelt")
def _(place):
    return ["train", "vea", "--data", "digits", *TRAIN]


@case("an option, misspelt")
def _(place):
    return [*VAE, "--data", "digits", *TRAIN, "--batchsize", 3]


@case("a choice, misspelt")
def _(place):
    return ["train", "ddpm", "--data", "digits", *TRAIN, "--model.schedule", "cosin"]


@case("an option that is missing")
def _(place):
    return [*VAE, "--data", "digits"]


@case("a word where a number should be")
def _(place):
    return [*VAE, "--data", "digits", "--out", "run", "--steps", "many"]


@case("a negative number")
def _(place):
    return [*VAE, "--data", "digits", "--out", "run", "--steps", -5]


@case("zero")
def _(place):
    return [*VAE, "--data", "digits", "--out", "run", "--batch-size", 0]


@case("an absurd number")
def _(place):
    return [*VAE, "--data", "digits", *TRAIN, "--model.latent-dims", 10**9]


@case("T < 1")
def _(place):
    return ["train", "ddpm", "--data", "digits", *TRAIN, "--model.T", 0]


@case("a batch larger than the data")
def _(place):
    np.save("few.npy", grey(20))
    return [*VAE, "--data", "few.npy", "--out", "run", "--batch-size", 64]


@case("a device that is not there")
def _(place):
    return [*VAE, "--data", "digits", "--out", "run", "--device", "cuda"]


# Runs ------------------------------------------------------------------------------------------------


def run_here(runs: Path, kind: str = "vae") -> Path:
    shutil.copytree(runs / kind, "run")
    return Path("run")


@case("an --out that holds another run")
def _(place):
    run_here(place / "kept")
    return [*VAE, "--data", "digits", *TRAIN]


@case("an --out that cannot be written")
def _(place):
    Path("file").write_text("")
    return [*VAE, "--data", "digits", "--out", "file/run", "--steps", 2]


@case("a run that is not there")
def _(place):
    return ["evaluate", "runs/vea"]


def checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1] / "state.safetensors"


@case("a checkpoint that was cut short")
def _(place):
    path = checkpoint(run_here(place / "kept"))
    path.write_bytes(path.read_bytes()[:-1000])
    return ["evaluate", "run"]


@case("a checkpoint that was edited")
def _(place):
    path = checkpoint(run_here(place / "kept"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 255
    path.write_bytes(content)
    return ["evaluate", "run"]


@case("a checkpoint of another model")
def _(place):
    run = run_here(place / "kept")
    other = checkpoint(place / "kept" / "ddpm").parent
    shutil.rmtree(checkpoint(run).parent)
    shutil.copytree(other, run / "checkpoints" / other.name)
    return ["evaluate", "run"]


def edited(run: Path, change: Callable[[dict], object]) -> None:
    facts = json.loads((run / "config.json").read_text())
    change(facts)
    (run / "config.json").write_text(json.dumps(facts))


@case("a config with an unknown key")
def _(place):
    edited(run_here(place / "kept"), lambda facts: facts["model"].update(widht=3))
    return ["evaluate", "run"]


@case("a config with a missing key")
def _(place):
    edited(run_here(place / "kept"), lambda facts: facts["training"].pop("seed"))
    return ["evaluate", "run"]


@case("a config that is no JSON")
def _(place):
    (run_here(place / "kept") / "config.json").write_text("{")
    return ["info", "run"]


@case("going on with a run whose model was changed")
def _(place):
    edited(run_here(place / "kept"), lambda facts: facts["model"].update(hidden=[9]))
    return ["train", "--resume", "run"]


@case("going on with a run on other data")
def _(place):
    np.save("other.npy", 255 - grey(60))
    run_here(place / "kept")
    return ["train", "--resume", "run", "--data", "other.npy"]


@case("going on with a run and other options")
def _(place):
    run_here(place / "kept")
    return ["train", "--resume", "run", "--batch-size", 50]


@case("making a run shorter")
def _(place):
    run_here(place / "kept")
    return ["train", "--resume", "run", "--steps", 1]


@case("evaluation on data of another shape")
def _(place):
    np.save("other.npy", grey(60, size=10))
    run_here(place / "kept")
    return ["evaluate", "run", "--data", "other.npy"]


@case("evaluation on data of another number of levels")
def _(place):
    np.savez("other.npz", x=grey(60) // 16, levels=16)
    run_here(place / "kept")
    return ["evaluate", "run", "--data", "other.npz"]


@case("a picture in a form that is not written")
def _(place):
    run_here(place / "kept")
    return ["sample", "run", "--out", "grid.jpg"]


# -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Runs to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("kept")
    np.save(folder / "grey.npy", grey(60))
    common = ("--steps", 2, "--batch-size", 8, "--device", "cpu", "--sample-every", 0, "--seed", 0)
    models = {
        "vae": ("--model.network", "mlp", "--model.hidden", 8, "--model.latent-dims", 3),
        "ddpm": ("--model.T", 8, "--model.channels", 4, "--model.blocks", 1),
    }
    for kind, options in models.items():
        answer = call("train", kind, *options, "--data", folder / "grey.npy", "--out", folder / kind, *common)
        assert answer.status == 0, answer.err
    return folder


def snapshot(place: Path) -> dict[str, str]:
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in place.rglob("*")
        if not path.is_symlink() and "kept" not in path.parts
    }


def given(arguments: list[object]) -> str:
    shown = " ".join(str(argument) for argument in arguments)
    usual = " ".join(str(argument) for argument in TRAIN)
    return f"ancestral {shown.replace(usual, '--out run …')}"


def documented() -> dict[str, tuple[str, str]]:
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []:
        cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[1].startswith("`"):
            found[cells[0]] = (cells[1].strip("`"), cells[2])
    return found


@pytest.fixture
def place(tmp_path, monkeypatch, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    (tmp_path / "kept").symlink_to(kept)
    return tmp_path


TOLD: dict[str, tuple[str, str]] = {}


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.what)
def test_it_is_refused_in_one_message_and_nothing_is_changed(one, place, kept):
    if "cuda" in one.what and torch.cuda.is_available():
        pytest.skip("there is one")
    arguments = one.make(place)
    before = snapshot(place)
    answer = call(*arguments)
    check(one, answer)
    assert snapshot(place) == before
    message = answer.err.strip().removeprefix("ancestral: ")
    # What is not the mistake's: where the test is.
    message = message.replace(f"{place}/", "").replace(str(kept), "kept").replace(str(place), ".")
    TOLD[one.what] = (given(arguments), message)
    if not WRITE:
        assert documented()[one.what] == TOLD[one.what]


def check(one: Case, answer: Answer) -> None:
    assert answer.status == one.status, answer.err
    assert answer.err.startswith("ancestral: ")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert len(answer.err) > 40


def test_the_documentation_has_these_and_no_others():
    if WRITE:
        lines = [
            f"| {what} | `{command.replace('|', chr(92) + '|')}` | {message.replace('|', chr(92) + '|')} |"
            for what, (command, message) in TOLD.items()
        ]
        PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    assert list(documented()) == [one.what for one in CASES]


@pytest.mark.parametrize("betas", [[0.0, 0.5], [0.5, 1.0], [-0.1], [float("nan")], []])
def test_betas_outside_of_0_and_1(betas):
    with pytest.raises(ValueError, match=r"beta|betas"):
        ancestral.Schedule(torch.tensor(betas, dtype=torch.float64))


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
from ancestral.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_full_disk_stops_with_a_message_and_what_was_complete_remains(place):
    """A quota of bytes per file stands for the disk: a checkpoint does not fit, small files do."""
    np.save("grey.npy", grey(40))
    small = ["--model.network", "mlp", "--model.hidden", "8", "--model.latent-dims", "3"]
    train = ["train", "vae", "--data", "grey.npy", "--out", "run", "--batch-size", "8", "--device", "cpu"]
    steps = ["--steps", "4", "--checkpoint-every", "2", "--sample-every", "0"]
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *train, *steps, *small, "--model.hidden", "300"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("ancestral: ")
    assert "Nothing that was complete before is lost" in last
    assert "Traceback" not in ended.stderr
    assert not list(Path("run/checkpoints").glob("step-*"))
    # With room again it goes on, and as if nothing had been.
    answer = call("train", "--resume", "run", "--device", "cpu")
    assert answer.status == 0, answer.err
    assert call("evaluate", "run", "--n", 3).status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("data pictures", "the cache in"),
        ("report kept/vae --quality 0 --out page.html", "Nothing that was complete before is lost"),
        ("sample kept/vae --n 2000 --out drawn.npy", "Nothing that was complete before is lost"),
        ("sample kept/vae --n 2000 --out drawn.png", "Nothing that was complete before is lost"),
    ],
)
def test_a_full_disk_leaves_nothing_half_written(arguments, words, place):
    pictures(place / "pictures", n=400, size=16)
    before = snapshot(place)
    cache = place.parent / f"{place.name}-cache"
    command = [sys.executable, "-c", FULL, *arguments.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (1, 2)
    assert words in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert snapshot(place) == before
    assert not cache.exists() or not list(cache.iterdir())


def test_suggestions_are_of_what_is_near():
    assert checks.suggest("cosin", ["cosine", "linear"]) == " Did you mean 'cosine'?"


def test_the_table_can_be_read_as_a_table():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    parsed = list(
        csv.reader([line for line in lines if line.startswith("| ")], delimiter="|", escapechar="\\")
    )
    assert {len(row) for row in parsed} == {5}
