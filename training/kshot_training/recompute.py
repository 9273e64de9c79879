"""Gradients through long unrolls at O(sqrt n) memory: keep what stands between segments, compute the inside again.

    n steps, s a segment:    n / s boundaries are kept, and the graph of one segment at a time: least at s = sqrt(n)

The result is the plain gradient bit for bit: it is not only the same sum, it is added up in the same order. What all
steps share (the rule's weights) therefore goes through a segment and out again: on the way back its gradient so far
enters there, and each step adds to it as it would have done in one graph.

torch.utils.checkpoint is not used: it rests on saved-tensor hooks, under which `torch.func.grad`, by which learners
take their inner gradients, refuses to run.

Reference: Chen et al., 2016, arXiv 1604.06174.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Segment", "recomputed", "segment_lengths"]

Segment: TypeAlias = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]


def recomputed(
    segment: Segment, shared: Sequence[Tensor], carried: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run `segment` and keep nothing of it; the way back runs it again.

    Args:
        segment: (shared, carried) -> carried after these steps. It must be a pure function of its arguments as far as
            gradients go, and may capture only what needs none.
        shared: what all segments read.
        carried: what one segment hands to the next.

    Returns:
        shared, for the next segment, and carried.
    """
    out: tuple[Tensor, ...] = _Recomputed.apply(segment, len(shared), *shared, *carried)  # type: ignore[no-untyped-call]  # as torch declares it
    return out[: len(shared)], out[len(shared) :]


def segment_lengths(steps: int, length: int | None) -> list[int]:
    """`steps` cut into segments of `length`, the last one perhaps shorter; None takes ceil(sqrt(steps))."""
    size = max(1, math.ceil(math.sqrt(steps))) if length is None else length
    return [min(size, steps - begin) for begin in range(0, steps, size)]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, segment: Segment, shared: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.segment, ctx.shared = segment, shared
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return (*tensors[:shared], *segment(tensors[:shared], tensors[shared:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        leaves = [t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            carried = ctx.segment(tuple(leaves[: ctx.shared]), tuple(leaves[ctx.shared :]))
            # Made last, so that autograd takes it first: the gradient of later segments comes before this one's.
            shared = [leaf.view_as(leaf) for leaf in leaves[: ctx.shared]]
        pairs = zip([*shared, *carried], cotangents, strict=True)
        alive = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
        grads = iter(
            torch.autograd.grad(
                [out for out, _ in alive],
                [leaf for leaf in leaves if leaf.requires_grad],
                [grad for _, grad in alive],
                allow_unused=True,
            )
        )
        return (None, None, *(next(grads) if w else None for w in wanted))
