"""Keep freed memory in the process while networks run on a CPU.

glibc hands every block of more than some megabytes back to the kernel when it is freed, and the kernel
hands out zeroed pages when the next one is touched. A network frees and takes such blocks at every layer:
a tenth of a training step went into that.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
"""Of glibc's ``mallopt``."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library reuse freed blocks in place of returning them; says whether it does.

    Once for the process, and for as long as it lives: the most memory it holds stays with it. Nothing
    happens but on Linux with glibc, or where the environment sets the allocator already.
    """
    named = [name for name in os.environ if name.startswith("MALLOC_")]
    if sys.platform != "linux" or named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # No mapping of its own for a large block, and no trimming of the heap.
    return all(mallopt(name, value) == 1 for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
