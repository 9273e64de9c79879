"""Convolutions and their gradients on a CPU: one call for all tasks, by the way that suits the channels."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched.native import patches, winograd
from kshot_models.batched.native.jit import Array2, Array3, Array4, Array5, array, compiled, inlined

__all__ = [
    "FEW_POSITIONS",
    "FILTERS",
    "IMAGES",
    "convolve",
    "convolve_task",
    "gradients",
    "input_gradient",
    "task_gradients",
    "weight_gradient",
]

IMAGES, FILTERS = 1, 2  # which gradients are wanted
FEW_POSITIONS = 36  # for which filters are not worth Winograd's transform: a query on the last block


def convolve(inputs: Tensor, filters: Tensor, stride: int, precision: str = "ieee") -> Tensor:
    """See batched/convolution.py."""
    del precision  # of Triton's kernels
    tasks, n, height, width, _ = inputs.shape
    out = torch.empty((tasks, n, -(-height // stride), -(-width // stride), filters.shape[1]))
    if _shared(filters):
        _convolve(array(inputs.flatten(0, 1)[None]), array(filters[:1]), stride, array(out.view(1, -1, *out.shape[2:])))
    else:
        _convolve(array(inputs), array(filters), stride, array(out))
    return out


def gradients(inputs: Tensor, filters: Tensor, grad: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Those of the inputs and of the filters."""
    of_inputs, of_filters = torch.empty(inputs.shape), torch.empty(filters.shape)
    _gradients(
        array(inputs), array(filters), array(grad), stride, array(of_inputs), array(of_filters), IMAGES | FILTERS
    )
    return of_inputs, of_filters


def input_gradient(
    grad: Tensor, filters: Tensor, height: int, width: int, stride: int, precision: str = "ieee"
) -> Tensor:
    """See batched/convolution.py."""
    del precision
    found = torch.empty((*grad.shape[:2], height, width, filters.shape[2] // 9))
    if _shared(filters):
        grad, filters = grad.flatten(0, 1)[None], filters[:1]
    images, of_filters = array(found.view(len(grad), -1, *found.shape[2:])), array(filters)
    # Of images, the gradient needs the size alone, and of_filters is not written.
    _gradients(images, of_filters, array(grad), stride, images, of_filters, IMAGES)
    return found


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int, precision: str = "ieee") -> Tensor:
    """See batched/convolution.py."""
    del precision
    found = torch.empty((len(inputs), grad.shape[-1], 9 * inputs.shape[-1]))
    images, filters = array(inputs), array(found)
    _gradients(images, filters, array(grad), stride, images, filters, FILTERS)
    return found


@compiled
def _convolve(images: Array5, filters: Array3, stride: int, out: Array5) -> None:
    for task in range(len(images)):
        convolve_task(images[task], filters[task], stride, out[task])


@compiled
def _gradients(
    images: Array5, filters: Array3, grad: Array5, stride: int, of_images: Array5, of_filters: Array3, wanted: int
) -> None:
    for task in range(len(images)):
        task_gradients(images[task], filters[task], grad[task], stride, of_images[task], of_filters[task], wanted)


@inlined
def convolve_task(images: Array4, filters: Array2, stride: int, out: Array4) -> None:
    """(n, height, width, inside) by (outside, 9 inside) -> (n, height / stride, width / stride, outside)."""
    few = images.shape[0] * images.shape[1] * images.shape[2] <= FEW_POSITIONS
    if winograd.suits(images.shape[3], filters.shape[0], stride) and not few:
        winograd.convolve(images, filters, out)
    else:
        patches.convolve(images, filters, stride, out)


@inlined
def task_gradients(
    images: Array4, filters: Array2, grad: Array4, stride: int, of_images: Array4, of_filters: Array2, wanted: int
) -> None:
    """Those of the images, if `wanted` has IMAGES, and of the filters, if it has FILTERS; else nothing is written."""
    if winograd.suits(images.shape[3], filters.shape[0], stride):
        winograd.gradients(images, filters, grad, of_images, of_filters, wanted)
    else:
        patches.gradients(images, filters, grad, stride, of_images, of_filters, wanted)


def _shared(filters: Tensor) -> bool:
    """Whether all tasks have the same filters, not copied: one product serves them."""
    return len(filters) > 1 and filters.stride(0) == 0
