"""Which way a convolution is computed on a CPU; all give the same numbers, up to rounding."""

from __future__ import annotations

from torch import Tensor

from kshot_models.batched.native import patches, winograd

__all__ = ["Convolved", "again", "convolve", "convolved", "gradients", "input_gradient", "weight_gradient"]

_FEW = 500  # positions of a task below which Winograd's way costs more in transforms than it saves in products

Convolved = patches.Convolved | winograd.Convolved


def convolved(inputs: Tensor, filters: Tensor, stride: int, *, keep: bool) -> tuple[Tensor, Convolved]:
    """A convolution, and what `again` and `gradients` need.

    Args:
        inputs: (tasks, n, height, width, inside).
        filters: (tasks, outside, 9 inside).
        stride: 1 or 2.
        keep: also what the products are made of, several times the inputs, instead of making it again.
    """
    if _winograds(inputs, filters.shape[1], stride):
        return winograd.convolved(inputs, filters, keep=keep)
    return patches.convolved(inputs, filters, stride, keep=keep)


def again(done: Convolved, filters: Tensor) -> Tensor:
    """The convolution of the same inputs with other filters of the same size."""
    if isinstance(done, winograd.Convolved):
        return winograd.again(done, filters)
    return patches.again(done, filters)


def gradients(done: Convolved, grad: Tensor, *, inputs: bool, filters: bool) -> tuple[Tensor | None, Tensor | None]:
    """Those of the inputs and of the filters, each if it is asked for."""
    if isinstance(done, winograd.Convolved):
        return winograd.gradients(done, grad, inputs=inputs, filters=filters)
    return patches.gradients(done, grad, inputs=inputs, filters=filters)


def convolve(inputs: Tensor, filters: Tensor, stride: int, precision: str) -> Tensor:
    """See batched/convolution.py."""
    del precision  # of Triton's kernels
    if _shared(filters):
        out, _ = convolved(inputs.flatten(0, 1)[None], filters[:1], stride, keep=False)
        return out.view(*inputs.shape[:2], *out.shape[2:])
    return convolved(inputs, filters, stride, keep=False)[0]


def input_gradient(grad: Tensor, filters: Tensor, height: int, width: int, stride: int, precision: str) -> Tensor:
    """See batched/convolution.py."""
    if _shared(filters):
        found = input_gradient(grad.flatten(0, 1)[None], filters[:1], height, width, stride, precision)
        return found.view(*grad.shape[:2], *found.shape[2:])
    if _winograds(grad, filters.shape[2] // 9, stride):
        return winograd.input_gradient(grad, filters)
    return patches.input_gradient(grad, filters, stride, height, width)


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int, precision: str) -> Tensor:
    """See batched/convolution.py."""
    del precision
    if _winograds(inputs, grad.shape[-1], stride):
        return winograd.weight_gradient(inputs, grad)
    return patches.weight_gradient(inputs, grad, stride)


def _winograds(images: Tensor, channels: int, stride: int) -> bool:
    positions = images.shape[1] * images.shape[2] * images.shape[3]
    whole = images.shape[-1] % winograd.LANES == channels % winograd.LANES == 0
    return stride == 1 and whole and positions >= _FEW


def _shared(filters: Tensor) -> bool:
    """Whether all tasks have the same filters, not copied: one product serves them."""
    return len(filters) > 1 and filters.stride(0) == 0
