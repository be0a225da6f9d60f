"""Data sets that need no download: scikit-learn's digits, and two clouds of points in the plane."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ancestral.data.raw import Kind, Raw

POINTS = 10_000
"""The number of points of a generated data set, test split included."""
POINTS_SEED = 20_240_923
"""The seed of the generated data sets."""


def _digits() -> Raw:
    """1,797 images of handwritten digits, 8×8, grey levels 0 … 16 (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # scikit-learn stores the counts 0 … 16 as floats; they are whole, so nothing is lost.
    return Raw("digits", digits.images.astype(np.uint8), digits.target, levels=17)


def _swiss_roll() -> Raw:
    """Points along a spiral: the x and z of scikit-learn's swiss roll, over 7 for about unit spread."""
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(POINTS, noise=0.5, random_state=POINTS_SEED)
    return Raw("swiss-roll", points[:, [0, 2]] / 7.0)


def _moons() -> Raw:
    """Points of two interleaved half circles of radius 1; the label is the half circle."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(POINTS, noise=0.1, random_state=POINTS_SEED)
    return Raw("moons", points, labels)


_READERS: dict[str, Callable[[], Raw]] = {
    "digits": _digits,
    "swiss-roll": _swiss_roll,
    "moons": _moons,
}

SOURCES = tuple(_READERS)
"""The names of the built-in data sets."""

KIND = Kind(
    expects=f"a built-in data set ({', '.join(SOURCES)})",
    matches=lambda source: source in _READERS,
    read=lambda source, reading: _READERS[source](),
)
