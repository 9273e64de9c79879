"""The work item that all sides of a comparison do: its sizes, and its operations and bytes counted by formula.

The reference is DESIGN's: Conv4-64 with max-pooling on 28x28x1 images, 5-way 1-shot, 5 inner steps, 15 queries.

A pass multiplies each layer once, as a matrix product: 2 * positions * fan_in * outputs operations an image.

    pass over a layer             first layer   others     what
    inner step                    2             3          forward, weight gradient, input gradient (not of images)
    moments                       1             1          forward of the support set at the final weights, no head
    prediction                    1             1          forward of the queries
    inner step, second order      4             9          + the same again, backwards through each of these products
    query loss of meta-training   2             3          as an inner step

Normalization, pooling and the softmax are left out: they cost memory traffic, not multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

__all__ = ["Cost", "Layer", "Work", "adaptation_cost", "encoding_cost", "layers", "meta_gradient_cost", "query_cost"]

_FLOAT_BYTES = 4


class Work(BaseModel):
    """The sizes of one task, of its network and of its inner loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: PositiveInt = 5
    shot: PositiveInt = 1
    steps: PositiveInt = 5
    queries: PositiveInt = 15  # images of all classes together
    size: PositiveInt = 28  # height and width
    input_channels: Literal[1, 3] = 1
    channels: tuple[PositiveInt, ...] = (64, 64, 64, 64)
    rate: float = Field(default=0.1, gt=0)

    @property
    def support(self) -> int:
        """Images to adapt to."""
        return self.way * self.shot


class Cost(NamedTuple):
    """What one task takes: multiplications and additions, and bytes moved if each operand crosses memory once."""

    flops: float
    bytes: float

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


class Layer(NamedTuple):
    """A convolution or a linear layer as a matrix product over an image: (positions, fan_in) @ (fan_in, outputs)."""

    positions: int
    fan_in: int
    outputs: int
    inputs: int  # values that it reads of an image: fewer than positions * fan_in where windows overlap

    @property
    def flops(self) -> float:
        """Of one image."""
        return 2.0 * self.positions * self.fan_in * self.outputs

    def bytes(self, images: int) -> float:
        """Of one pass: inputs, outputs and weights once each."""
        return _FLOAT_BYTES * (images * (self.inputs + self.positions * self.outputs) + self.fan_in * self.outputs)


def layers(work: Work) -> list[Layer]:
    """The layers of Conv4, the head last.

    Raises:
        ValueError: the image is too small for so many blocks.
    """
    found = []
    size, inside = work.size, int(work.input_channels)
    for outside in work.channels:
        found.append(Layer(size * size, 9 * inside, outside, size * size * inside))
        size, inside = size // 2, outside
    if size < 1:
        raise ValueError(f"{len(work.channels)} blocks leave nothing of {work.size} pixels; take a larger --size")
    features = size * size * inside
    return [*found, Layer(1, features, work.way, features)]


def adaptation_cost(work: Work) -> Cost:
    """Of `steps` inner steps and the moments of the support set at the final weights."""
    every = layers(work)
    steps = _passes(every, work.support, first=2, others=3)
    return Cost(steps.flops * work.steps, steps.bytes * work.steps) + encoding_cost(work, work.support)


def query_cost(work: Work, queries: int | None = None) -> Cost:
    """Of classifying queries with weights that are there; as many as the work says if not told."""
    return _passes(layers(work), work.queries if queries is None else queries, first=1, others=1)


def encoding_cost(work: Work, images: int) -> Cost:
    """Of embedding images: all layers but the head."""
    return _passes(layers(work)[:-1], images, first=1, others=1)


def meta_gradient_cost(work: Work) -> Cost:
    """Of the second-order gradient of the query loss through all inner steps; queries give their own moments."""
    every = layers(work)
    steps = _passes(every, work.support, first=4, others=9)
    return Cost(steps.flops * work.steps, steps.bytes * work.steps) + _passes(every, work.queries, first=2, others=3)


def _passes(every: Sequence[Layer], images: int, *, first: int, others: int) -> Cost:
    times = [first, *(others for _ in every[1:])]
    return Cost(
        sum(n * images * layer.flops for n, layer in zip(times, every, strict=True)),
        sum(n * layer.bytes(images) for n, layer in zip(times, every, strict=True)),
    )
