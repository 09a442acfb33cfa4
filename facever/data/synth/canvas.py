"""Brushes: shapes given by distances, laid over a canvas of pixels.

Letters: B pictures, S pixels a side. Pixel arrays are (B, S, S), colours and canvases
(3, B, ...), traits (B, 1, 1), all float32.

Only + - * / sqrt min max floor and table look-ups touch pixels. Every processor and every
vector width rounds these alike, so that a picture's bytes depend neither on its batch nor on
the number of threads; exp and sin would let them, and cost ten times as much.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.floating[Any]]  # float32 throughout

_NOISE_SIDE = 256


def cover(distance: Pixels, sharp: Pixels) -> Pixels:
    """Share of a pixel covered by a shape whose border is `distance` away (inside < 0)."""
    share: Pixels = distance * -sharp
    share += 0.5
    np.clip(share, 0.0, 1.0, out=share)
    return share


def bump(square: Pixels) -> Pixels:
    """A smooth hill over a squared radius: 1 at the centre, 0 from radius 1 on."""
    hill: Pixels = np.maximum(1.0 - square, 0.0)
    hill *= hill
    return hill


def oval(u: Pixels, v: Pixels, half_u: Pixels | float, half_v: Pixels | float) -> Pixels:
    """Squared radius in an ellipse's own unit."""
    across: Pixels = u * (1.0 / half_u)
    along = v * (1.0 / half_v)
    across *= across
    along *= along
    across += along
    return across


def paint(canvas: Pixels, mask: Pixels, colour: Pixels | float) -> None:
    """Lay a colour, or a grey of any shape that fits, over the canvas, in place."""
    # One channel at a time: the steps then stay in the cache.
    for layer, tone in zip(canvas, np.broadcast_to(colour, canvas.shape), strict=True):
        step = tone - layer
        step *= mask
        layer += step


@cache
def noise(seed: int, smoothing: int) -> Pixels:
    """A seamless table of smooth noise, mean 0, deviation 1; shape (side * side,)."""
    table = np.random.default_rng(seed).standard_normal((_NOISE_SIDE, _NOISE_SIDE))
    for reach in range(1, smoothing + 1):
        for axis in (0, 1):
            table = table + np.roll(table, reach, axis) + np.roll(table, -reach, axis)
    table = (table - table.mean()) / table.std()
    flat: Pixels = table.astype(np.float32).ravel()
    flat.flags.writeable = False
    return flat


def look_up(table: Pixels, across: Pixels, down: Pixels) -> Pixels:
    """Values of a seamless table at real places."""
    column = across.astype(np.int32) & (_NOISE_SIDE - 1)
    row = down.astype(np.int32) & (_NOISE_SIDE - 1)
    row *= _NOISE_SIDE
    row += column
    return table.take(row)
