"""The work item that all sides of a comparison do: its sizes, and its operations and bytes counted by formula.

The reference is DESIGN's: Conv4-64 with max-pooling on 28x28x1 images, 5-way 1-shot, 5 inner steps, 15 queries.

A pass multiplies each layer once, as a matrix product: 2 * positions * fan_in * outputs operations an image.

    pass over a layer             first layer   others     what
    inner step                    2             3          forward, weight gradient, input gradient (not of images)
    moments                       1             1          forward of the support set at the final weights, no head
    prediction                    1             1          forward of the queries
    inner step, second order      4             9          + the same again, backwards through each of these products
    query loss of meta-training   2             3          as an inner step

"First" are the layers that read images: of ResNet-12 two, its first convolution and the shortcut beside it.
Normalization, pooling and the softmax are left out: they cost memory traffic, not multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

__all__ = [
    "CHANNELS",
    "Cost",
    "Layer",
    "NetworkName",
    "Work",
    "adaptation_cost",
    "encoding_cost",
    "layers",
    "meta_gradient_cost",
    "query_cost",
]

NetworkName: TypeAlias = Literal["conv4", "resnet12"]

CHANNELS: Mapping[NetworkName, tuple[int, ...]] = {  # the widths of each network's papers
    "conv4": (64, 64, 64, 64),
    "resnet12": (64, 160, 320, 640),
}
# Speed does not depend on it. At 0.1, five steps of an untrained ResNet-12 amplify rounding: the same program in single
# and in double precision gives probabilities that differ by a hundredth on small images already, at 0.01 by 4e-5.
_RATES: Mapping[NetworkName, float] = {"conv4": 0.1, "resnet12": 0.01}
_FLOAT_BYTES = 4


def _usual_channels(given: dict[str, Any]) -> tuple[int, ...]:
    return CHANNELS[given["network"]]


def _usual_rate(given: dict[str, Any]) -> float:
    return _RATES[given["network"]]


class Work(BaseModel):
    """The sizes of one task, of its network and of its inner loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: PositiveInt = 5
    shot: PositiveInt = 1
    steps: PositiveInt = 5
    queries: PositiveInt = 15  # images of all classes together
    size: PositiveInt = 28  # height and width
    input_channels: Literal[1, 3] = 1
    network: NetworkName = "conv4"
    channels: tuple[PositiveInt, ...] = Field(default_factory=_usual_channels)
    rate: float = Field(default_factory=_usual_rate, gt=0)

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
    reads_images: bool = False  # whose gradient nobody needs

    @property
    def flops(self) -> float:
        """Of one image."""
        return 2.0 * self.positions * self.fan_in * self.outputs

    def bytes(self, images: int) -> float:
        """Of one pass: inputs, outputs and weights once each."""
        return _FLOAT_BYTES * (images * (self.inputs + self.positions * self.outputs) + self.fan_in * self.outputs)


def layers(work: Work) -> list[Layer]:
    """The layers of the network, the head last.

    Raises:
        ValueError: the image is too small for so many blocks.
    """
    size = work.size >> len(work.channels)  # each block halves it
    if size < 1:
        raise ValueError(f"{len(work.channels)} blocks leave nothing of {work.size} pixels; take a larger --size")
    # ResNet-12 ends in the mean over positions.
    features = work.channels[-1] * (size * size if work.network == "conv4" else 1)
    return [*_convolutions(work), Layer(1, features, work.way, features)]


def _convolutions(work: Work) -> Iterator[Layer]:
    for block, (inside, outside) in enumerate(pairwise((int(work.input_channels), *work.channels))):
        positions, first = (work.size >> block) ** 2, block == 0
        yield Layer(positions, 9 * inside, outside, positions * inside, first)
        if work.network == "resnet12":
            yield from [Layer(positions, 9 * outside, outside, positions * outside)] * 2
            yield Layer(positions, inside, outside, positions * inside, first)  # the shortcut


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
    times = [first if layer.reads_images else others for layer in every]
    return Cost(
        sum(n * images * layer.flops for n, layer in zip(times, every, strict=True)),
        sum(n * layer.bytes(images) for n, layer in zip(times, every, strict=True)),
    )
