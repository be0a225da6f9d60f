"""Folders of image files, read once, on all cores, into the cache.

Images lie in the folder, or in a folder for each class; and these in the folder, or in its folders ``train``
and ``test``, and perhaps ``validation``, by whatever name says that. Hidden files are passed over, and so are
files whose names are not those of images.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.data.cache import Draft, cached
from ancestral.data.raw import Array, Kind, Raw, Reading, named
from ancestral.data.readers.imagefiles.decode import Decoded, Form, OtherForm, first_depth
from ancestral.data.readers.imagefiles.depths import Depths
from ancestral.data.readers.imagefiles.listing import Listing, has_image, listed
from ancestral.data.readers.imagefiles.parts import Contents, Example, divided
from ancestral.data.readers.imagefiles.pool import Pool

_LISTED = 100
"""Files that a note lists by name."""
_VERSION = 4
"""Part of the key: raised when the same files come to be other pixels, or in another order."""


def _read(source: str, reading: Reading) -> Raw:
    folder = Path(source)
    name = folder.resolve().name
    listing = listed(folder)
    contents = divided(listing, name)
    left_out = _left_out(folder, listing, contents, reading)
    key = _key(folder, contents, reading)
    with _LazyPool(sum(len(part) for part in contents.parts.values())) as pool:
        form: Form | None = None
        while True:
            try:
                entry = cached(
                    key,
                    lambda draft, form=form: _fill(  # type: ignore[misc]
                        draft, folder, contents, reading, form or _first_form(contents, reading), pool
                    ),
                )
                break
            except OtherForm as found:
                form = found.form
    arrays, facts = entry.arrays, entry.facts
    return Raw(
        name=name,
        train_x=arrays["train_x"],
        train_labels=arrays.get("train_labels"),
        test_x=arrays.get("test_x"),
        test_labels=arrays.get("test_labels"),
        validation_x=arrays.get("validation_x"),
        validation_labels=arrays.get("validation_labels"),
        levels=facts["levels"],
        class_names=contents.class_names,
        notes=(*contents.notes, *left_out, *facts["notes"]),
        train_names=_names(folder, contents, facts, "train"),
        test_names=_names(folder, contents, facts, "test"),
        validation_names=_names(folder, contents, facts, "validation"),
    )


def _left_out(folder: Path, listing: Listing, contents: Contents, reading: Reading) -> list[str]:
    """A note of what is not read, or a ``ValueError`` where such files are not to be left out."""
    if contents.doubles and not reading.skip_bad:
        second, first = contents.doubles[0]
        raise ValueError(
            f"{second!r} and {first!r} are the same file, in different classes or parts: "
            f"{len(contents.doubles):,} files are reached twice. Remove the link, or leave out what is "
            "reached a second time: --skip-bad."
        )
    if listing.bad and not reading.skip_bad:
        path, why = listing.bad[0]
        raise ValueError(
            f"{path!r} cannot be read: {why}. Remove it, or leave such files and links out: --skip-bad."
        )
    notes = []
    if contents.doubles:
        notes.append(f"{len(contents.doubles):,} files that are reached by links a second time are left out.")
    if listing.bad:
        bad = [f"{os.path.relpath(path, folder)} ({why})" for path, why in listing.bad]
        notes.append(f"{len(bad):,} files, folders or links left out: {_some(bad)}.")
    return notes


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _first_form(contents: Contents, reading: Reading) -> Form:
    """That of the first image: others are tried where it turns out not to suit all."""
    depth = first_depth(contents.parts["train"][0].file.path)
    return Form(
        reading.channels or 1,
        reading.image_size,
        only_grey=reading.channels is None,
        # Scaled images have values between those of few bits.
        depth=8 if depth < 8 and reading.image_size is not None else depth,
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
    digest = hashlib.sha256(repr(("images", str(folder.resolve()), told)).encode(errors="replace"))
    for part, files in contents.parts.items():
        for one in files:
            file = one.file
            digest.update(
                f"{part}\0{file.path}\0{one.label}\0{file.size}\0{file.changed}\0{file.entered}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()[:32]


def _fill(
    draft: Draft, folder: Path, contents: Contents, reading: Reading, form: Form, pool: _LazyPool
) -> dict[str, Any]:
    """Decode all files into a draft; returns what there is to know beside the arrays."""
    filling = _Filling(draft, folder, reading, form, sum(len(part) for part in contents.parts.values()))
    places = {name: number for number, name in enumerate(contents.class_names or ())}
    pages: dict[str, dict[str, int]] = {}
    for part, examples in contents.parts.items():
        labelled = bool(places) and all(one.label is not None for one in examples)
        counts = filling.take(part, examples, pool.get())
        if not any(counts):
            raise ValueError(f"of {folder.name!r} no image of the {part} part can be read.")
        if labelled:
            classes = np.array([places[str(one.label)] for one in examples], np.int64)
            draft.append(f"{part}_labels", classes.repeat(counts))
        pages[part] = {str(number): count for number, count in enumerate(counts) if count != 1}
    notes = filling.notes()
    return {"notes": notes, "left_out": filling.bad, "levels": filling.depths.levels, "pages": pages}


def _names(folder: Path, contents: Contents, facts: dict[str, Any], part: str) -> Array | None:
    """The file of each image of a part, relative to the folder; with #0, #1, … where it has several."""
    if part not in contents.parts:
        return None
    start, pages = len(os.path.join(folder, "")), facts["pages"][part]
    names = [one.file.path[start:] for one in contents.parts[part]]
    if not pages:
        return named(names)
    counts = (pages.get(str(number), 1) for number in range(len(names)))
    return named(
        name if count == 1 else f"{name}#{page}"
        for name, count in zip(names, counts, strict=True)
        for page in range(count)
    )


