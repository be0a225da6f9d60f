"""From a command line to a dataclass of options, or to one plain message."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import io
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from ancestral._internal import checks
from ancestral.cli import peers

T = TypeVar("T")


def parse(kind: type[T], arguments: list[str], *, prog: str) -> T:
    """An instance of ``kind`` from a command line. ``ValueError`` for one that cannot be understood; help
    ends here."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), _paragraphs():
            return tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(plain(told.getvalue(), prog, kind)) from None


@contextlib.contextmanager
def _paragraphs() -> Iterator[None]:
    """Help texts of several lines as one paragraph, which tyro wraps for the terminal.

    tyro joins lines of a docstring only where they are not indented, as those of attributes are.
    """
    parser: Any = importlib.import_module("docstring_parser")
    original = parser.parse_from_object

    def parsed(of: Any) -> Any:
        found = original(of)
        for one in found.params:
            if one.description is not None:
                one.description = " ".join(one.description.split())
        return found

    parser.parse_from_object = parsed
    try:
        yield
    finally:
        parser.parse_from_object = original


_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(.*?)'. Expected one of \((.*?)\)")
_UNKNOWN = re.compile(r"Unrecognized options?: (.*?)(?: Perhaps you meant: (.*)|$)")
_VALUE = re.compile(r"Error parsing (.+?): (.*?)(?: Argument helptext: .*|$)")
_NO_VALUE = re.compile(r"Missing value for argument '(.*?)'. Expected (\d+) values?")
_MISSING = re.compile(r"(?:Missing from .*?:|The following arguments are required:) (.*)")


def plain(text: str, prog: str, kind: type[Any]) -> str:
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
        name = given.split(",")[0].split()[0].split("=")[0]
        if not name.startswith("-"):
            return f"{name!r} is an unexpected argument of {prog}. {more}"
        return f"{name} is no option of {prog}.{_meant(name, near or '', kind)} {more}"
    if found := _NO_VALUE.search(joined):
        name, count = found.groups()
        values = "a value" if count == "1" else f"{count} values"
        return f"{name} is given without {values}. {more}" if name.startswith("-") else _required(name, more)
    if found := _VALUE.search(joined):
        name, why = found.groups()
        return f"{name}: {_why(why)} {more}" if name.startswith("--") else _why(why)
    if found := _MISSING.search(joined):
        names_ = re.findall(r"(?<!\S)--[A-Za-z][\w.-]*", found.group(1))
        required = (
            ", ".join(name for name in dict.fromkeys(names_) if name != "--help")
            or "the argument " + found.group(1).split(" ")[0]
        )
        return _required(required, more)
    return f"{joined.rstrip('.')}. {more}"


def _required(name: str, more: str) -> str:
    return (
        f"{name if name.startswith(('--', 'the ')) else f'the argument {name.upper()}'} must be given. {more}"
    )


def _meant(name: str, near: str, kind: type[Any]) -> str:
    """The option that a word of another tool stands for here, or those near it."""
    offered = _offered(kind)
    if (found := peers.meant(name, peers.OPTIONS, offered)) is not None:
        return f" Use --{found}.{peers.remark(name, found)}"
    options = list(dict.fromkeys(re.findall(r"--[A-Za-z][\w.-]*", near)))[:3]
    if not options:
        options = [
            f"--{word}" for word in difflib.get_close_matches(name.strip("-"), offered, n=2, cutoff=0.7)
        ]
    return f" Did you mean {' or '.join(options)}?" if options else ""


def _offered(kind: type[Any], prefix: str = "") -> list[str]:
    """The names of the options of a dataclass and of the dataclasses in it."""
    hints = get_type_hints(kind, include_extras=True)
    names: list[str] = []
    for field in dataclasses.fields(kind):
        hint, unnamed = hints[field.name], False
        if get_origin(hint) is Annotated:
            hint, *metadata = get_args(hint)
            unnamed = any(getattr(one, "name", None) == "" for one in metadata)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            names += _offered(hint, prefix if unnamed else f"{name}.")
        else:
            names.append(name)
    return names


def _why(text: str) -> str:
    """Python's reasons in a user's words."""
    if found := re.search(r"invalid literal for int\(\) with base 10: (.*)", text):
        return f"{found.group(1)} is no whole number."
    if found := re.search(r"could not convert string to float: (.*)", text):
        return f"{found.group(1)} is no number."
    return text if text.endswith(".") else f"{text}."
