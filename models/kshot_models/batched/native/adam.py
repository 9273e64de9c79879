"""Adam's step for many tensors on a CPU: one pass through memory, as each tensor lies there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.tensors import address_of
from kshot_models.native.jit import Array1, Table, carray, compiled
from kshot_models.native.vectors import at

__all__ = ["adam_step"]


def adam_step(
    grads: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    steps: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The updates -rate m_hat / (sqrt(v_hat) + epsilon), and the new moments; nothing is written over.

    Args:
        grads: of any shapes.
        first: m, the running means of gradients, shaped like `grads`.
        second: v, those of squares.
        rate: step size.
        betas: decays of m and v.
        epsilon: keeps the denominator away from 0.
        steps: that the moments have seen, this one included.
    """
    grads = [grad if _is_dense(grad) else grad.contiguous() for grad in grads]
    befores = [[_lying_like(grad, m), _lying_like(grad, v)] for grad, m, v in zip(grads, first, second, strict=True)]
    afters = [[torch.empty_like(grad) for _ in range(3)] for grad in grads]
    rows = zip(grads, befores, afters, strict=True)
    table = [[grad.numel(), *map(address_of, [grad, *before, *after])] for grad, before, after in rows]
    beta1, beta2 = betas
    numbers = beta1, 1 - beta1, beta2, 1 - beta2, -rate / (1 - beta1**steps), 1 / (1 - beta2**steps), epsilon
    _step(np.array(table, np.int64), np.array(numbers, np.float32))
    updates, new_first, new_second = zip(*afters, strict=True)
    return list(updates), list(new_first), list(new_second)


def _is_dense(tensor: Tensor) -> bool:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last or tensor.is_contiguous()


def _lying_like(like: Tensor, tensor: Tensor) -> Tensor:
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


@compiled
def _step(table: Table, numbers: Array1) -> None:
    """The rows of the table: how many numbers, and the addresses of grads, m, v, updates, new m and new v."""
    beta1, rest1, beta2, rest2, rate, unbias, epsilon = numbers
    for row in table:
        size = (row[0],)
        grads, first, second = carray(at(row[1]), size), carray(at(row[2]), size), carray(at(row[3]), size)
        updates, new_first, new_second = carray(at(row[4]), size), carray(at(row[5]), size), carray(at(row[6]), size)
        for i in range(row[0]):
            m = beta1 * first[i] + rest1 * grads[i]
            v = beta2 * second[i] + rest2 * grads[i] * grads[i]
            new_first[i] = m
            new_second[i] = v
            updates[i] = rate * m / (np.sqrt(v * unbias) + epsilon)
