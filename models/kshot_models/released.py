"""Several tensor operations as one call, during which other threads of Python run.

torch takes and gives back the interpreter's lock around every operation. Where hundreds of small ones follow one
another, threads that compute side by side spend their time waiting for it. TorchScript runs a whole function without
the lock, and with half the cost of a call in Python. It takes a subset of the language; functions are the same without.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

__all__ = ["released"]

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()


def released(function: Callable[P, R]) -> Callable[P, R]:
    """The same function of tensors and numbers, compiled when it is first called; what it calls is compiled with it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", _compiled(function)(*args, **kwargs))

    return call


@functools.cache
def _scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        # torch would rather have us use torch.compile, whose compiler is a C++ compiler and takes seconds a shape.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        return cast("Callable[..., Any]", torch.jit.script(function))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    with _lock:
        return _scripted(function)
