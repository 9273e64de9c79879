"""The Triton kernels, run by Triton's interpreter on the CPU, against reference.py; a program of test_batched.py."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched import kernels, normalization_reference, reference
from kshot_models.batched.normalization import Features, Pooling

CONVOLUTIONS = [(2, 2, 5, 5, 1, 20, 2), (1, 2, 6, 5, 20, 24, 1), (2, 2, 5, 4, 8, 8, 2), (1, 1, 1, 1, 8, 8, 2)]
NORMALIZATIONS = [(2, 3, 5, 4, 20, True), (2, 3, 5, 4, 20, False), (1, 2, 1, 1, 8, False)]
LIMIT = 2e-6  # relative, of sums of single precision in another order


def check(found: Tensor, expected: Tensor) -> None:
    apart = float((found - expected).norm() / expected.norm().clamp_min(1e-6))
    assert apart < LIMIT, apart


def convolutions() -> None:
    for tasks, n, height, width, inside, outside, stride in CONVOLUTIONS:
        inputs, own = torch.randn(tasks, n, height, width, inside), torch.randn(tasks, outside, 9 * inside)
        for filters in (own, own[:1].expand(tasks, -1, -1)):
            expected = reference.convolve(inputs, filters, stride)
            grad = torch.randn_like(expected)
            for precision in ("ieee", "tf32"):  # one and the same to an interpreter
                check(kernels.convolve(inputs, filters, stride, precision), expected)
            found = kernels.input_gradient(grad, filters, height, width, stride, "ieee")
            check(found, reference.input_gradient(grad, filters, stride, height, width))
            found = kernels.weight_gradient(inputs, grad, stride, "ieee")
            check(found, reference.weight_gradient(inputs, grad, stride))


def normalizations() -> None:
    for tasks, n, height, width, channels, pool in NORMALIZATIONS:
        share = torch.rand(tasks, n)
        share[:, -1] = 0.0 if n > 1 else 1.0  # padding
        gain, bias = torch.randn(tasks, channels), torch.randn(tasks, channels)
        features = Features(torch.randn(tasks, n, height, width, channels), gain, bias, share / share.sum(1)[:, None])
        shape = Pooling(pool, 1e-5)
        out, *moments = normalization_reference.normalize(features, shape)
        grad, changes = torch.randn_like(out), (torch.randn_like(features.raw), gain, bias)
        given = (moments[0], moments[1])
        first = normalization_reference.normalize_gradient(features, given, grad, shape)
        second = normalization_reference.normalize_second_gradient(features, given, grad, first[1:], changes, shape)
        found = (
            *kernels.normalize(features, shape),
            *kernels.normalize_gradient(features, given, grad, shape),
            *kernels.normalize_second_gradient(features, given, grad, first[1:], changes, shape),
            kernels.scale(features.raw, gain, bias, pool=pool),
            *kernels.scale_gradient(features.raw, gain, bias, grad, pool=pool),
        )
        scaled = normalization_reference.scale(features.raw, gain, bias, pool=pool)
        scaled_gradient = normalization_reference.scale_gradient(features.raw, gain, bias, grad, pool=pool)
        expected = (out, *moments, *first, *second, scaled, *scaled_gradient)
        for one, other in zip(found, expected, strict=True):
            check(one, other)


if __name__ == "__main__":
    torch.manual_seed(0)
    convolutions()
    normalizations()
    print("equal")  # noqa: T201 - what the test waits for
