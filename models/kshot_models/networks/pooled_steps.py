"""One block with 2x2 pooling, ahead and back: the arithmetic of pooled_blocks.py, each function one call (released.py).

    y = w * x       p = maxpool(y)       out = relu(norm(p))

Pictures are (positions, n channels), images (1, channels, 1, positions n) channels-last. The way back of a block is
that of torch's batch norm, for a gradient that is g at the places of the maxima, G, and 0 elsewhere. Of a first block
only the filters' gradient is asked for, and it never makes the gradient of y:

    dy = scale G + slope y + offset            slope = -scale sum(g y) / (N (variance + epsilon))
    dw = P' dy = P' (scale G) + slope P' P w   y and the patches P are centred: P' offset = 0
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.networks.windows import as_image, pick, send_back
from kshot_models.networks.winograd import Transforms, convolve, products_gradient
from kshot_models.released import released

__all__ = ["first_ahead", "first_answer", "first_back", "later_ahead", "later_answer", "later_back"]


@released
def first_ahead(
    centred: Tensor,
    covariance: Tensor,
    columns: Tensor,
    size: Tensor,
    bias: Tensor,
    epsilon: float,
    windows: int,
    n: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, variance, centred y (positions, n outside), its maxima and their places; y is patches by columns."""
    outside = columns.shape[1]
    raw = torch.mm(centred, columns).view(-1, n * outside)
    exact = columns.to(torch.float64)
    variance = (torch.mm(covariance, exact) * exact).sum(0).to(columns.dtype)
    picked, places = pick(raw, windows, n, outside)
    return _normed(picked, size, bias, torch.zeros_like(variance), variance, epsilon), variance, raw, picked, places


@released
def first_back(
    grad: Tensor,
    out: Tensor,
    raw: Tensor,
    picked: Tensor,
    places: Tensor,
    unit: Tensor,
    size: Tensor,
    windows: int,
    n: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """scale G (positions, n outside), slope and offset of the gradient of y, and those of gain and bias.

    `unit` is 1 / sqrt(variance + epsilon).
    """
    outside = size.shape[0]
    grad = torch.ops.aten.threshold_backward(as_image(grad, 1, outside), out, 0)
    grad_size = (grad * picked).sum((0, 2, 3)) * unit
    grad_bias = grad.sum((0, 2, 3))
    scale = size * unit
    share = scale * (-outside / raw.numel())
    sent = send_back(grad * scale.view(1, -1, 1, 1), raw, places, windows, n)
    return sent, grad_size * unit * share, grad_bias * share, grad_size, grad_bias


@released
def first_answer(rows: Tensor, columns: Tensor, shift: Tensor, windows: int, n: int) -> Tensor:
    """The output of a block whose norm is in its filters, (windows, n outside), from patches."""
    return _largest(torch.mm(rows, columns), shift, windows, n)


@released
def later_ahead(
    picture: Tensor, filters: Tensor, size: Tensor, bias: Tensor, epsilon: float, windows: int, n: int, by: Transforms
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, mean, variance, y and places; V and U of the convolution."""
    outside = filters.shape[0]
    raw, tiles, spectrum = convolve(picture, filters, by)
    mean, variance = torch.batch_norm_update_stats(as_image(raw, 1, outside), None, None, 0.0)
    picked, places = pick(raw, windows, n, outside)
    return _normed(picked, size, bias, mean, variance, epsilon), mean, variance, raw, places, tiles, spectrum


@released
def later_back(
    grad: Tensor,
    out: Tensor,
    raw: Tensor,
    places: Tensor,
    norm: tuple[Tensor, Tensor, Tensor],
    windows: int,
    n: int,
    by: Transforms,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient before the outputs were joined (16, t n, outside), and those of gain and bias.

    `norm` is size, mean and 1 / sqrt(variance + epsilon).
    """
    size, mean, unit = norm
    outside = size.shape[0]
    grad = torch.ops.aten.threshold_backward(as_image(grad, 1, outside), out, 0)
    sent = send_back(grad, raw, places, windows, n)
    dense, grad_size, grad_bias = torch.ops.aten.native_batch_norm_backward(
        as_image(sent, 1, outside),
        as_image(raw, 1, outside),
        size,
        None,
        None,
        mean,
        unit,
        train=True,
        eps=0.0,  # which is in `unit`
        output_mask=[True, True, True],
    )
    rows = dense.permute(0, 2, 3, 1).reshape(-1, n * outside)
    return products_gradient(rows, outside, by), grad_size, grad_bias


@released
def later_answer(picture: Tensor, filters: Tensor, shift: Tensor, windows: int, n: int, by: Transforms) -> Tensor:
    """The output of a block whose norm is in its filters, (windows, n outside)."""
    return _largest(convolve(picture, filters, by)[0], shift, windows, n)


def _normed(picked: Tensor, size: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    normed: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm(
        picked, size, bias, mean, variance, training=False, momentum=0.0, eps=epsilon
    )
    return normed[0].relu_()


def _largest(raw: Tensor, shift: Tensor, windows: int, n: int) -> Tensor:
    outside = shift.shape[0]
    inside = raw.view(-1, n * outside)[: 4 * windows].view(4, -1, outside)
    return inside.amax(0).add_(shift).relu_().view(windows, n * outside)
