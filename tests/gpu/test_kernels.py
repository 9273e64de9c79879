"""The Triton kernels on a GPU against their definitions in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kshot_models.batched import normalization_reference, reference
from kshot_models.batched.backend import kernels_for
from kshot_models.batched.normalization import Features, Pooling

SIZES = [(4, 5, 28, 1, 64, 1), (4, 5, 14, 64, 64, 2), (3, 7, 7, 64, 128, 1), (2, 3, 9, 20, 24, 2)]
EXACT, TF32 = 1e-6, 2e-3  # relative, in the norm


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions(size: tuple[int, ...], tf32: bool) -> None:
    tasks, n, side, inside, outside, stride = size
    inputs = torch.randn(tasks, n, side, side, inside, device="cuda")
    filters = torch.randn(tasks, outside, 9 * inside, device="cuda")
    expected = reference.convolve(inputs.double(), filters.double(), stride)
    grad = torch.randn_like(expected).float()
    kernels, precision, limit = kernels_for(inputs), "tf32" if tf32 else "ieee", TF32 if tf32 else EXACT
    assert kernels is not None
    assert apart(kernels.convolve(inputs, filters, stride, precision), expected) < limit
    wanted = reference.input_gradient(grad.double(), filters.double(), stride, side, side)
    assert apart(kernels.input_gradient(grad, filters, side, side, stride, precision), wanted) < limit
    wanted = reference.weight_gradient(inputs.double(), grad.double(), stride)
    assert apart(kernels.weight_gradient(inputs, grad, stride, precision), wanted) < limit


@pytest.mark.parametrize("pool", [False, True])
def test_normalization(pool: bool) -> None:
    share = torch.rand(3, 5, device="cuda")
    raw, gain, bias = (torch.randn(*shape, device="cuda") for shape in ((3, 5, 7, 7, 64), (3, 64), (3, 64)))
    single = Features(raw, gain, bias, share / share.sum(1, keepdim=True))
    double = Features(*(tensor.double() for tensor in single))
    shape = Pooling(pool, 1e-5)
    kernels = kernels_for(raw)
    assert kernels is not None
    wanted = normalization_reference.normalize(double, shape)
    found = kernels.normalize(single, shape)
    grad = torch.randn_like(found[0])
    changes = (torch.randn_like(raw), torch.randn_like(gain), torch.randn_like(gain))
    first = kernels.normalize_gradient(single, found[1:], grad, shape)
    first_wanted = normalization_reference.normalize_gradient(double, wanted[1:], grad.double(), shape)
    second = kernels.normalize_second_gradient(single, found[1:], grad, first[1:], changes, shape)
    second_wanted = normalization_reference.normalize_second_gradient(
        double,
        wanted[1:],
        grad.double(),
        first_wanted[1:],
        (changes[0].double(), changes[1].double(), changes[2].double()),
        shape,
    )
    pairs = zip((*found, *first, *second), (*wanted, *first_wanted, *second_wanted), strict=True)
    assert max(apart(*pair) for pair in pairs) < EXACT
