"""Checks of what a user gives: one wording for every message, and near names for misspelt ones.

Every message says what was given, what is allowed and what to do; the error is a ``ValueError``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path


def suggest(name: str, allowed: Iterable[str]) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the allowed names near ``name``, or the empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def one_of(what: str, value: object, allowed: Iterable[str]) -> None:
    """Reject a ``value`` that is not one of the ``allowed`` names."""
    names = list(allowed)
    if value not in names:
        raise ValueError(
            f"{what} is {value!r}; it must be one of {', '.join(names)}.{suggest(str(value), names)}"
        )


def integer(what: str, value: object, *, low: int, high: int | None = None) -> None:
    """Reject a ``value`` that is not a whole number in [low, high]."""
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} is {value!r}; it must be a whole number, {bounds}.")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{what} is {value}; it must be {bounds}.")


def number(
    what: str,
    value: object,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Reject a ``value`` that is not finite or not inside the bounds (``above`` and ``below`` are strict)."""
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("above", above),
            ("at least", low),
            ("at most", high),
            ("below", below),
        )
        if bound is not None
    ]
    allowed = "a finite number" + (", " + " and ".join(bounds) if bounds else "")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}; it must be {allowed}.")
    if (
        (above is not None and value <= above)
        or (low is not None and value < low)
        or (high is not None and value > high)
        or (below is not None and value >= below)
    ):
        raise ValueError(f"{what} is {value:g}; it must be {allowed}.")


def draws(
    what: str, samples: int, *, warmup: int, first: int, backward: int | None, unweighted: str | None
) -> None:
    """Reject what does not fit this number of ``samples``, called ``what``, in each training step.

    ``warmup`` is the number of first steps, of ``first`` draws each, and ``backward`` how many of the draws
    the gradient goes through, chosen by their weights; ``unweighted`` says where there are none.
    """
    integer("samples_warmup", warmup, low=0)
    if warmup and samples == 1:
        raise ValueError(
            f"samples_warmup is {warmup} and {what} is 1: there is one draw at all times. Leave it at 0, or "
            f"give more {what}."
        )
    integer("first_samples", first, low=1)
    if warmup and first >= samples:
        raise ValueError(
            f"first_samples is {first} and {what} is {samples}: the first steps are to take fewer draws. "
            "Give fewer first_samples, or leave both out."
        )
    if first != 1 and not warmup:
        raise ValueError(
            f"first_samples is {first} and samples_warmup is 0: no steps have fewer draws. Leave it at 1, or "
            "give samples_warmup."
        )
    if backward is not None:
        integer("backward_samples", backward, low=1, high=samples)
        if unweighted is not None:
            raise ValueError(
                f"backward_samples is {backward} {unweighted}, which has no weights to choose draws by. "
                "Leave it out, or use objective iwae or dreg."
            )


def suffix(name: str, path: Path, allowed: Sequence[str]) -> None:
    """Reject a path that does not end in one of ``allowed``, such as ".png"."""
    if path.suffix not in allowed:
        raise ValueError(f"{name} is {path}; it must end in {' or '.join(allowed)}.")
