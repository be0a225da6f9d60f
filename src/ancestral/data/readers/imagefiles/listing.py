"""What a folder holds: its image files, and what cannot be one or leads nowhere. Nothing is opened."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ancestral.data.readers.imagefiles.decode import extensions

_KINDS = (
    (stat.S_ISFIFO, "it is a named pipe (FIFO)"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)
Identity = tuple[int, int]
"""Device and number of a file or folder, the same by whatever link it is reached."""


class Found(NamedTuple):
    """An image file, before it is read."""

    path: str
    folders: tuple[str, ...]
    """The names of the folders that it lies in, from the source's on."""
    size: int
    changed: int
    """When its content was changed, in nanoseconds."""
    entered: int
    """When its entry was changed, in nanoseconds."""
    identity: Identity


@dataclass
class Listing:
    """All that lies in a folder and its folders."""

    images: list[Found] = field(default_factory=list)
    """In the order of their paths."""
    folders: list[tuple[str, ...]] = field(default_factory=list)
    """Those that are there, images or not."""
    others: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    """The folders and the name of each file that is not named as an image."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """The path of what is named as an image, or is a link, and cannot be read; and why."""


def listed(folder: Path) -> Listing:
    """What lies in a folder. Links are followed, unless they lead into a folder that holds them."""
    walk = _Walk()
    root = os.stat(folder)
    walk.folder(str(folder), (), {(root.st_dev, root.st_ino)})
    walk.follow()
    walk.listing.images.sort(key=lambda one: one.path)
    return walk.listing


def has_image(folder: str, *, deep: bool = True) -> bool:
    """Whether a file named as an image lies in a folder or, if ``deep``, in its folders."""
    seen: set[Identity] = set()
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if hidden(entry.name):
                    continue
                if not _is_folder(entry):
                    if ending(entry.name) in extensions():
                        return True
                    continue
                if not deep:
                    continue
                facts = entry.stat()
                if (facts.st_dev, facts.st_ino) not in seen:
                    seen.add((facts.st_dev, facts.st_ino))
                    waiting.append(entry.path)
    return False


def hidden(name: str) -> bool:
    """Whether files and folders of this name are passed over."""
    return name.startswith(".") or name == "__MACOSX"


def ending(name: str) -> str:
    """The end of a file's name from the last dot on, in lower case."""
    place = name.rfind(".")
    return name[place:].lower() if place > 0 else ""


def counted(names: list[str]) -> str:
    """Names of files as numbers of their endings: 3 .txt, 1 without an ending."""
    kinds = Counter(map(ending, names)).most_common(5)
    return ", ".join(f"{count} {end or 'without an ending'}" for end, count in kinds)


class _Walk:
    def __init__(self) -> None:
        self.listing = Listing()
        self._endings = extensions()
        self._seen: set[Identity] = set()
        self._links: list[tuple[os.DirEntry[str], tuple[str, ...], set[Identity]]] = []

    def folder(self, place: str, folders: tuple[str, ...], above: set[Identity]) -> None:
        """Take what lies in a folder and its folders; ``above`` are it and the folders that hold it."""
        waiting = [(place, folders, above)]
        while waiting:
            place, folders, above = waiting.pop()
            self._seen |= above
            if folders:
                self.listing.folders.append(folders)
            try:
                entries = list(os.scandir(place))
            except OSError as error:
                self.listing.bad.append((place, error.strerror or str(error)))
                continue
            for entry in entries:
                if hidden(entry.name):
                    continue
                if entry.is_symlink():
                    self._links.append((entry, folders, above))
                elif entry.is_dir(follow_symlinks=False):
                    inner = entry.stat(follow_symlinks=False)
                    waiting.append(
                        (entry.path, (*folders, entry.name), {*above, (inner.st_dev, inner.st_ino)})
                    )
                else:
                    self._file(entry, folders)

    def follow(self) -> None:
        """Follow the links, once all that is not behind one has been seen.

        Of links behind links those to folders that have been seen are left out, so that the walk ends.
        """
        first = True
        while self._links:
            links, self._links = sorted(self._links, key=lambda link: link[0].path), []
            for entry, folders, above in links:
                try:
                    to = os.stat(entry.path)
                except OSError as error:
                    self._lost(entry, folders, error)
                    continue
                target = (to.st_dev, to.st_ino)
                if not stat.S_ISDIR(to.st_mode):
                    self._file(entry, folders)
                elif target in above:
                    self.listing.bad.append((entry.path, "it is a link to a folder that holds it"))
                elif first or target not in self._seen:
                    self.folder(entry.path, (*folders, entry.name), {*above, target})
            first = False

    def _file(self, entry: os.DirEntry[str], folders: tuple[str, ...]) -> None:
        if ending(entry.name) not in self._endings:
            self.listing.others.append((folders, entry.name))
            return
        facts = entry.stat()
        if not stat.S_ISREG(facts.st_mode):
            why = next((why for test, why in _KINDS if test(facts.st_mode)), "it is no file")
            self.listing.bad.append((entry.path, why))
            return
        times, identity = (facts.st_mtime_ns, facts.st_ctime_ns), (facts.st_dev, facts.st_ino)
        self.listing.images.append(Found(entry.path, folders, facts.st_size, *times, identity))

    def _lost(self, entry: os.DirEntry[str], folders: tuple[str, ...], error: OSError) -> None:
        if ending(entry.name) and ending(entry.name) not in extensions():
            self.listing.others.append((folders, entry.name))
            return
        why = {
            errno.ENOENT: "it is a link to a file that is not there",
            errno.ELOOP: "its links lead in a circle",
        }
        self.listing.bad.append((entry.path, why.get(error.errno or 0, error.strerror or str(error))))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False
