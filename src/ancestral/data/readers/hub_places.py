"""Where a data set of Hugging Face's library is: on its hub, at one commit, or in a folder here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ancestral.data.cache import identity

PREFIX = "hf:"
LOCAL = "a folder of Parquet files or of images, or one that save_to_disk wrote"
BATCH = 128
"""Examples read at once."""
_PATIENCE = 10.0
"""Seconds to wait for the hub's answer."""
_HIDDEN = (401, 403, 404)
"""The hub's answers for what is not there, or not for everyone."""


@dataclass(frozen=True)
class Place:
    """A data set that is there, not opened yet."""

    name: str
    identity: tuple[object, ...]
    """All that its content follows from."""
    load: Callable[[], Any]
    """Open it: one data set, or several by the names of their splits."""


def find(source: str) -> tuple[Place, str | None]:
    """The data set and the column that NAME[:COLUMN] names. ``ValueError`` where there is none."""
    first, mark, last = source.rpartition(":")
    name, column = (first, last) if mark else (source, "")
    for given, rest in ((source, ""), (name, column)):
        folder = Path(given).expanduser()
        if given and folder.is_dir():
            return Place(folder.resolve().name, _content(folder), partial(_opened, folder)), rest or None
    if not name:
        raise ValueError(f"hf: names nothing in {PREFIX + source!r}. Give hf:NAME or hf:NAME:COLUMN.")
    if name[0] in "./~":
        raise ValueError(f"there is no folder {name!r}. Give a data set of the hub, or {LOCAL}.")
    revision = _revision(name)
    return Place(
        name.rpartition("/")[2], ("hub", name, revision), partial(_streamed, name, revision)
    ), column or None


def in_short(error: BaseException) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _content(folder: Path) -> tuple[object, ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"the folder {str(folder)!r} holds no files. Give {LOCAL}.")
    stats = [(str(path.relative_to(folder)), path.stat()) for path in files]
    return (str(folder.resolve()), *((path, *identity(stat)) for path, stat in stats))


def _opened(folder: Path) -> Any:
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    return _streamed(str(folder))


def _streamed(name: str, revision: str | None = None) -> Any:
    import datasets

    builder = datasets.load_dataset_builder(name, revision=revision)
    if hasattr(builder.config, "batch_size"):
        # Of Parquet files it would hold several whole groups of rows, which may be most of a file.
        builder.config.batch_size = BATCH
    return builder.as_streaming_dataset()


def _revision(name: str) -> str:
    """The commit that a data set of the hub is at. Asked once: the library would try for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    missing = f"there is no folder {name!r} here, and"
    try:
        return str(HfApi().dataset_info(name, timeout=_PATIENCE).sha)
    except HFValidationError as error:
        raise ValueError(f"{missing} it is no name of a data set on the hub, OWNER/NAME.") from error
    # The library that asks has errors of its own for each way of not being answered, and they change.
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in _HIDDEN:
            raise ValueError(
                f"{missing} the hub has no data set of that name that may be read. Look for it on "
                "huggingface.co/datasets; before a private one, log in: hf auth login."
            ) from error
        raise ValueError(
            f"{missing} the hub, huggingface.co, cannot be reached ({in_short(error)}). Give a copy on "
            f"this machine: {LOCAL}."
        ) from error
