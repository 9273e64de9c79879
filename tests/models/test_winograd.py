"""Winograd's convolution is the convolution, its gradients are its transposes, its rounding errors are as small."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_models.networks.windows import window_order
from kshot_models.networks.winograd import convolve, filters_gradient, inputs_gradient, products_gradient, transforms
from kshot_models.released import released

SIZES = [(6, 8), (7, 5), (3, 3), (2, 2), (1, 4)]
CPU = torch.device("cpu")


def drawn(height: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    images, filters = (3, 6, height, width), (5, 6, 3, 3)
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (images, filters))  # type: ignore[return-value]  # two


def as_rows(images: Tensor) -> Tensor:
    return images.permute(2, 3, 0, 1).flatten(2).flatten(0, 1)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_the_convolution_in_the_order_of_windows_and_so_are_its_gradients(height: int, width: int) -> None:
    images, filters = (values.requires_grad_() for values in drawn(height, width))
    by = transforms(height, width, torch.float64, CPU)
    out, tiles, spectrum = convolve(as_rows(images.detach()), filters.detach(), by)
    expected = as_rows(F.conv2d(images, filters, padding=1))[window_order(height, width)]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=out.dtype)
    products = products_gradient(along, 5, by)
    of_images, of_filters = torch.autograd.grad(expected, (images, filters), along)
    torch.testing.assert_close(inputs_gradient(products, spectrum, by), as_rows(of_images), rtol=0, atol=1e-12)
    torch.testing.assert_close(filters_gradient(products, tiles, by), of_filters, rtol=0, atol=1e-12)


def test_its_rounding_errors_are_those_of_a_convolution() -> None:
    images, filters = drawn(14, 14, torch.float32)
    exact = F.conv2d(images.double(), filters.double(), padding=1)
    theirs = (F.conv2d(images, filters, padding=1) - exact).abs().mean()
    out, _, _ = convolve(as_rows(images), filters, transforms(14, 14, torch.float32, CPU))
    ours = (out - as_rows(exact)[window_order(14, 14)]).abs().mean()
    assert ours < 4 * theirs


@released
def powers(of: Tensor, count: int) -> Tensor:
    total = torch.zeros_like(of)
    for exponent in range(count):
        total = total + of**exponent
    return total


def test_a_released_function_is_the_same_function() -> None:
    assert powers.__name__ == "powers"
    torch.testing.assert_close(powers(torch.tensor([2.0, 3.0]), 4), torch.tensor([15.0, 40.0]))
    torch.testing.assert_close(powers(torch.tensor(2.0), count=2), torch.tensor(3.0))
