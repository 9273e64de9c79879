"""Random numbers without state: a function of (seed, stream, number), so that resuming needs nothing saved.

Philox is a block cipher in counter mode: block i of a key can be had without the blocks before it. Here seed and
stream make the key, and each number (of an episode, of a step) owns a fixed run of blocks. All on the CPU: the same
draws on every device.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_distinct", "uniforms", "whole"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WORDS = 4  # that one Philox block holds


def uniforms(seed: int, stream: int, *, first: int, count: int, width: int) -> Floats:
    """Draws of the numbers first .. first + count - 1.

    Args:
        seed: from 0.
        stream: what the draws are for; streams are independent of each other.
        first: from 0.
        count: how many numbers.
        width: draws per number; the same for all calls of a stream, or they would overlap.

    Returns:
        (count, width) uniform in [0, 1). Row i depends on seed, stream, width and first + i alone.
    """
    blocks = math.ceil(width / _WORDS)
    key = np.array([seed, stream], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([first * blocks, 0, 0, 0], np.uint64))
    words = bits.random_raw(count * blocks * _WORDS) >> np.uint64(11)
    return words.astype(np.float64).reshape(count, blocks * _WORDS)[:, :width] * 2.0**-53


def whole(draws: Floats, low: int | Ints, high: int | Ints) -> Ints:
    """Uniform draws in [0, 1) as whole numbers from low to high, both included."""
    span = np.asarray(high) - np.asarray(low) + 1
    return np.asarray(low + np.floor(draws * span)).astype(np.int64)


def choose_distinct(picks: Floats, orders: Floats, population: Ints) -> Ints:
    """Choose without replacement, in random order: every ordered choice is equally likely.

    Floyd's algorithm and then a shuffle, for any number of rows at once: the cost depends on how many are chosen,
    not on how many there are to choose from.

    Args:
        picks: (..., k) uniform draws, for the choice.
        orders: (..., k) uniform draws, for the order.
        population: (...,) how many there are to choose from, at least k.

    Returns:
        (..., k) distinct whole numbers from 0 to population - 1.

    Reference: Bentley and Floyd, "Programming pearls: a sample of brilliance", 1987.
    """
    chosen = np.empty(picks.shape, np.int64)
    count = picks.shape[-1]
    for i in range(count):
        last = population - count + i
        pick = whole(picks[..., i], 0, last)
        taken = (chosen[..., :i] == pick[..., None]).any(axis=-1)
        chosen[..., i] = np.where(taken, last, pick)
    return np.take_along_axis(chosen, np.argsort(orders, axis=-1, kind="stable"), axis=-1)
