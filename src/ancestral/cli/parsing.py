"""From a command line to a dataclass of options, or to one plain message."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

import tyro

from ancestral._internal import checks

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], *, prog: str) -> T:
    """An instance of ``kind`` from a command line. ``ValueError`` for one that cannot be understood; help
    ends here."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(plain(told.getvalue(), prog)) from None


_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(.*?)'. Expected one of \((.*?)\)")
_UNKNOWN = re.compile(r"Unrecognized options?: (.*?)(?: Perhaps you meant: (.*)|$)")
_VALUE = re.compile(r"Error parsing (.+?): (.*?)(?: Argument helptext: .*|$)")
_MISSING = re.compile(r"(?:Missing from .*?:|The following arguments are required:) (.*)")


def plain(text: str, prog: str) -> str:
    """tyro's framed message in one line: what was given, what is allowed, what to do."""
    lines = [
        line.strip(" │╭╮╰╯─|+-" if set(line) <= set("│╭╮╰╯─ |+-") else " │|") for line in text.splitlines()
    ]
    lines = [line for line in lines if line and not line.startswith(("╭", "╰", "─", "For full help"))]
    joined = " ".join(" ".join(lines).split())
    joined = joined.split(" For full helptext")[0]
    more = f"All options: {prog} --help"
    if found := _CHOICE.search(joined):
        value, name, allowed = found.groups()
        names = re.findall(r"'(.*?)'", allowed) or [word.strip() for word in allowed.split(",")]
        return (
            f"{name} is {value!r}; it must be one of {', '.join(names)}.{checks.suggest(value, names)} {more}"
        )
    if found := _UNKNOWN.search(joined):
        given, near = found.groups()
        name = given.split(",")[0].split()[0]
        if not name.startswith("-"):
            return f"{name!r} is more than {prog} takes. {more}"
        options = list(dict.fromkeys(re.findall(r"--[A-Za-z][\w.-]*", near or "")))[:3]
        meant = f" Did you mean {' or '.join(options)}?" if options else ""
        return f"{name} is no option of {prog}.{meant} {more}"
    if found := _VALUE.search(joined):
        name, why = found.groups()
        return f"{name}: {_why(why)} {more}" if name.startswith("--") else _why(why)
    if found := _MISSING.search(joined):
        names_ = re.findall(r"(?<!\S)--[A-Za-z][\w.-]*", found.group(1))
        required = (
            ", ".join(name for name in dict.fromkeys(names_) if name != "--help")
            or "the argument " + found.group(1).split(" ")[0]
        )
        return f"{required} must be given. {more}"
    return f"{joined}. {more}"


def _why(text: str) -> str:
    """Python's reasons in a user's words."""
    if found := re.search(r"invalid literal for int\(\) with base 10: (.*)", text):
        return f"{found.group(1)} is no whole number."
    if found := re.search(r"could not convert string to float: (.*)", text):
        return f"{found.group(1)} is no number."
    return text if text.endswith(".") else f"{text}."
