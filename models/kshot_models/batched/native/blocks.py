"""All blocks of a network on tensors, by the kernels of kshot_models/native/blocks.py.

Axes of features are one task, n, height, width, channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.tensors import address_of, addresses, array, torchs_memory
from kshot_models.native import blocks, columns
from kshot_models.native.blocks import (
    Keep,
    Sizes,
    plan_of,
    point_to_gradients,
    run_back,
    run_back_scaled,
)
from kshot_models.native.jit import Table

__all__ = ["Extra", "Passed", "Run", "back", "back_scaled", "forward", "in_a_row"]


class Run(NamedTuple):
    """Blocks that have been computed, with all that the way back needs, or with what makes it again."""

    sizes: Sizes
    epsilon: float
    images: Tensor  # (1, n, height, width, channels)
    share: Tensor  # (1, n)
    params: tuple[Tensor, ...]  # filters (outside, 3, 3, inside), gain and bias (outside,) of each block
    values: Tensor
    table: Table

    def __len__(self) -> int:
        return len(self.sizes.outside)

    def out(self, block: int) -> Tensor:
        """What it gives."""
        return torch.from_numpy(blocks.out_in(array(self.values), self.sizes, block))

    def moments(self) -> list[Tensor]:
        """Mean and variance (outside,) of each block, one after the other."""
        return [torch.from_numpy(each) for each in blocks.moments_in(array(self.values), self.sizes)]


class Extra(NamedTuple):
    """What comes to a block's tensors besides the gradient from above; raw and out are written over."""

    raw: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    out: Tensor | None = None


class Passed(NamedTuple):
    """What went back through the blocks."""

    above: list[Tensor | None]  # g_l, if they are kept
    sent: list[Tensor] | None  # s_l; None if they are made again
    images: Tensor | None
    found: list[Tensor | None]  # gradients of filters (all in a row), gain, bias, filters, ...; None of what has none


def forward(
    images: Tensor, share: Tensor, params: Sequence[Tensor], sizes: Sizes, epsilon: float, *, scale_only: bool = False
) -> Run:
    """Compute the blocks; see native.blocks.forward."""
    images, share, params = images.contiguous(), share.contiguous(), tuple(each.contiguous() for each in params)
    arrays = array(images), array(share), [array(each) for each in params]
    values, table = blocks.forward(*arrays, sizes, epsilon, scale_only=scale_only, memory=torchs_memory)
    return Run(sizes, epsilon, images, share, params, torch.from_numpy(values), table)


def back(
    run: Run,
    grad: Tensor | None,
    extras: Sequence[Extra] = (),
    *,
    images: bool = False,
    kept: bool = False,
    into: Tensor | None = None,
) -> Passed:
    """Go back through the blocks.

    Args:
        run: the blocks.
        grad: the gradient of the last block's output.
        extras: what else comes to each block, if anything does.
        images: whether the images' gradient is wanted.
        kept: whether what passes between blocks is kept.
        into: where the gradients of filters, gain, bias, filters, ... are written, one after the other; at the
            beginning, if it is longer. What nothing comes to is not written.
    """
    plan, sizes, table = plan_of(run.sizes), run.sizes, run.table.copy()
    gradients = torch.empty(plan.gradients_size) if into is None else into[: plan.gradients_size]
    point_to_gradients(table, gradients.data_ptr(), sizes)
    of_images = torch.empty(run.images.shape) if images else None
    table[0, columns.BELOW : columns.BELOW + 1] = addresses([of_images])
    above = [torch.empty(shape) for shape in plan.out[:-1]] if kept else []
    sent = [torch.empty(shape) for shape in plan.raw] if kept and sizes.keep is Keep.ALL else None
    if kept:
        table[1:, columns.BELOW] = addresses(above)
    if sent is not None:
        table[:, columns.SENT] = addresses(sent)
    grad = None if grad is None else grad.contiguous()
    extras = [Extra(*(each if each is None else each.contiguous() for each in extra)) for extra in extras]
    if extras:
        table[:, columns.MORE_RAW : columns.MORE_OUT + 1] = [addresses(extra) for extra in extras]
    given = address_of(run.images), address_of(run.share), 0 if grad is None else address_of(grad)
    run_back(table, *given, len(run.images[0]), sizes.stride, sizes.pool, np.float32(run.epsilon))
    found: list[Tensor | None] = list(torch.split_with_sizes(gradients, plan.gradients))
    there = grad is not None
    for number in reversed(range(len(extras))):  # what nothing came to has no gradient
        there = there or extras[number].out is not None
        if not there:
            found[3 * number + 1 : 3 * number + 3] = None, None
        there = there or any(each is not None for each in extras[number])
        if not there:
            found[3 * number] = None
    return Passed([*above, grad], sent, of_images if there else None, found)


def back_scaled(run: Run, grad: Tensor, *, images: bool = False) -> tuple[list[Tensor], Tensor | None]:
    """Go back through blocks that were `scale_only` and kept all.

    Args:
        run: the blocks.
        grad: the gradient of the last block's output.
        images: whether the images' gradient is wanted.

    Returns:
        the gradients of filters, factor, shift, filters, ..., shaped as the parameters, and that of the images.
    """
    plan, sizes, table = plan_of(run.sizes), run.sizes, run.table.copy()
    gradients, grad = torch.empty(plan.gradients_size), grad.contiguous()
    point_to_gradients(table, gradients.data_ptr(), sizes)
    of_images = torch.empty(run.images.shape) if images else None
    table[0, columns.BELOW : columns.BELOW + 1] = addresses([of_images])
    run_back_scaled(table, address_of(run.images), address_of(grad), len(run.images[0]), sizes.stride, sizes.pool)
    parts = zip(torch.split_with_sizes(gradients, plan.gradients), run.params, strict=True)
    return [part.view(like.shape) for part, like in parts], of_images


def in_a_row(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor:
    """The numbers of all parts, one after the other; 0 for those of a part that is None."""
    pairs = zip(parts, counts, strict=True)
    return torch.cat([torch.zeros(count) if part is None else part.reshape(-1) for part, count in pairs])
