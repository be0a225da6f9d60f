"""docs/commands.md is what ``--help`` says.

``ANCESTRAL_DOCS=write pytest tests/docs/test_commands_page.py`` writes it.
"""

from __future__ import annotations

import os
from pathlib import Path

from ancestral.cli import COMMANDS
from commands import call

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
HEAD = "# Commands\n\nMade from `ancestral COMMAND --help`, which says the same.\n"
PARTS = {"train": (["vae"], ["hvae"], ["ddpm"], ["--resume"]), "recipe": (["list"], ["run"])}


def page() -> str:
    sections = [HEAD]
    for command, what in COMMANDS.items():
        sections.append(f"\n## ancestral {command}\n\n{what[0].upper()}{what[1:]}.\n")
        for words in PARTS.get(command, ([],)):
            answer = call(command, *words, "--help")
            assert answer.status == 0
            if words:
                sections.append(f"\n### ancestral {command} {' '.join(words)}\n")
            text = "\n".join(line.rstrip() for line in answer.out.strip().splitlines())
            sections.append(f"\n```text\n{text}\n```\n")
    return "".join(sections)


def test_the_page_is_what_help_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("TERM", "dumb")
    text = page()
    if os.environ.get("ANCESTRAL_DOCS") == "write":
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text
