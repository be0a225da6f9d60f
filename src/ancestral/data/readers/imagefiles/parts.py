"""From the folders that image files lie in to the parts of the data and the classes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ancestral.data.readers.imagefiles.listing import Found, Listing, counted
from ancestral.data.readers.splits import PARTS, part_of, parts_of

_MEANINGS = {"train": "to train on", "validation": "as the validation part", "test": "as the test part"}
_SHOWN = 5


class Example(NamedTuple):
    """An image file of a part, and its class."""

    file: Found
    label: str | None


@dataclass
class Contents:
    """What a folder holds, by part."""

    parts: dict[str, list[Example]] = field(default_factory=dict)
    """The image files of each part, in the order of their paths, classes in turn."""
    class_names: tuple[str, ...] | None = None
    """In order, as numbers where all are; None without classes."""
    notes: list[str] = field(default_factory=list)
    doubles: list[tuple[str, str]] = field(default_factory=list)
    """Paths by which a file is reached a second time, and the first; they are of different classes or parts."""


def divided(listing: Listing, name: str) -> Contents:
    """The parts and classes of the images of the folder ``name``.

    Raises ``ValueError``, with the choices, where folders are named for parts and leave open what they mean,
    and where a part that is there holds no image.
    """
    notes: list[str] = []
    found = _by_part(listing, name, notes)
    contents = Contents(notes=notes)
    contents.parts = {part: _labelled(part, files, name, notes) for part, files in found.items()}
    _once(contents)
    contents.class_names = _classes(contents, name)
    contents.parts = {part: _in_turn(examples) for part, examples in contents.parts.items()}
    return contents


def _once(contents: Contents) -> None:
    """Leave out files that are reached a second time, by links."""
    every = [one.file.identity for examples in contents.parts.values() for one in examples]
    if len({*every}) == len(every):
        return
    seen: dict[tuple[int, int], tuple[str, Example]] = {}
    repeated = 0
    for part, examples in contents.parts.items():
        kept = []
        for one in examples:
            before_part, before = seen.setdefault(one.file.identity, (part, one))
            if before is one or one.file.identity[1] == 0:  # some systems do not number files
                kept.append(one)
            elif (before_part, before.label) == (part, one.label):
                repeated += 1
            else:
                contents.doubles.append((one.file.path, before.file.path))
        contents.parts[part] = kept
    if repeated:
        contents.notes.append(f"{repeated:,} links to images that are read already are not read again.")


def _by_part(listing: Listing, name: str, notes: list[str]) -> dict[str, list[Found]]:
    """The files of each part, with the folders below that of the part; alters nothing else."""
    above: tuple[str, ...] = ()
    while True:
        depth = len(above)
        tops = {
            folders[depth] for folders in listing.folders if len(folders) > depth and folders[:depth] == above
        }
        if named := parts_of(tops):
            return _chosen(listing, depth, named, "/".join((name, *above)), notes)
        # Archives hold one folder around all.
        holding = {one.folders[: depth + 1] for one in listing.images}
        if len(holding) != 1 or len(next(iter(holding))) == depth:
            break
        (above,) = holding
    inside = {one.folders[1] for one in listing.images if len(one.folders) > 1}
    if set(named := parts_of(inside)) - {"train"}:
        return _within_classes(listing, named, name, notes)
    _tell_others(listing.others, name, notes)
    return {"train": listing.images}


def _chosen(
    listing: Listing, depth: int, named: dict[str, list[str]], name: str, notes: list[str]
) -> dict[str, list[Found]]:
    """The files below the folders of the parts."""
    counts = Counter(one.folders[depth] for one in listing.images if len(one.folders) > depth)
    _check_named(named, name, {top for top in counts if not any(top in tops for tops in named.values())})
    parts: dict[str, list[Found]] = {}
    for part, (top,) in ((part, named[part]) for part in PARTS if part in named):
        inside = [one for one in listing.images if one.folders[depth : depth + 1] == (top,)]
        if not inside:
            raise ValueError(
                f"the folder '{name}/{top}' holds no image. Put images in it, or folders of them."
            )
        cut = depth + 1
        # Archives repeat the name: test_set/test_set/cats.
        while (again := {one.folders[cut : cut + 1] for one in inside}) and len(again) == 1:
            (inner,) = again
            if not inner or (inner[0] != top and part_of(inner[0]) != part):
                break
            cut += 1
        parts[part] = [_cut(one, cut) for one in inside]
    _tell_division(parts, {part: named[part][0] for part in parts}, name, notes)
    others = {top: count for top, count in counts.items() if not any(top in tops for tops in named.values())}
    bare = sum(len(one.folders) <= depth for one in listing.images)
    if others or bare:
        kinds = [f"{top} ({count:,} images)" for top, count in sorted(others.items())[:_SHOWN]]
        if bare:
            kinds.append(f"{bare:,} images beside them")
        notes.append(f"of {name!r} the folders of the parts are read, and not {', '.join(kinds)}.")
    _tell_others(listing.others, name, notes)
    return parts


def _check_named(named: dict[str, list[str]], name: str, others: set[str]) -> None:
    for part, tops in named.items():
        if len(tops) > 1:
            raise ValueError(
                f"{name!r} holds the folders {', '.join(tops)}, which are all named for the part {part}. Keep one "
                "of them, or put the images of all into one."
            )
    if "train" not in named:
        first = next(iter(named.values()))[0]
        rest = f" beside {', '.join(sorted(others)[:_SHOWN])}" if others else ""
        raise ValueError(
            f"{name!r} holds the folder {first!r}{rest} and no folder named train. If it holds the "
            f"{part_of(first) or 'test'} part, put what is trained on into a folder train; if it is a class, "
            f"rename it; to read it alone, give {name}/{first}."
        )
    if set(named) == {"train"} and others:
        shown = ", ".join(sorted(others)[:_SHOWN])
        raise ValueError(
            f"{name!r} holds the folder {named['train'][0]!r} beside {shown}, so it may be the training part or "
            f"a class. To read it alone, give {name}/{named['train'][0]}; if it is a class, rename it."
        )


def _within_classes(
    listing: Listing, named: dict[str, list[str]], name: str, notes: list[str]
) -> dict[str, list[Found]]:
    """The files of parts that each class has of its own: cat/train, cat/test, dog/train, …"""
    meant = {inner: part for part, inners in named.items() for inner in inners}
    parts: dict[str, list[Found]] = {}
    for one in listing.images:
        part = meant.get(one.folders[1]) if len(one.folders) > 1 else None
        if part is None or "train" not in named:
            where = "/".join((name, *one.folders))
            raise ValueError(
                f"{name!r} holds folders named for parts ({', '.join(sorted(meant))}) within others, and images "
                f"outside them, such as those in {where!r}. Put each image into one folder of a part: "
                "train/CLASS/… and test/CLASS/…."
            )
        kept = (one.folders[0], *one.folders[2:])
        parts.setdefault(part, []).append(one._replace(folders=kept))
    parts = {part: parts[part] for part in PARTS if part in parts}
    words = {part: "CLASS/" + " or CLASS/".join(named[part]) for part in parts}
    _tell_division(parts, words, name, notes)
    _tell_others(listing.others, name, notes)
    return parts


def _cut(one: Found, count: int) -> Found:
    return one._replace(folders=one.folders[count:])


def _tell_division(parts: dict[str, list[Found]], words: dict[str, str], name: str, notes: list[str]) -> None:
    read = [f"{words[part]} {_MEANINGS[part]} ({len(files):,} files)" for part, files in parts.items()]
    notes.append(f"of {name!r} are read: {', '.join(read)}.")


def _tell_others(others: list[tuple[tuple[str, ...], str]], name: str, notes: list[str]) -> None:
    if others:
        kinds = counted([file for _, file in others])
        notes.append(f"{name!r} also holds files that are not read as images: {kinds}.")


def _labelled(part: str, files: list[Found], name: str, notes: list[str]) -> list[Example]:
    """The files with their classes, or without any where some lie beside the folders."""
    bare = sum(not one.folders for one in files)
    where = name if part == "train" else f"{name} ({part})"
    if bare:
        if bare < len(files):
            notes.append(
                f"{where!r} holds {bare:,} images beside folders of images, so folders are not taken as classes."
            )
        return [Example(one, None) for one in files]
    sizes = Counter(one.folders[0] for one in files)
    labels = {folder: unicodedata.normalize("NFC", folder) for folder in sizes}
    forms: dict[str, list[int]] = {}
    for folder, count in sizes.items():
        forms.setdefault(labels[folder], []).append(count)
    for label, counts in forms.items():
        if len(counts) > 1:
            each = " and ".join(f"{count:,}" for count in counts)
            notes.append(
                f"{len(counts)} folders of {where!r} have the name {label!r} in different Unicode forms; their "
                f"{each} images are one class."
            )
    return [Example(one, labels[one.folders[0]]) for one in files]


def _classes(contents: Contents, name: str) -> tuple[str, ...] | None:
    """The names of the classes; labels that cannot be used are taken from the parts."""
    names = {part: {one.label for one in files} - {None} for part, files in contents.parts.items()}
    trained = names["train"]
    for part, files in contents.parts.items():
        unknown = names[part] - trained
        if part == "train" or not unknown:
            continue
        shown = ", ".join(sorted(map(str, unknown))[:_SHOWN])
        if unknown == names[part]:
            # One folder around all is what some tools want, and no class.
            contents.parts[part] = [Example(one.file, None) for one in files]
            contents.notes.append(
                f"the {part} part of {name!r} has the folders {shown}, which the training part does not have; "
                f"its {len(files):,} images have no labels."
            )
        else:
            count = sum(one.label in unknown for one in files)
            contents.notes.append(
                f"{count:,} images of the {part} part of {name!r} are of classes that the training part does "
                f"not have: {shown}."
            )
    used = {one.label for files in contents.parts.values() for one in files}
    words = [label for label in used if label is not None]
    if not trained:
        return None
    whole = all(word.isascii() and word.isdigit() for word in words)
    return tuple(sorted(words, key=lambda word: (int(word) if whole else 0, word)))


def _in_turn(examples: list[Example]) -> list[Example]:
    """Each class spread evenly, in its order, so that the first n of any n are of all classes alike."""
    counts, seen = Counter(one.label for one in examples), Counter[str | None]()
    places = []
    for one in examples:
        places.append((seen[one.label] + 0.5) / counts[one.label])
        seen[one.label] += 1
    return [one for _, one in sorted(zip(places, examples, strict=True), key=lambda pair: pair[0])]
