"""What is written to a terminal, whatever characters it can show."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
from collections.abc import Iterator

_ERRORS = "ancestral-spelled"
_SPELLED = str.maketrans(
    {
        "±": "+-",
        "−": "-",
        "–": "-",
        "—": "-",
        "…": "...",
        "×": "x",
        "·": "*",
        "≤": "<=",
        "≥": ">=",
        "→": "->",
        "←": "<-",
        "‖": "||",
        "“": '"',
        "”": '"',
        "’": "'",
        "µ": "u",
    }
)
"""Characters of our own texts, for terminals that cannot show them."""


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: our characters in ASCII, and any other one as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SPELLED)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(_ERRORS, _spelled)


@contextlib.contextmanager
def any_character() -> Iterator[None]:
    """Within it, standard output and error replace characters that they cannot encode.

    This includes the bytes of file names that are not UTF-8: they are shown as escapes, such as ``\\udce9``.
    """
    changed: list[tuple[io.TextIOWrapper, str]] = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            changed.append((stream, stream.errors or "strict"))
            stream.reconfigure(errors=_ERRORS)
    try:
        yield
    finally:
        for stream, errors in changed:
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)
