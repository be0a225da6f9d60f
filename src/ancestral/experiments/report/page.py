"""The page: sections of blocks, and the HTML that they become. Nothing is computed here."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows under heads; the first entry of a row names it."""

    kind: ClassVar[str] = "table"
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """An image, as a data URI."""

    kind: ClassVar[str] = "picture"
    source: str
    description: str
    """What is to be seen, for who does not see it."""
    caption: str = ""
    pixels: bool = False
    """Of a few large pixels, which are not to be smoothed."""


@dataclass(frozen=True)
class Scrub:
    """Frames beside one another in one image, of which one is shown and a slider chooses."""

    kind: ClassVar[str] = "scrub"
    source: str
    labels: Sequence[str]
    """A label for each frame."""
    ratio: float
    """Width over height of a frame."""
    description: str
    caption: str = ""
    pixels: bool = False


@dataclass(frozen=True)
class Code:
    """Text to copy, folded away under ``summary`` where there is one."""

    kind: ClassVar[str] = "code"
    text: str
    summary: str = ""


Block = Text | Table | Picture | Scrub | Code


@dataclass(frozen=True)
class Section:
    """A part of the page under a title."""

    name: str
    """For links."""
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    """How it is read."""


@dataclass(frozen=True)
class Page:
    """The whole of it."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=list)

    def html(self) -> str:
        """One self-contained page."""
        from jinja2 import Environment, StrictUndefined

        text = (
            importlib.resources.files("ancestral.experiments.report")
            .joinpath("template.html")
            .read_text(encoding="utf-8")
        )
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(text).render(page=self)
