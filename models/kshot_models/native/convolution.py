"""Convolutions and their gradients on a CPU: one call for all tasks, by the way that suits the channels."""

from __future__ import annotations

from kshot_models.native import patches, winograd
from kshot_models.native.jit import Array2, Array3, Array4, Array5, compiled, inlined

__all__ = [
    "FEW_POSITIONS",
    "FILTERS",
    "IMAGES",
    "convolve_task",
    "convolve_tasks",
    "gradients_of_tasks",
    "task_gradients",
]

IMAGES, FILTERS = 1, 2  # which gradients are wanted
FEW_POSITIONS = 36  # for which filters are not worth Winograd's transform: a query on the last block


@compiled
def convolve_tasks(images: Array5, filters: Array3, stride: int, out: Array5) -> None:
    """`convolve_task` of each."""
    for task in range(len(images)):
        convolve_task(images[task], filters[task], stride, out[task])


@compiled
def gradients_of_tasks(
    images: Array5, filters: Array3, grad: Array5, stride: int, of_images: Array5, of_filters: Array3, wanted: int
) -> None:
    """`task_gradients` of each."""
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
