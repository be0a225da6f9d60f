"""Inputs that a user may give, and the answer to each: the cases behind docs/inputs.md.

A module of this folder holds the cases of one subject in ``CASES``:

    CASES = Cases("Folders of images")

    @CASES.add("folders named Train and Test", answer="read as the training and the test part")
    def split_folders_in_capitals(folder: Path) -> None:
        ...  # makes the input in the empty folder and asserts the answer

``test_inputs.py`` runs every case and writes the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Check = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One input and its answer."""

    given: str
    """The input, for the first column of the table."""
    answer: str
    """The answer, for the second column: a value, a note or an error."""
    check: Check
    """Makes the input in an empty folder and asserts the answer."""
    slow: bool = False


@dataclass
class Cases:
    """The cases of one subject, in the order in which they are added."""

    subject: str
    cases: list[Case] = field(default_factory=list)

    def add(self, given: str, *, answer: str, slow: bool = False) -> Callable[[Check], Check]:
        """Add the decorated function as the check of a case."""

        def add(check: Check) -> Check:
            self.cases.append(Case(given, answer, check, slow))
            return check

        return add
