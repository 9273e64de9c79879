"""Inner steps of gradient descent on Conv4 and a linear head on a CPU: one operation for all of them.

Where nobody differentiates them they are those of native/descent.py; else they have a derivative of the first
order, by the weights that they begin from and by the rates (batched/native/unrolled.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_models.batched.native.tensors import array, torchs_memory
from kshot_models.batched.native.unrolled import descend_and_keep, go_back, split_like
from kshot_models.inner.transformation import Rates
from kshot_models.native.blocks import Keep, Sizes
from kshot_models.native.descent import Classes, Descent, Start
from kshot_models.native.jit import Array, memory_for
from kshot_models.networks.block import BlockShape
from kshot_models.networks.cpu_blocks import laid_out
from kshot_models.norm import NormPass
from kshot_models.serving import alone
from kshot_models.types import Examples, Params

__all__ = ["cpu_descend"]


def cpu_descend(  # noqa: PLR0913 - what a Descent takes, and what Conv4 knows
    params: Params,
    head: Params,
    support: Examples,
    present: Tensor,
    rates: Callable[[str], Rates | None],
    norms: NormPass,
    count: int,
    shape: BlockShape,
    *,
    mean: bool,
    moments: bool,
    first_order: bool,
) -> tuple[Params, Params]:
    """Take the steps; see network.Descend."""
    names, layers = _names(count)
    given = [rates(name) for name in names]
    for number in range(0, 3 * count, 3):  # laid out as the filters are
        rate = given[number]
        if rate is not None and rate.by_weight is not None:
            given[number] = rate._replace(by_weight=rate.by_weight.permute(0, 2, 3, 1))
    images, share, flat, sizes = laid_out(params, support.inputs, norms, count, shape)
    weights = [*flat, head["weight"], head["bias"]]
    by_step = [None if rate is None else rate.by_step for rate in given]
    by_weight = [None if rate is None else rate.by_weight for rate in given]
    # As the examples count in moments, so they do in the loss.
    classes = Classes(support.targets.contiguous().numpy(), array(share[0]), array(present))
    if _is_differentiated(weights, given):
        setting = _Setting(images, share, classes, shape.epsilon, mean, moments, first_order)
        factors = [
            None if each is None else each.expand(like.shape) for each, like in zip(by_weight, weights, strict=True)
        ]
        ends = _Descent.apply(setting, sizes, *weights, *by_step, *factors)  # type: ignore[no-untyped-call]
        found, used = ends[: len(weights)], ends[len(weights) :]
    else:
        into = torch.empty(sum(each.numel() for each in weights))
        descent = Descent(
            array(images),
            array(share),
            Start.of([array(each) for each in flat], _arrays(by_step), _arrays(by_weight)),
            (array(head["weight"]), array(head["bias"])),
            classes,
            sizes._replace(keep=Keep.ALL),
            shape.epsilon,
            mean=mean,
            moments=moments,
            into=array(into),
            # numpy asks the system for large pages, torch has its profiler count what training takes.
            memory=memory_for if alone() else torchs_memory,
        )
        descent.run()
        found, used = split_like(into, weights), [torch.from_numpy(each) for each in descent.result().moments]
    changed: Params = {}
    for name, each, rate in zip(names, found, given, strict=True):
        if rate is not None:
            changed[name] = each.permute(0, 3, 1, 2) if name in names[: 3 * count : 3] else each
    return changed, dict(zip(layers, used, strict=True)) if moments else {}


@lru_cache(maxsize=16)
def _names(count: int) -> tuple[list[str], list[str]]:
    """Of the weights, and of the moments."""
    kinds = "conv{}.weight", "norm{}.gain", "norm{}.bias"
    weights = [f"body.{kind.format(block)}" for block in range(1, count + 1) for kind in kinds]
    moments = [f"norm{block}.{kind}" for block in range(1, count + 1) for kind in ("mean", "variance")]
    return [*weights, "head.weight", "head.bias"], moments


def _arrays(tensors: Sequence[Tensor | None]) -> list[Array | None]:
    return [None if each is None else array(each) for each in tensors]


def _is_differentiated(weights: Sequence[Tensor], rates: Sequence[Rates | None]) -> bool:
    if not torch.is_grad_enabled():
        return False
    learned = (each for rate in rates if rate is not None for each in rate)
    return any(each is not None and each.requires_grad for each in chain(weights, learned))


class _Setting(NamedTuple):
    """What a descent has no derivatives by."""

    images: Tensor
    share: Tensor
    classes: Classes
    epsilon: float
    mean: bool
    moments: bool
    first_order: bool


class _Descent(torch.autograd.Function):
    """(setting, sizes, parameters, rates by step, rates by weight) -> parameters, mean, variance, mean, ..."""

    @staticmethod
    def forward(ctx: Any, setting: _Setting, sizes: Sizes, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        count = len(tensors) // 3
        params = [each for each in tensors[:count] if each is not None]  # which all are
        ctx.steps = [None if each is None else len(each) for each in tensors[count : 2 * count]]
        ctx.shapes = [each.shape for each in params]
        found, ctx.trail = descend_and_keep(
            setting.images,
            setting.share,
            params,
            tensors[count : 2 * count],
            tensors[2 * count :],
            setting.classes,
            sizes,
            setting.epsilon,
            mean=setting.mean,
            moments=setting.moments,
            first_order=setting.first_order,
        )
        ctx.set_materialize_grads(False)
        return (*found.params, *found.moments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # autograd's own check may not be reached on the way to what is asked for
            raise RuntimeError(
                "within plain_autograd() all inner steps are one operation, which is differentiated once, and "
                "create_graph=True asks for more: leave plain_autograd() out"
            )
        count = len(ctx.shapes)
        rates = any(ctx.needs_input_grad[2 + count :])
        found = go_back(ctx.trail, grads[:count], grads[count:], rates=rates)
        of_params = [each.view(shape) for each, shape in zip(found.params, ctx.shapes, strict=True)]
        of_steps = [None if steps is None else each for each, steps in zip(found.by_step, ctx.steps, strict=True)]
        factors: list[Tensor | None] = [None] * count
        if found.by_weight:
            factors = [each.view(shape) for each, shape in zip(found.by_weight, ctx.shapes, strict=True)]
        wanted = ctx.needs_input_grad[2 + 2 * count :]
        factors = [each if needed else None for each, needed in zip(factors, wanted, strict=True)]
        return None, None, *of_params, *of_steps, *factors
