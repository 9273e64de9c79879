"""Norms against torch's own on one task, and the second-order gradients that torch's get wrong under vmap."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kshot_models.norm import NormPass, group_normalize, normalize, weighted_moments


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 4, 5, 5), (6, 4)])
def test_moments_are_mean_and_biased_variance(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = (0, *range(2, len(shape)))
    for weights in (None, torch.ones(6, dtype=torch.float64)):
        mean, variance = weighted_moments(inputs, weights)
        torch.testing.assert_close(mean, inputs.mean(axes), rtol=0, atol=1e-12)
        torch.testing.assert_close(variance, inputs.var(axes, correction=0), rtol=0, atol=1e-12)


def test_examples_of_weight_zero_do_not_count(inputs: torch.Tensor) -> None:
    weights = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64)
    for got, expected in zip(weighted_moments(inputs, weights), weighted_moments(inputs[:3], None), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_support_norm_equals_batch_norm_of_the_batch(inputs: torch.Tensor) -> None:
    gain, bias = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    ours = NormPass("support", None, None, 1e-5, 1)
    torch.testing.assert_close(
        ours("norm1", inputs, gain, bias), F.batch_norm(inputs, None, None, gain, bias, training=True, eps=1e-5)
    )
    given = NormPass("support", None, ours.used, 1e-5, 1)
    expected = F.batch_norm(inputs[:2], ours.used["norm1.mean"], ours.used["norm1.variance"], gain, bias, eps=1e-5)
    torch.testing.assert_close(given("norm1", inputs[:2], gain, bias), expected)
    assert set(ours.used) == {"norm1.mean", "norm1.variance"}


def test_group_norm_equals_torchs(inputs: torch.Tensor) -> None:
    gain, bias = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    ours = group_normalize(inputs, gain, bias, groups=2, epsilon=1e-5)
    torch.testing.assert_close(ours, F.group_norm(inputs, 2, gain, bias, eps=1e-5))


def test_first_and_second_derivatives_equal_finite_differences(inputs: torch.Tensor) -> None:
    weights = torch.tensor([1.0, 1, 0, 1, 1, 0], dtype=torch.float64)
    gain, bias = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5

    def whole(x: torch.Tensor, g: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return normalize(x, *weighted_moments(x, weights), g, b, epsilon=1e-5).square().sum((2, 3))

    arguments = (
        inputs[..., :2, :2].clone().requires_grad_(),
        gain.clone().requires_grad_(),
        bias.clone().requires_grad_(),
    )
    assert torch.autograd.gradcheck(whole, arguments)
    assert torch.autograd.gradgradcheck(whole, arguments)
