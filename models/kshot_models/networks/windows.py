"""The order in which the outputs of a convolution stand for 2x2 pooling, and that pooling.

    all upper left positions of windows, all upper right, all lower left, all lower right; then what is in no window

A picture is a matrix (positions, n channels), so that sums are over long runs of memory. In this order the four values
of a window are one below the other at equal distances, and pooling is a maximum over four blocks of rows. An odd size
leaves a row or a column in no window: it counts in moments, and pooling drops it.

The functions are compiled for `released` (released.py).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["as_image", "pick", "send_back", "window_order"]


@lru_cache(maxsize=64)
def window_order(height: int, width: int) -> Tensor:
    """(height width,) the positions, counted row by row, in this order."""
    positions = torch.arange(height * width).view(height, width)
    even = positions[: height // 2 * 2, : width // 2 * 2]
    inside = even.view(height // 2, 2, width // 2, 2).permute(1, 3, 0, 2).flatten()
    left = torch.ones(height * width, dtype=torch.bool).index_fill(0, inside, value=False)
    return torch.cat([inside, left.nonzero().flatten()])


def as_image(rows: Tensor, height: int, channels: int) -> Tensor:
    """(..., channels) as a channels-last image (1, channels, height, ...)."""
    return rows.reshape(1, height, -1, channels).permute(0, 3, 1, 2)


def pick(raw: Tensor, windows: int, n: int, channels: int) -> tuple[Tensor, Tensor]:
    """The largest of each window, (1, channels, 1, windows n) channels-last, and its place for `send_back`.

    Of equals it is the first, as in torch's pooling: it is torch's pooling, of an image that is 4 high.
    """
    image = as_image(raw.view(-1, n * channels)[: 4 * windows], 4, channels)
    picked, places = torch.ops.aten.max_pool2d_with_indices(image, [4, 1], [4, 1])
    return picked, places


def send_back(grad: Tensor, raw: Tensor, places: Tensor, windows: int, n: int) -> Tensor:
    """The transpose of `pick`: a gradient of the maxima, in the order above; 0 where they did not come from."""
    channels = grad.shape[1]
    image = as_image(raw.view(-1, n * channels)[: 4 * windows], 4, channels)
    sent = torch.ops.aten.max_pool2d_with_indices_backward(
        grad, image, [4, 1], [4, 1], [0, 0], [1, 1], ceil_mode=False, indices=places
    )
    rows = sent.permute(0, 2, 3, 1).reshape(4 * windows, n * channels)
    left = raw.numel() // (n * channels) - 4 * windows
    return torch.cat([rows, rows.new_zeros(left, n * channels)]) if left > 0 else rows
