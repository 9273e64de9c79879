"""Conv4's blocks on a CPU once more: back through going back, for second derivatives.

forward and back    see batched/native/blocks.py, with its names
once more           with u_l for dw_l given and v_{l-1} for g_{l-1}, v_0 = 0:
            of s_l: u_l * x_{l-1} + w_l * v_{l-1}      of x_{l-1}: I(s_l, u_l)      for l = 1 ... L
            of w_l: W(v_{l-1}, s_l)                    of z_l and g_l: out_l''
            then, with what came to z_l and x_l, back again                         for l = L ... 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_models.batched import Features, Pooling, native
from kshot_models.batched.native.blocks import Extra, Passed, Run, back

__all__ = ["back_again"]


def back_again(run: Run, passed: Passed, changes: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
    """Go back through `back` where it had a gradient of the output and nothing else.

    Args:
        run: the blocks.
        passed: what went back through them; all of it kept.
        changes: the gradients at the gradients of filters, gain, bias, filters, ..., shaped as the parameters.

    Returns:
        the gradient of `grad`, and those of filters, gain, bias, filters, ...; of the images there is none.
    """
    stride, pooling, moments = run.sizes.stride, Pooling(run.sizes.pool, run.epsilon), run.moments()
    extras: list[Extra] = []
    more: list[Tensor | None] = []
    v: Tensor | None = None
    for number in range(len(run)):
        filters, (gain, bias) = run.filters(number), _rows(*run.params[3 * number + 1 : 3 * number + 3])
        u, at_gain, at_bias = changes[3 * number : 3 * number + 3]
        u = None if u is None else u.flatten(1)[None]
        above, sums = passed.above[number], _rows(*passed.found[3 * number + 1 : 3 * number + 3])
        assert above is not None  # there was a gradient
        features = Features(run.raw(number), gain, bias, run.share)
        by = moments[2 * number][None], moments[2 * number + 1][None]
        sent = (
            native.normalize_gradient(features, by, above, pooling)[0] if passed.sent is None else passed.sent[number]
        )
        change = torch.zeros_like(sent) if u is None else native.convolve(run.below(number), u, stride)
        of_filters = None
        if v is not None:
            change.add_(native.convolve(v, filters, stride))
            of_filters = native.weight_gradient(v, sent, stride)
            if u is not None:
                extras[-1] = extras[-1]._replace(out=native.input_gradient(sent, u, v.shape[2], v.shape[3], stride))
        none = torch.zeros_like(gain)
        others = (none if at_gain is None else at_gain[None], none if at_bias is None else at_bias[None])
        of_raw, of_gain, v = native.normalize_second_gradient(features, by, above, sums, (change, *others), pooling)
        extras.append(Extra(raw=of_raw))
        more += [of_filters, of_gain, None]
    assert v is not None  # there are blocks
    found = zip(back(run, None, extras).found, more, run.params, strict=True)
    return v, [_sum(one, other, like) for one, other, like in found]


def _rows(one: Tensor | None, other: Tensor | None) -> tuple[Tensor, Tensor]:
    assert one is not None
    assert other is not None
    return one[None], other[None]


def _sum(one: Tensor | None, other: Tensor | None, like: Tensor) -> Tensor | None:
    if one is None or other is None:
        only = other if one is None else one
        return None if only is None else only.view(like.shape)
    return one.view(like.shape) + other.view(like.shape)
