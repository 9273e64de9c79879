"""All inner steps of a gradient descent at once: blocks, a linear head under cross-entropy, and their new weights.

    (w, W) <- (w, W) - rates o d loss(head_W(blocks_w(images)), targets)

What `blocks.py` and `head.py` compute step by step: four calls for each, and little between them, as Python finds the
caches full of the kernels' numbers; or, where threads are idle that would help, what `team.py` does with them. A last
pass gives the moments under the new weights, which queries are normalized by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

import numpy as np

from kshot_models.native import team
from kshot_models.native.blocks import (
    Plan,
    Sizes,
    moments_in,
    plan_of,
    point_to_gradients,
    point_to_values,
    run_back,
    run_forward,
)
from kshot_models.native.calls import call
from kshot_models.native.head import head_gradients
from kshot_models.native.jit import (
    Array,
    Array1,
    Array2,
    Array5,
    Indices,
    Memory,
    Table,
    address_of,
    carray,
    compiled,
    entry,
    memory_for,
)
from kshot_models.native.readout import read_out, send_back
from kshot_models.native.update import change_weights
from kshot_models.native.vectors import at
from kshot_models.sharing import shared_out

__all__ = ["Classes", "Descended", "Descent", "Start", "factors_of", "head_step", "rates_by_step", "update"]

_BYTES = 4
_LINE = 16  # numbers of a line of a cache
_TEAMS = 4, 2  # how many threads may share a descent, the largest number first


class Descended(NamedTuple):
    """Where the steps led."""

    params: list[Array]  # views of the memory that the descent was given, or has made
    moments: list[Array1]  # mean and variance (outside,) of each block at the end, one after the other; or none


class Classes(NamedTuple):
    """What is to be learned."""

    targets: Indices  # (n,) class indices
    share: Array1  # (n,) of each example in the loss
    present: Array1  # (way,) 0 for classes that have no probability


class Start(NamedTuple):
    """What the descents of one model have in common: where their blocks begin, and all rates."""

    blocks: list[Array]  # filters (outside, 3, 3, inside), gain and bias (outside,) of each block, one after the other
    addresses: list[int]
    by_step: Array2  # (parameters, steps): the rates of the blocks' parameters and of the head's
    by_weight: Sequence[Array | None]  # their factors, shaped like each, or so that they become so; None for 1

    @classmethod
    def of(cls, blocks: Sequence[Array], by_step: Sequence[Array1 | None], by_weight: Sequence[Array | None]) -> Start:
        """Of such parameters; the rates of one that stays as it is are None."""
        there = [np.ascontiguousarray(each) for each in blocks]
        return cls(there, [address_of(each) for each in there], rates_by_step(by_step), by_weight)


class Descent:
    """Steps to be taken: all is ready, `run` takes them, once, and then there is a `result`.

    Who takes many descents begins them all, runs them all and then looks at results: a processor that has computed one
    has forgotten how all the rest goes.

    Args:
        images: (1, n, height, width, channels).
        share: (1, n), of each example in the moments.
        start: of the blocks, and the rates.
        head: weight (way, features), features in the order channels, height, width; and bias (way,).
        classes: the targets.
        sizes: of the blocks, which keep all.
        epsilon: added to variances.
        mean: the head has the mean over positions in place of all positions.
        moments: whether those after the last step are wanted.
        into: memory for the parameters at the end, as many numbers as they are.
        memory: where the steps are computed.
    """

    def __init__(
        self,
        images: Array5,
        share: Array2,
        start: Start,
        head: tuple[Array2, Array1],
        classes: Classes,
        sizes: Sizes,
        epsilon: float,
        *,
        mean: bool,
        moments: bool = False,
        into: Array1 | None = None,
        memory: Memory = memory_for,
    ) -> None:
        self._seen = np.ascontiguousarray(images), np.ascontiguousarray(share)
        of_head = [np.ascontiguousarray(each) for each in head]
        self._began = [*start.blocks, *of_head]
        self._classes = classes
        self._addresses = np.array([*start.addresses, *map(address_of, of_head)])
        self._by_step, self._by_weight = start.by_step, factors_of(start.by_weight, self._began)
        self._sizes, self._epsilon, self._mean, self._wants_moments = sizes, np.float32(epsilon), mean, moments
        self._moments: list[Array1] = []
        self._memory = memory
        self._weights = memory_for(sum(each.size for each in self._began)) if into is None else into

    def run(self) -> None:
        """Take the steps."""
        shape = self._began[-2].shape
        layout, sizes = _layout(self._sizes, shape[0], shape[1]), self._sizes
        weights, numbers = self._weights, self._memory(layout.size)
        of_all = address_of(numbers)
        _gather(self._addresses, layout.ends, weights)
        table = layout.plan.table.copy()
        point_to_values(table, address_of(weights) + _BYTES * layout.begins[:-2], of_all, sizes)
        point_to_gradients(table, of_all + _BYTES * layout.parts[0].start, sizes)
        gradients, features, of_out = (numbers[part] for part in layout.parts)
        targets, of_classes = self._classes.targets, (self._classes.share, self._classes.present)
        seen = features.reshape(len(targets), -1)
        *_, start, middle = layout.begins.tolist()
        head = seen, weights[start:middle].reshape(shape), weights[middle:], targets
        of_head, change = (
            (gradients[start:middle].reshape(shape), gradients[middle:]),
            (weights, gradients, layout.ends),
        )
        (images, share), pool, added, mean = self._seen, sizes.pool, self._epsilon, self._mean
        steps = self._by_step, self._by_weight, self._wants_moments

        def of_a_team(members: int) -> Callable[[int], None]:
            shared = team.Shared.of(sizes, members, seen.shape)
            of_team = images, share, pool, added, *head, *of_classes, shared.of_features
            return shared.part(table, *of_team, *of_head, mean, *change, *steps)

        for members in _TEAMS:
            if team.suits(sizes, members) and shared_out(partial(of_a_team, members), members):
                break
        else:
            members = 1
            last, first = layout.plan.out[-1], int(layout.plan.places[-1, 1])
            out = numbers[first : first + prod(last)].reshape(last)
            blocks = address_of(images), address_of(share), images.shape[1], sizes.stride, pool, added, out
            given = *blocks, *head, *of_classes, *of_head, mean, of_out.reshape(last)
            _take_steps(_entries(), table, *given, *change, *steps)
        if self._wants_moments:
            self._moments = moments_in(numbers, sizes, members)

    def result(self) -> Descended:
        """Where the steps have led."""
        parts, first = list[Array](), 0
        for each in self._began:
            parts.append(self._weights[first : first + each.size].reshape(each.shape))
            first += each.size
        return Descended(parts, self._moments)


class _Layout(NamedTuple):
    """Where everything lies in the memory of a descent, in numbers from its start."""

    plan: Plan
    begins: Indices  # (parameters,) where each one begins among all of them
    ends: Indices
    parts: list[slice]  # of what comes behind the values of the blocks: gradients, features, the output's gradient
    size: int


@lru_cache(maxsize=256)
def _layout(sizes: Sizes, way: int, features: int) -> _Layout:
    plan = plan_of(sizes)
    ends = np.cumsum([*plan.gradients, way * features, way])
    start, parts = plan.size, list[slice]()
    for count in (int(ends[-1]), sizes.images[0] * features, prod(plan.out[-1])):
        start += -start % _LINE
        parts.append(slice(start, start + count))
        start += count
    return _Layout(plan, np.array([0, *ends[:-1]]), ends, parts, start)


def rates_by_step(rates: Sequence[Array1 | None]) -> Array2:
    """(parameters, steps), 0 of those that stay as they are."""
    nothing = np.zeros_like(next((each for each in rates if each is not None), np.empty(0, np.float32)))
    return np.stack([nothing if each is None else each for each in rates])


def factors_of(factors: Sequence[Array | None], params: Sequence[Array]) -> Array1:
    """The factors of all weights of these parameters, in a row; empty if there are none."""
    if all(each is None for each in factors):
        return np.empty(0, np.float32)
    parts = [
        np.ones(like.size, np.float32) if each is None else np.broadcast_to(each, like.shape).reshape(-1)
        for each, like in zip(factors, params, strict=True)
    ]
    return np.concatenate(parts)


@compiled
def _gather(places: Indices, ends: Indices, into: Array1) -> None:
    """Copy what lies at these addresses, one after the other."""
    first = 0
    for number in range(len(places)):
        count = ends[number] - first
        into[first : first + count] = carray(at(places[number]), (count,))
        first = ends[number]


@lru_cache(maxsize=1)
def _entries() -> Indices:
    return np.array([entry(kernel) for kernel in (run_forward, head_step, run_back, update)])


@compiled
def _take_steps(
    entries: Indices,
    table: Table,
    images: int,
    share: int,
    n: int,
    stride: int,
    pool: bool,
    epsilon: np.float32,
    last: Array5,
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    in_loss: Array1,
    present: Array1,
    of_weight: Array2,
    of_bias: Array1,
    mean: bool,
    grad: Array5,
    weights: Array1,
    gradients: Array1,
    ends: Indices,
    by_step: Array2,
    by_weight: Array1,
    moments: bool,
) -> None:
    forward, head, back, change = entries
    of_blocks = (by_step[: 3 * len(table)] != 0).any()
    by_moments = n < 0  # never: a kernel takes a variable, not a constant
    steps = by_step.shape[1]
    for step in range(steps + moments):  # a last pass for the moments alone
        call(forward, (table, images, share, n, stride, pool, epsilon, by_moments))
        if step == steps:
            break
        of_head = of_weight, of_bias, mean, grad
        call(head, (last, features, weight, bias, targets, in_loss, present, *of_head))
        if of_blocks:
            call(back, (table, images, share, grad.ctypes.data, n, stride, pool, epsilon))
        call(change, (weights, gradients, ends, by_step, by_weight, step))


@compiled
def head_step(
    out: Array5,
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    of_weight: Array2,
    of_bias: Array1,
    mean: bool,
    of_out: Array5,
) -> None:
    """The features of a last block's output, the head's gradients, and the output's."""
    of_features = np.empty(features.shape, np.float32)
    read_out(out, mean, features)
    head_gradients(features, weight, bias, targets, share, present, of_features, of_weight, of_bias)
    send_back(of_features, mean, of_out)


@compiled
def update(weights: Array1, gradients: Array1, ends: Indices, by_step: Array2, by_weight: Array1, step: int) -> None:
    """The step of that number; see `change_weights`."""
    change_weights(weights, gradients, ends, by_step[:, step], by_weight, (0, 1, 0))
