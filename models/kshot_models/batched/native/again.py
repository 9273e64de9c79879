"""Back through going back, for second derivatives: what `run_back` computed, differentiated, in one call.

forward and back    see blocks.py, with its names
once more           with u_l for dw_l given, and the like for gain and bias, and v_{l-1} for g_{l-1}, v_0 = 0:
        of s_l: u_l * x_{l-1} + w_l * v_{l-1}       of x_{l-1}: I(s_l, u_l)         for l = 1 ... L
        of w_l: W(v_{l-1}, s_l)                     of z_l and g_l = v_l: out_l''
        then, with what came to z_l and x_l, back again                             for l = L ... 1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kshot_models.batched.native.blocks import Passed, Run
from kshot_models.batched.native.tensors import address_of
from kshot_models.native import columns
from kshot_models.native.blocks import plan_of, point_to_gradients, run_back
from kshot_models.native.convolution import FILTERS, IMAGES, convolve_task, task_gradients
from kshot_models.native.jit import Table, carray, compiled
from kshot_models.native.normalization import constants, gradient_values, second_gradient
from kshot_models.native.rows import add, below_of, channels_of, convolved, out_at, raw_of
from kshot_models.native.vectors import at

__all__ = ["back_again"]

_BYTES = 4


def back_again(
    run: Run, passed: Passed, changes: Tensor, through_head: Callable[[Tensor], Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Go back through `back` where it had a gradient of the output and nothing else.

    Args:
        run: the blocks.
        passed: what went back through them; all of it kept.
        changes: the gradients at the gradients of filters (outside, 3, 3, inside), gain, bias, filters, ..., all in a
            row.
        through_head: the gradient at the gradient of the output -> what comes to the output besides, if anything does.

    Returns:
        the gradient at the gradient of the output, and those of filters, gain, bias, filters, ..., all in a row.
    """
    plan, sizes = plan_of(run.sizes), run.sizes
    own, above = torch.zeros(plan.gradients_size), passed.above[-1]
    assert above is not None  # there was a gradient
    table = run.table.copy()
    table[:, columns.SUMS] = [address_of(each) for each in passed.found[1::3] if each is not None]
    table[1:, columns.BELOW] = [address_of(each) for each in passed.above[:-1] if each is not None]
    if passed.sent is not None:
        table[:, columns.SENT] = [address_of(each) for each in passed.sent]
    parts = plan.gradient_places
    table[:, columns.CHANGE : columns.CHANGE_SUMS + 1] = address_of(changes) + _BYTES * parts
    table[:, columns.AGAIN : columns.AGAIN_GAIN + 1] = own.data_ptr() + _BYTES * parts
    raws = [torch.empty(shape) for shape in plan.raw]
    outs = [torch.empty(shape) for shape in plan.out]
    passing = [torch.empty(shape) for shape in plan.out[:-1]]
    table[:, columns.MORE_RAW] = [each.data_ptr() for each in raws]
    table[:, columns.CHANGE_ABOVE] = [each.data_ptr() for each in outs]
    table[:-1, columns.MORE_OUT] = [each.data_ptr() for each in passing]
    images, share, n, epsilon = (
        address_of(run.images),
        address_of(run.share),
        len(run.images[0]),
        np.float32(run.epsilon),
    )
    run_again(table, images, share, address_of(above), n, sizes.stride, sizes.pool, epsilon)
    grad = through_head(outs[-1])
    found = torch.zeros(plan.gradients_size)
    point_to_gradients(table, found.data_ptr(), sizes)
    table[:, [columns.BELOW, columns.SENT]] = 0
    given = images, share, 0 if grad is None else address_of(grad)
    run_back(table, *given, n, sizes.stride, sizes.pool, epsilon)
    return outs[-1], found.add_(own)


@compiled
def run_again(
    table: Table, images: int, share: int, above: int, n: int, stride: int, pool: bool, epsilon: np.float32
) -> None:
    """See `back_again`; up to what comes to the output."""
    shares = carray(at(share), (1, n))
    v = np.empty((1, 0, 0, 0, 0), np.float32)
    for number in range(len(table)):
        row = table[number]
        outside, wide = row[columns.OUTSIDE], 9 * row[columns.INSIDE]
        below, raw = below_of(table, number, images, n), raw_of(row, n, stride)
        if row[columns.RAW] == 0:
            convolved(below, row, stride, raw)
        found, sums = carray(at(row[columns.FOUND]), (4, 1, outside)), carray(at(row[columns.SUMS]), (2, 1, outside))
        by = constants(
            channels_of(row[columns.GAIN], row), channels_of(row[columns.BIAS], row), found[0], found[1], epsilon
        )
        grad = out_at(above if number == len(table) - 1 else table[number + 1, columns.BELOW], row, n, stride, pool)
        change, of_sent = carray(at(row[columns.CHANGE]), (outside, wide)), np.empty(raw.shape, np.float32)
        convolve_task(below[0], change, stride, of_sent[0])
        if number > 0:
            filters = carray(at(row[columns.FILTERS]), (outside, wide))
            more = np.empty(raw.shape, np.float32)
            convolve_task(v[0], filters, stride, more[0])
            add(more, of_sent)
            sent = more  # which is not needed any more
            if row[columns.SENT] == 0:
                gradient_values(raw, by, shares, grad, pool, sums, sent)
            else:
                sent = carray(at(row[columns.SENT]), raw.shape)
            of_below = carray(at(table[number - 1, columns.MORE_OUT]), below.shape)
            again = carray(at(row[columns.AGAIN]), (outside, wide))
            task_gradients(v[0], change, sent[0], stride, of_below[0], again, IMAGES | FILTERS)
        of_changes = carray(at(row[columns.CHANGE_SUMS]), (2, 1, outside))
        of_raw = carray(at(row[columns.MORE_RAW]), raw.shape)
        v = out_at(row[columns.CHANGE_ABOVE], row, n, stride, pool)
        of_gain = channels_of(row[columns.AGAIN_GAIN], row)
        second_gradient(raw, by, shares, grad, sums, of_sent, of_changes[0], of_changes[1], pool, of_raw, of_gain, v)
