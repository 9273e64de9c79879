"""Convolutions of tensors and their gradients by the kernels of kshot_models/native/convolution.py."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array
from kshot_models.native.convolution import FILTERS, IMAGES, convolve_tasks, gradients_of_tasks

__all__ = ["convolve", "gradients", "input_gradient", "weight_gradient"]


def convolve(inputs: Tensor, filters: Tensor, stride: int, precision: str = "ieee") -> Tensor:
    """See batched/convolution.py."""
    del precision  # of Triton's kernels
    tasks, n, height, width, _ = inputs.shape
    out = torch.empty((tasks, n, -(-height // stride), -(-width // stride), filters.shape[1]))
    if _shared(filters):
        together, into = inputs.flatten(0, 1)[None], out.view(1, -1, *out.shape[2:])
        convolve_tasks(array(together), array(filters[:1]), stride, array(into))
    else:
        convolve_tasks(array(inputs), array(filters), stride, array(out))
    return out


def gradients(inputs: Tensor, filters: Tensor, grad: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Those of the inputs and of the filters."""
    of_inputs, of_filters = torch.empty(inputs.shape), torch.empty(filters.shape)
    gradients_of_tasks(
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
    gradients_of_tasks(images, of_filters, array(grad), stride, images, of_filters, IMAGES)
    return found


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int, precision: str = "ieee") -> Tensor:
    """See batched/convolution.py."""
    del precision
    found = torch.empty((len(inputs), grad.shape[-1], 9 * inputs.shape[-1]))
    images, filters = array(inputs), array(found)
    gradients_of_tasks(images, filters, array(grad), stride, images, filters, FILTERS)
    return found


def _shared(filters: Tensor) -> bool:
    """Whether all tasks have the same filters, not copied: one product serves them."""
    return len(filters) > 1 and filters.stride(0) == 0
