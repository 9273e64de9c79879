"""3x3 convolutions with 4 multiplications for an output in place of 9: Winograd's F(2x2, 3x3), and its derivatives.

    tile (4x4) -> V = B' tile B        filter (3x3) -> U = G filter G'        outputs (2x2) = A' (U V) A

An image is cut into tiles of 4x4 positions that overlap by two. What stands between the small transforms are 16 matrix
products over the channels. A picture is a matrix (positions, n channels); cutting, padding and B together are one
sparse matrix with at most four entries in a row, A and putting the outputs in their order (windows.py) another, and
their transposes are the way back. All factors are 0, 1 and 1/2, and rounding errors about those of an ordinary
convolution: Lavin and Gray, 2015, arXiv:1509.09308, section 4.1.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.networks.windows import window_order

__all__ = ["Transforms", "convolve", "filters_gradient", "inputs_gradient", "products_gradient", "transforms"]

_A = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
_B = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class Transforms(NamedTuple):
    """Of pictures of one size; of t tiles and p positions."""

    cut: Tensor  # (16 t, p) sparse
    paste: Tensor  # its transpose
    join: Tensor  # (p, 16 t) sparse; rows in the order of windows
    split: Tensor  # its transpose
    filters: Tensor  # (16, 9)


def convolve(picture: Tensor, filters: Tensor, by: Transforms) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve (positions, n inside), rows as in a picture, with (outside, inside, 3, 3), padded by 1.

    Returns:
        outputs (positions, n outside), in the order of windows; V (16, t n, inside); U (16, outside, inside).
    """
    outside, inside = filters.shape[0], filters.shape[1]
    spectrum = torch.mm(by.filters, filters.permute(2, 3, 0, 1).reshape(9, -1)).view(16, outside, inside)
    tiles = _sparse_product(by.cut, picture).view(16, -1, inside)
    products = torch.bmm(tiles, spectrum.transpose(1, 2))
    return _sparse_product(by.join, products.view(by.cut.shape[0], -1)), tiles, spectrum


def products_gradient(grad: Tensor, outside: int, by: Transforms) -> Tensor:
    """The gradient of the outputs before they were joined: (16, t n, outside)."""
    return _sparse_product(by.split, grad).view(16, -1, outside)


def filters_gradient(products: Tensor, tiles: Tensor, by: Transforms) -> Tensor:
    """That of the filters, (outside, inside, 3, 3), from what `products_gradient` gives and V."""
    spectrum = torch.bmm(products.transpose(1, 2), tiles)
    flat = torch.mm(by.filters.t(), spectrum.view(16, -1))
    return flat.view(3, 3, spectrum.shape[1], spectrum.shape[2]).permute(2, 3, 0, 1)


def inputs_gradient(products: Tensor, spectrum: Tensor, by: Transforms) -> Tensor:
    """That of the picture, from what `products_gradient` gives and U."""
    tiles = torch.bmm(products, spectrum)
    return _sparse_product(by.paste, tiles.view(by.cut.shape[0], -1))


@lru_cache(maxsize=64)
def transforms(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Transforms:
    """Make them."""
    rows, columns = _tiles_along(height), _tiles_along(width)
    cut = torch.einsum("aty,bsx->abtsyx", rows, columns).reshape(-1, height * width)
    rows, columns = _outputs_along(height), _outputs_along(width)
    join = torch.einsum("yat,xbs->yxabts", rows, columns).reshape(height * width, -1)[window_order(height, width)]
    one = torch.tensor(_G, dtype=dtype, device=device)
    cut, paste, join, split = (_sparse(matrix, dtype, device) for matrix in (cut, cut.T, join, join.T))
    return Transforms(cut, paste, join, split, torch.kron(one, one))


def _sparse_product(matrix: Tensor, values: Tensor) -> Tensor:
    out = torch.empty((matrix.shape[0], values.shape[1]), dtype=values.dtype, device=values.device)
    return torch.addmm(out, matrix, values, beta=0.0, alpha=1.0, out=out)


def _tiles_along(size: int) -> Tensor:
    """B' and cutting along one axis: (4, tiles, size)."""
    count = -(-size // 2)
    padded = torch.zeros(4, count, 2 * count + 2)
    for tile in range(count):
        padded[:, tile, 2 * tile : 2 * tile + 4] = torch.tensor(_B)
    return padded[:, :, 1 : size + 1]


def _outputs_along(size: int) -> Tensor:
    """A' along one axis, each output from its tile: (size, 4, tiles)."""
    count = -(-size // 2)
    found = torch.zeros(2 * count, 4, count)
    for tile in range(count):
        found[2 * tile : 2 * tile + 2, :, tile] = torch.tensor(_A)
    return found[:size]


def _sparse(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    with warnings.catch_warnings():  # torch's kernels for it are good enough for us
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return matrix.to(dtype).to_sparse_csr().to(device)
