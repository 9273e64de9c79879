"""What the machine can do at most, measured beside the work: the rate of matrix products, and of copying memory.

Rates are the best of several shapes: the products that the convolutions of the work item are, forward and for the
weight gradient, and a large square. A floor made of the best rate is below what any order of the same fp32 products
reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from kshot_bench.work import Work, layers

__all__ = ["Shape", "copy_rate", "gemm_rate", "gemm_shapes"]

_SQUARE = 1024
_LEAST_FLOPS = 2e6  # smaller products measure the call
_COPY_BYTES = 1 << 27


class Shape(NamedTuple):
    """(m, k) @ (k, n)."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.k * self.n


def gemm_shapes(work: Work) -> list[Shape]:
    """The products to measure, without repetition."""
    shapes = [Shape(_SQUARE, _SQUARE, _SQUARE)]
    for images in (work.support, work.queries):
        for layer in layers(work)[:-1]:
            rows = images * layer.positions
            shapes += [Shape(rows, layer.fan_in, layer.outputs), Shape(layer.fan_in, rows, layer.outputs)]
    return [shape for shape in dict.fromkeys(shapes) if shape.flops >= _LEAST_FLOPS]


def gemm_rate(work: Work, seconds: float, *, device: str = "cpu") -> float:
    """FLOP per second of the best shape, fp32, on the threads that torch has now.

    Args:
        work: whose shapes.
        seconds: to measure for, over all shapes.
        device: where.
    """
    shapes = gemm_shapes(work)
    return max(
        shape.flops / _seconds_a_call(_product(shape, device), seconds / len(shapes), device) for shape in shapes
    )


def copy_rate(seconds: float, *, device: str = "cpu") -> float:
    """Bytes read and written per second by copying a buffer that no cache holds."""
    source = torch.zeros(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _seconds_a_call(lambda: target.copy_(source), seconds, device)


def _product(shape: Shape, device: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(shape.m, shape.k, generator=generator).to(device)
    right = torch.rand(shape.k, shape.n, generator=generator).to(device)
    out = torch.empty(shape.m, shape.n, device=device)
    return lambda: torch.mm(left, right, out=out)


def _seconds_a_call(call: Callable[[], object], seconds: float, device: str) -> float:
    """The fastest of several batches of calls: a limit is what the machine can, not what it does on average."""
    call()
    synchronize(device)
    begun = time.perf_counter()
    call()
    synchronize(device)
    once = max(time.perf_counter() - begun, 1e-7)
    calls = max(int(seconds / 5 / once), 1)
    best = once
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        best = min(best, (time.perf_counter() - begun) / calls)
    return best


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
