"""What the kernels over features share: how features are cut into tiles, and the largest of each window.

    program (part, channels, task)     a part of the rows of one task
    row                                a window of four positions where features are pooled, else one position
    tile                               (rows, positions, channels)

Positions outside the image are masked; an incomplete window at an odd edge takes part in moments but is never pooled.
"""

# See convolution.py on the names and types of kernels.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["SIZES", "Tiling", "column_sum", "picked", "places", "tiling"]

SIZES = ("n", "height", "width", "parts", "length")  # of `Tiling.sizes`: they change too often to compile for
_PROGRAMS = 1024  # about as many as keep a large GPU busy
_MOST_PARTS = 32  # each program adds up the sums of all parts again


class Tiling(NamedTuple):
    """How the features of a call are cut."""

    grid: tuple[int, int, int]  # (parts, blocks of channels, tasks)
    sizes: tuple[int, ...]  # n, height, width, parts, and rows of a part
    constants: dict[str, int]  # CHANNELS; POSITIONS of a row, ROWS and channels (BLOCK) of a tile; PARTS at most

    @property
    def parts(self) -> int:
        """Programs that share the rows of a task."""
        return self.grid[0]


def tiling(raw: Tensor, *, pool: bool) -> Tiling:
    """Cut raw (tasks, n, height, width, channels)."""
    tasks, n, height, width, channels = raw.shape
    rows = n * (-(-height // 2) * -(-width // 2) if pool else height * width)
    tile_rows, tile_channels = 16 if pool else 64, min(64, max(16, triton.next_power_of_2(channels)))
    blocks = triton.cdiv(channels, tile_channels)
    parts = max(1, min(_PROGRAMS // (tasks * blocks), triton.cdiv(rows, tile_rows), _MOST_PARTS))
    length = triton.cdiv(triton.cdiv(rows, parts), tile_rows) * tile_rows
    parts = triton.cdiv(rows, length)
    constants = {
        "POSITIONS": 4 if pool else 1,
        "ROWS": tile_rows,
        "CHANNELS": channels,
        "BLOCK": tile_channels,
        "PARTS": triton.next_power_of_2(parts),
    }
    return Tiling((parts, blocks, tasks), (n, height, width, parts, length), constants)


@triton.jit
def places(start, stop, n, height, width, ROWS: tl.constexpr, POSITIONS: tl.constexpr):
    """Of a tile whose rows begin at `start`, and end before `stop` at the latest.

    Returns:
        image (rows,); position (rows, positions) and whether it is one; pooled (rows,) and whether it is one.
    """
    row = start + tl.arange(0, ROWS)
    which = tl.arange(0, POSITIONS)[None, :]
    side: tl.constexpr = 2 if POSITIONS == 4 else 1
    high, wide = (height + side - 1) // side, (width + side - 1) // side
    image, window = row // (high * wide), row % (high * wide)
    down, right = window // wide, window % wide
    y, x = (down * side)[:, None] + which // side, (right * side)[:, None] + which % side
    there = (row < tl.minimum(stop, n * high * wide))[:, None] & (y < height) & (x < width)
    position = (image[:, None] * height + y) * width + x
    low, narrow = height // side, width // side
    whole = (row < tl.minimum(stop, n * high * wide)) & (down < low) & (right < narrow)
    return image, position, there, (image * low + down) * narrow + right, whole


@triton.jit
def picked(y, whole, POSITIONS: tl.constexpr):
    """1 where a position of y (rows, positions, channels) is the first of the largest of its window and is positive."""
    if POSITIONS == 1:
        slope = tl.where(y > 0, 1.0, 0.0)
    else:
        first = tl.argmax(y, 1, tie_break_left=True)
        here = tl.arange(0, POSITIONS)[None, :, None] == first[:, None, :]
        slope = tl.where(here & (y > 0), 1.0, 0.0)
    return tl.where(whole[:, None, None], slope, 0.0)


@triton.jit
def column_sum(
    sums, parts, channel, CHANNELS: tl.constexpr, which: tl.constexpr, KINDS: tl.constexpr, PARTS: tl.constexpr
):
    """Add up one kind of the parts' sums (parts, KINDS, channels) for a tile of channels."""
    part = tl.arange(0, PARTS)
    values = tl.load(
        sums + (part[:, None] * KINDS + which) * CHANNELS + channel[None, :],
        mask=(part < parts)[:, None] & (channel < CHANNELS)[None, :],
        other=0.0,
    )
    return tl.sum(values, 0)
