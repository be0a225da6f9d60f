"""The names by which folders, files, arrays and splits say which part of a data set they hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

PARTS = ("train", "validation", "test")
"""The parts of a data set, in the order in which they are read."""
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "t10k"),
}
_ENDINGS = (
    *("set", "sets", "data", "dataset", "split", "part", "folder", "samples", "examples"),
    *("images", "image", "imgs", "img", "pictures", "photos", "files"),
)
"""Words that may follow, as in training_set, and say nothing of the part."""
_PART_OF = {word: part for part, words in _WORDS.items() for word in words}


def part_of(name: str) -> str | None:
    """train, validation or test where a name says that, in any case: Train, testing_set, val2017; else None."""
    words = _words(name)
    while len(words) > 1 and words[-1] in _ENDINGS:
        words = words[:-1]
    word = "".join(words)
    for ending in ("", *_ENDINGS):
        if word.endswith(ending) and (part := _PART_OF.get(word[: len(word) - len(ending)])):
            return part
    return None


def parts_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each part that is named among siblings, in the order of ``PARTS``; {} where none is.

    A name is of a part where it says so alone (``part_of``), or where a sibling differs from it in that word
    only, as photos_train and photos_test do.
    """
    names = sorted(names)
    found = {name: part for name in names if (part := part_of(name))}
    around: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        if name not in found:
            words = _words(name)
            for place, word in enumerate(words):
                if part := _PART_OF.get(word):
                    around.setdefault((*words[:place], "", *words[place + 1 :]), {})[name] = part
    for group in around.values():
        if "train" in group.values() and len({*group.values()}) > 1:
            found.update(group)
    return {
        part: [name for name in names if found.get(name) == part] for part in PARTS if part in found.values()
    }


def _words(name: str) -> list[str]:
    """The words of a name in small letters, without the numbers that stand after its letters."""
    name = unicodedata.normalize("NFC", name)
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", parted.casefold())
    shorn = [word if word in _PART_OF else word.rstrip("0123456789") for word in words]
    return [word for word in shorn if word]
