"""Convolutions of images with few channels: one small product with their 3x3 surroundings, which never change.

    y = P w        mean = mean(P) w        variance = w' C w,  C the covariance of P's columns

In every inner step the first layer has other filters and the same images. So the patches are made once; centred, they
give centred outputs; and their moments say those of the outputs without a look at them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.networks.windows import window_order

__all__ = ["Patches", "as_columns", "as_filters", "centred_patches", "patches"]


class Patches(NamedTuple):
    """What the images of a support set are to their first layer."""

    centred: Tensor  # (positions n, 9 inside), the mean of each column taken away
    mean: Tensor  # (9 inside,)
    covariance: Tensor  # (9 inside, 9 inside), in double precision, as a filter may cancel nearly all of it
    products: Tensor  # (9 inside, 9 inside), of the centred columns


def patches(inputs: Tensor) -> Tensor:
    """(n, inside, height, width) -> (positions n, 9 inside), padded with 0; positions in the order of windows."""
    height, width = inputs.shape[2:]
    surroundings = F.pad(inputs, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (n, inside, height, width, 3, 3)
    every = surroundings.permute(2, 3, 0, 4, 5, 1).flatten(3).flatten(0, 1)  # (height width, n, 9 inside)
    return every.index_select(0, window_order(height, width).to(inputs.device)).flatten(0, 1)


def centred_patches(inputs: Tensor) -> Patches:
    """The same, centred, with their moments."""
    rows = patches(inputs)
    mean = rows.mean(0, dtype=torch.float64).to(rows.dtype)
    rows = rows - mean
    exact = rows.double()
    products = exact.T @ exact
    return Patches(rows, mean, products / len(rows), products.to(rows.dtype))


def as_columns(filters: Tensor) -> Tensor:
    """(outside, inside, 3, 3) -> (9 inside, outside)."""
    return filters.permute(2, 3, 1, 0).reshape(-1, filters.shape[0])


def as_filters(columns: Tensor) -> Tensor:
    """(9 inside, outside) -> (outside, inside, 3, 3)."""
    return columns.view(3, 3, -1, columns.shape[1]).permute(3, 2, 0, 1)
