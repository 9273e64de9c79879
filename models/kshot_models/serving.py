"""What may be faster because nobody looks through it: adaptation whose result is not differentiated.

Meta-training differentiates an adaptation, inner gradients included, or maps it over tasks; so learners take inner
gradients with torch.func, and networks are made of operations that have derivatives of every order. A server does
neither. It says so with `serving`, and then inner gradients come from plain autograd and networks use operations whose
backward pass is written by hand (networks/block.py). The numbers are the same up to rounding, and learners do not tell
the two apart.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value

from kshot_models.types import Params

__all__ = ["differentiated_at_most_once", "inner_gradient", "remembered", "serving", "transformable"]

Made = TypeVar("Made")


class _State(threading.local):
    serving = False
    memory: dict[tuple[int, Hashable], tuple[Tensor, Any]]

    def __init__(self) -> None:
        self.memory = {}


_state = _State()


@contextmanager
def serving() -> Iterator[None]:
    """A promise about all that this thread computes within: nothing outside differentiates, maps or traces it."""
    with _set(serving=True), torch.no_grad():
        try:
            yield
        finally:
            _state.memory.clear()


def differentiated_at_most_once() -> bool:
    """Whether plain autograd, once, is all that may happen to what is computed here."""
    return _state.serving


def inner_gradient(objective: Callable[[Params], Tensor], params: Params) -> tuple[Params, Tensor]:
    """The gradient of `objective` at `params`, and its value.

    Differentiable itself, and good for torch.func's transforms, except while serving.
    """
    if not _state.serving:
        grads, value = grad_and_value(objective)(params)
        return grads, value
    with torch.enable_grad():
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
        value = objective(leaves)
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True)), value.detach()


def transformable(objective: Callable[[Params], Tensor]) -> Callable[[Params], Tensor]:
    """The same function for callers that differentiate it as they please: also while serving."""

    @functools.wraps(objective)
    def plain(params: Params) -> Tensor:
        with _set(serving=False):
            return objective(params)

    return plain


def remembered(of: Tensor, what: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` computes of the tensor `of`: once while serving, however often it is asked for.

    For what depends on the images alone, which are the same in every inner step.
    """
    if not _state.serving:
        return make()
    key = (id(of), what)
    if key not in _state.memory:
        _state.memory[key] = (of, make())  # holding it, so that no other tensor gets its id
    made: Made = _state.memory[key][1]
    return made


@contextmanager
def _set(*, serving: bool) -> Iterator[None]:
    before, _state.serving = _state.serving, serving
    try:
        yield
    finally:
        _state.serving = before
