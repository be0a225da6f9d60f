"""What can be wrong with an image file."""

from __future__ import annotations


class BadImage(ValueError):
    """A file that holds no image that can be read; the message says why."""
