"""Sources of data → integer images or float vectors in splits, with labels and the number of levels."""

from ancestral.data.builtin import SOURCES
from ancestral.data.dataset import Dataset, Split, content_hash
from ancestral.data.feed import feed
from ancestral.data.raw import Reading
from ancestral.data.rows import Examples, Rows
from ancestral.data.sources import assemble, load_data

__all__ = [
    "SOURCES",
    "Dataset",
    "Examples",
    "Reading",
    "Rows",
    "Split",
    "assemble",
    "content_hash",
    "feed",
    "load_data",
]
