"""What autograd leaves behind, said in forward operations: against autograd itself, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.decompositions import convolution_backward, nll_loss_backward, nll_loss_forward


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((6, 6), 3, (1, 1), (1, 1)),
        ((7, 5), 3, (2, 2), (1, 1)),
        ((8, 6), 3, (2, 1), (0, 1)),
        ((5, 5), 1, (1, 1), (0, 0)),
    ],
)
def test_the_backward_pass_of_a_convolution_is_that_of_autograd(
    size: tuple[int, int], kernel: int, stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    inputs, weight, bias = drawn(3, 2, *size), drawn(4, 2, kernel, kernel), drawn(4)
    leaves = [each.requires_grad_() for each in (inputs, weight, bias)]
    outputs = F.conv2d(*leaves, stride=stride, padding=padding)
    grad = drawn(*outputs.shape)
    expected = torch.autograd.grad(outputs, leaves, grad)
    options = ((4,), stride, padding, (1, 1), False, (0, 0), 1)
    with torch.no_grad():
        found = convolution_backward(grad, inputs, weight, *options, (True, True, True))
        assert convolution_backward(grad, inputs, weight, *options, (False, False, False)) == (None, None, None)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_other_convolutions_are_refused() -> None:
    for dilation, transposed, groups in (((2, 2), False, 1), ((1, 1), True, 1), ((1, 1), False, 2)):
        with pytest.raises(OnnxNotSupported, match="plain convolutions"):
            convolution_backward(
                *(torch.zeros(1, 2, 4, 4) for _ in range(3)),
                *(None, (1, 1), (1, 1), dilation, transposed, (0, 0), groups, (True, True, True)),
            )


def test_the_loss_and_its_gradient_are_those_of_autograd() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets, grad = torch.tensor([2, 0, 1, 1, 0]), torch.arange(1.0, 6.0, dtype=torch.float64)
    losses = F.nll_loss(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad(losses, logits, grad)
    found, total = nll_loss_forward(logits, targets, None, 0, -100)
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(nll_loss_backward(grad, logits, targets, None, 0, -100, total), expected)
    for weight, reduction in ((torch.ones(3), 0), (None, 1)):
        with pytest.raises(OnnxNotSupported, match="unreduced, unweighted"):
            nll_loss_forward(logits, targets, weight, reduction, -100)
        with pytest.raises(OnnxNotSupported, match="unreduced, unweighted"):
            nll_loss_backward(grad, logits, targets, weight, reduction, -100, total)