class _Filling:
    """Images on their way into a draft."""

    def __init__(self, draft: Draft, folder: Path, reading: Reading, form: Form, total: int) -> None:
        self.bad: list[str] = []
        self.depths = Depths(form)
        self._draft, self._folder, self._reading, self._form = draft, folder, reading, form
        self._total, self._done = total, 0
        self._remarks: Counter[str] = Counter()
        self._stacks = self._pages = self._films = self._unread = 0
        self._first: tuple[str, tuple[int, ...]] | None = None

    def notes(self) -> list[str]:
        """What was done to images, and which were left out. Raises as ``Depths.finish`` does."""
        notes = [*self.depths.finish()]
        notes += [f"{count:,} images {remark}." for remark, count in self._remarks.most_common()]
        if self._stacks:
            notes.append(f"{self._stacks:,} files hold {self._pages:,} pages; each page is an example.")
        if self._unread:
            notes.append(
                f"{self._films:,} files hold {self._unread:,} more frames, which are not read: of an "
                "animation the first is, and of a TIFF all pages of the first one's size and kind, but no "
                "small copies."
            )
        if self.bad:
            notes.append(
                f"{len(self.bad):,} of {self._total:,} files left out, as they cannot be read: {_some(self.bad)}."
            )
        return notes

    def take(self, part: str, examples: list[Example], pool: Pool) -> list[int]:
        """Decode the files of a part; returns how many images each has, 0 for one that is left out."""
        counts = []
        for paths, results in pool.decode(((one.file.path, one.file.size) for one in examples), self._form):
            images: list[Array] = []
            for path, result in zip(paths, results, strict=True):
                if isinstance(result, Decoded):
                    self._check_shape(path, result.pixels.shape[1:])
                    self._count(path, result)
                    images.append(result.pixels)
                    counts.append(len(result.pixels))
                elif result.form is not None:
                    raise OtherForm(result.form)
                else:
                    self._reject(path, str(result.why))
                    counts.append(0)
            if images:
                self._draft.append(f"{part}_x", np.concatenate(images))
            self._done += len(paths)
            self._reading.progress(self._done, self._total)
        return counts

    def _count(self, path: str, result: Decoded) -> None:
        pages = len(result.pixels)
        self.depths.take(path, result)
        for remark in result.remarks:
            self._remarks[remark] += pages
        if pages > 1:
            self._stacks, self._pages = self._stacks + 1, self._pages + pages
        if result.unread:
            self._films, self._unread = self._films + 1, self._unread + result.unread

    def _reject(self, path: str, why: str) -> None:
        if not self._reading.skip_bad:
            raise ValueError(
                f"{path!r} cannot be read as an image: {why}. Remove it, or leave such files out: --skip-bad."
            )
        self.bad.append(f"{os.path.relpath(path, self._folder)} ({why})")

    def _check_shape(self, path: str, shape: tuple[int, ...]) -> None:
        self._first = self._first or (path, shape)
        first, expected = self._first
        if shape != expected:
            raise ValueError(
                f"{path!r} is an image of {shape[1]}×{shape[0]} and {first!r} one of "
                f"{expected[1]}×{expected[0]}; all must be of one size. Make them so, cut to their centre "
                f"square: --image-size {min(*shape[:2], *expected[:2])}."
            )


KIND = Kind(
    expects="a folder of images (with a folder for each class, and train and test, where there are such)",
    matches=lambda source: Path(source).is_dir() and has_image(source),
    read=_read,
    choices=("image_size", "channels", "skip_bad", "levels"),
)
