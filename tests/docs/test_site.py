"""The documentation's site builds without a warning, and its examples run."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ancestral.bounds.flow
import ancestral.evaluation
import ancestral.objectives  # noqa: F401
from commands import call

ROOT = Path(__file__).parents[2]
PAGES = ["images.md", "tables.md", "report.md", "custom-chain.md"]
LONG = {"images.md", "report.md"}


def pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name, colour in (("rose", (200, 30, 60)), ("violet", (120, 60, 190))):
        (folder / name).mkdir(parents=True)
        for number in range(100):
            high, wide = generator.integers(16, 24, 2)
            pixels = np.array(colour) + generator.integers(-30, 30, (high, wide, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def table(path: Path) -> None:
    generator = np.random.default_rng(0)
    lines = ["city,age,height,weight"]
    for number in range(600):
        height = generator.normal(170, 9)
        numbers = (generator.gamma(9, 4), height, generator.normal(height - 100, 8))
        lines.append(",".join([("Rome", "Oslo")[number % 2], *(f"{value:.2f}" for value in numbers)]))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAGES]
)
def test_the_examples_of_a_page_run(name, tmp_path, monkeypatch):
    """As they stand, but for the number of training steps, and of what takes long to measure of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "flowers")
    table(tmp_path / "people.csv")
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, flags=re.S)
    assert blocks
    names: dict = {"__name__": "example"}
    for language, block in blocks:
        if language == "python":
            exec(compile(re.sub(r"steps=\d+", "steps=4", block), name, "exec"), names)
            continue
        for line in (
            re.sub(r"--quality \d+", "--quality 8", re.sub(r"--steps \d+", "--steps 4", block))
            .strip()
            .splitlines()
        ):
            program, *arguments = shlex.split(line)
            assert program == "ancestral"
            if arguments[0] in ("compare", "report") and "--quality" not in arguments:
                arguments += ["--quality", "8"]
            if arguments[0] == "compare":
                arguments += ["--ddpm.T", "20", "--ddpm.blocks", "1"]
                arguments += [] if name == "tables.md" else ["--ddpm.channels", "8"]
            answer = call(*arguments)
            assert answer.status == 0, f"{line}\n{answer.err}"
            for word in arguments:
                if word.endswith((".png", ".csv")):
                    assert (tmp_path / word).exists(), line


def test_the_names_beside_the_lecture_notes_are_there():
    """Every `Class.name` of the page, and every function or class that it names alone."""
    text = (ROOT / "docs" / "notes.md").read_text(encoding="utf-8")
    known = {
        name: value
        for module in list(sys.modules.values())
        if module.__name__.startswith("ancestral")
        for name, value in vars(module).items()
        if isinstance(value, type)
    }
    pairs = set(re.findall(r"`([A-Z]\w+)\.(\w+)", text))
    assert ("ContinuousDiffusion", "matching_at") in pairs
    for owner, name in pairs:
        # Fields and buffers are of the instances: the class's source names them.
        written = re.search(rf"\b{name}\b", inspect.getsource(known[owner]))
        assert hasattr(known[owner], name) or written, f"{owner}.{name}"
    for name in re.findall(r"`([A-Z]\w+(?:Likelihood|Mixture|Schedule|HVAE|Flow|Normal))`", text):
        assert name in known


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for page in (tmp_path / "site").glob("*.html"):
        for link in Links(page.read_text(encoding="utf-8")).found:
            target = link.split("#")[0].split("?")[0]
            if target and ":" not in target and page.name != "404.html":
                assert (page.parent / target).exists(), f"{page.name}: {link}"
    assert "p_step" in (tmp_path / "site" / "custom-chain.html").read_text(encoding="utf-8")
