"""Folders of image files: what is in them, and reading it once, on all cores, into the cache.

Images lie in the folder, or in a folder for each class; and these in the folder, or in its folders ``train``
and ``test``. Hidden files are passed over, and so are files whose names are not those of images.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.data.cache import Draft, cached, identity
from ancestral.data.raw import Array, Kind, Raw, Reading, named
from ancestral.data.readers.imagefiles.decode import Decoded, Form, FoundColour, extensions
from ancestral.data.readers.imagefiles.pool import Pool

_LISTED = 100
"""Files that a note lists by name."""
_VERSION = 3
"""Part of the key: raised when the same files come to be other pixels, or in another order."""


@dataclass(frozen=True)
class Found:
    """An image file, before it is read."""

    path: str
    label: str | None
    """The folder of its class."""
    size: int
    changed: tuple[int, ...]
    """``cache.identity`` of the file."""


@dataclass
class Contents:
    """What a folder holds."""

    parts: dict[str, list[Found]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str] | None:
        """In order, as numbers where all are; None without classes."""
        names = {found.label for part in self.parts.values() for found in part}
        if None in names:
            return None
        words = [name for name in names if name is not None]
        whole = all(word.isascii() and word.isdigit() for word in words)
        return sorted(words, key=lambda word: (int(word) if whole else 0, word))


def look(folder: Path) -> Contents:
    """The image files of a folder, by part, in the order of their names, classes in turn. Nothing is opened.

    Raises ``ValueError`` where a part that is there holds none.
    """
    contents = Contents()
    split = (folder / "train").is_dir()
    for part in ("train", "test") if split else ("train",):
        place = folder / part if split else folder
        if place.is_dir():
            contents.parts[part] = _part(place, contents.notes)
    if split:
        others = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and entry.name not in contents.parts and not _hidden(entry.name)
        )
        if others:
            contents.notes.append(
                f"of {folder.name!r} the folders train and test are read, and not {', '.join(others[:5])}."
            )
    return contents


def _part(place: Path, notes: list[str]) -> list[Found]:
    others: Counter[str] = Counter()
    found = sorted(_walk(str(place), None, others), key=lambda one: one.path)
    if not found:
        raise ValueError(f"the folder {str(place)!r} holds no image. Put images in it, or folders of them.")
    bare = sum(one.label is None for one in found)
    if 0 < bare < len(found):
        notes.append(
            f"{place.name!r} holds {bare} images beside folders of images, so folders are not taken as "
            "classes."
        )
        found = [Found(one.path, None, one.size, one.changed) for one in found]
    if others:
        kinds = ", ".join(f"{count} {end or 'without an ending'}" for end, count in others.most_common(5))
        notes.append(f"{place.name!r} also holds files that are not read as images: {kinds}.")
    return _in_turn(found)


def _in_turn(found: list[Found]) -> list[Found]:
    """Each class spread evenly, in its order, so that the first n of any n are of all classes alike."""
    counts, seen = Counter(one.label for one in found), Counter[str | None]()
    places = []
    for one in found:
        places.append((seen[one.label] + 0.5) / counts[one.label])
        seen[one.label] += 1
    return [one for _, one in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])]


def _walk(place: str, label: str | None, others: Counter[str]) -> Iterator[Found]:
    ends = extensions()
    with os.scandir(place) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, label or entry.name, others)
                continue
            end = os.path.splitext(entry.name)[1].lower()
            if end not in ends:
                others[end] += 1
                continue
            stat = entry.stat()
            yield Found(entry.path, label, stat.st_size, identity(stat))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read(source: str, reading: Reading) -> Raw:
    folder = Path(source)
    contents = look(folder)
    key = _key(folder, contents, reading)
    with _LazyPool(sum(len(part) for part in contents.parts.values())) as pool:
        try:
            form = Form(reading.channels or 1, reading.image_size, only_grey=reading.channels is None)
            entry = cached(key, lambda draft: _fill(draft, folder, contents, reading, form, pool))
        except FoundColour:
            form = Form(3, reading.image_size)
            entry = cached(key, lambda draft: _fill(draft, folder, contents, reading, form, pool))
    names = entry.facts["class_names"]
    return Raw(
        name=folder.resolve().name,
        train_x=entry.arrays["train_x"],
        train_labels=entry.arrays.get("train_labels"),
        test_x=entry.arrays.get("test_x"),
        test_labels=entry.arrays.get("test_labels"),
        train_names=entry.arrays.get("train_names"),
        test_names=entry.arrays.get("test_names"),
        class_names=None if names is None else tuple(names),
        notes=(*contents.notes, *entry.facts["notes"]),
    )


class _LazyPool:
    """A pool that is started when it is first asked for: what is cached needs none."""

    def __init__(self, files: int) -> None:
        self._files = files
        self._pool: Pool | None = None

    def get(self) -> Pool:
        self._pool = self._pool or Pool(self._files)
        return self._pool

    def __enter__(self) -> _LazyPool:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._pool is not None:
            self._pool.__exit__(*error)


def _key(folder: Path, contents: Contents, reading: Reading) -> str:
    """Of all that the content of an entry follows from."""
    told = (_VERSION, reading.image_size, reading.channels, reading.skip_bad)
    digest = hashlib.sha256(repr(("images", str(folder.resolve()), told)).encode())
    for part, files in contents.parts.items():
        for one in files:
            digest.update(
                f"{part}\0{one.path}\0{one.label}\0{one.size}\0{one.changed}\n".encode(errors="replace")
            )
    return digest.hexdigest()[:32]


def _fill(
    draft: Draft, folder: Path, contents: Contents, reading: Reading, form: Form, pool: _LazyPool
) -> dict[str, Any]:
    """Decode all files into a draft; returns what there is to know beside the arrays."""
    filling = _Filling(draft, folder, reading, sum(len(part) for part in contents.parts.values()))
    names = contents.class_names
    place = None if names is None else {name: number for number, name in enumerate(names)}
    for part, files in contents.parts.items():
        labels, kept = [], []
        for number in filling.take(part, files, form, pool.get()):
            kept.append(os.path.relpath(files[number].path, folder))
            if place is not None:
                labels.append(place[str(files[number].label)])
        if not filling.kept:
            raise ValueError(f"of {folder.name!r} no image of the {part} part can be read.")
        draft.append(f"{part}_names", named(kept))
        if place is not None:
            draft.append(f"{part}_labels", np.array(labels, np.int64))
    return {"class_names": names, "notes": filling.notes, "left_out": filling.bad}


class _Filling:
    """Images on their way into a draft."""

    def __init__(self, draft: Draft, folder: Path, reading: Reading, total: int) -> None:
        self.bad: list[str] = []
        self.kept = 0
        self._draft, self._folder, self._reading = draft, folder, reading
        self._total, self._done = total, 0
        self._remarks: Counter[str] = Counter()
        self._first: tuple[str, tuple[int, ...]] | None = None

    @property
    def notes(self) -> list[str]:
        """What was done to images, and which were left out."""
        notes = [f"{count:,} images {remark}." for remark, count in self._remarks.most_common()]
        if self.bad:
            more = f", and {len(self.bad) - _LISTED} more" if len(self.bad) > _LISTED else ""
            notes.append(
                f"{len(self.bad):,} of {self._total:,} files left out, as they cannot be read: "
                f"{', '.join(self.bad[:_LISTED])}{more}."
            )
        return notes

    def take(self, part: str, files: list[Found], form: Form, pool: Pool) -> Iterator[int]:
        """Decode the files of a part; yields the numbers of those that are kept."""
        self.kept = number = 0
        for paths, results in pool.decode(((one.path, one.size) for one in files), form):
            images: list[Array] = []
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, Decoded):
                    self._check_shape(path, result.pixels.shape)
                    self._remarks.update(result.remarks)
                    images.append(result.pixels)
                    yield number
                elif result.why is None:
                    raise FoundColour
                else:
                    self._refuse(path, result.why)
                number += 1
            if images:
                self._draft.append(f"{part}_x", np.stack(images))
            self.kept += len(images)
            self._done += len(paths)
            self._reading.progress(self._done, self._total)

    def _refuse(self, path: str, why: str) -> None:
        name = os.path.relpath(path, self._folder)
        if not self._reading.skip_bad:
            raise ValueError(
                f"{path!r} cannot be read as an image: {why}. Remove it, or leave such files out: --skip-bad."
            )
        self.bad.append(f"{name} ({why})")

    def _check_shape(self, path: str, shape: tuple[int, ...]) -> None:
        self._first = self._first or (path, shape)
        first, expected = self._first
        if shape != expected:
            raise ValueError(
                f"{path!r} is an image of {shape[1]}×{shape[0]} and {first!r} one of "
                f"{expected[1]}×{expected[0]}; all must be of one size. Make them so, cut to their centre "
                f"square: --image-size {min(*shape[:2], *expected[:2])}."
            )


def _matches(source: str) -> bool:
    path = Path(source)
    return path.is_dir() and next(_walk(source, None, Counter()), None) is not None


KIND = Kind(
    expects="a folder of images (with a folder for each class, and train and test, where there are such)",
    matches=_matches,
    read=_read,
    choices=("image_size", "channels", "skip_bad"),
)
