"""Which of several ways to compile a kernel is the fastest for a size: measured once, kept on disk by Triton."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import triton
import triton.testing

__all__ = ["tuned"]

_launching = threading.Lock()
_KEY = ["n", "height", "width", "STRIDE", "INSIDE", "OUTSIDE", "PRECISION"]


def tuned(*configs: triton.Config) -> Callable[[Any], Any]:
    """A decorator of kernels that have the sizes of a convolution: a new size is measured when it first comes.

    Nothing can be measured while a CUDA graph is captured: whoever captures runs once before.
    """
    measured = configs[:1] if os.environ.get("TRITON_INTERPRET") == "1" else configs
    decorator = triton.autotune(configs=list(measured), key=_KEY, do_bench=_quick_bench, cache_results=True)
    return lambda kernel: _OneAtATime(decorator(kernel))


class _OneAtATime:
    """A kernel that threads may launch: Triton's tuner keeps the arguments of a launch in itself."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            with _launching:
                self.kernel[grid](*arguments, **constants)

        return launch


def _quick_bench(call: Callable[[], Any], quantiles: Any) -> Any:
    return triton.testing.do_bench(call, warmup=1, rep=4, quantiles=quantiles)
