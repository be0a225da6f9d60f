"""Sources of data → integer images or float vectors in splits, with labels and the number of levels."""

from ancestral.data.dataset import Dataset, Split, chosen, content_hash, examples_hash, subset
from ancestral.data.feed import feed, feed_batches
from ancestral.data.identity import identities
from ancestral.data.raw import Reading
from ancestral.data.readers.builtin import SOURCES
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
    "chosen",
    "content_hash",
    "examples_hash",
    "feed",
    "feed_batches",
    "identities",
    "load_data",
    "subset",
]
