"""What may be faster because of what nobody does with it: promises about a thread's computation.

    none                 it may be differentiated any number of times, mapped and traced: inner gradients come from
                         torch.func, and networks are made of primitives
    `plain_autograd`     it is differentiated by plain autograd alone, any number of times, and not mapped: inner
                         gradients are autograd's too, and norms the library's, whose derivatives are right then
    `serving`            nothing outside differentiates it at all: inner gradients are taken once, and networks use
                         operations whose backward pass is written by hand (networks/block.py)

The numbers are the same up to rounding, and learners do not tell them apart.
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

__all__ = [
    "differentiated_at_most_once",
    "inner_gradient",
    "moments_unseen",
    "plain_autograd",
    "remembered",
    "serving",
    "transformable",
]

Made = TypeVar("Made")


class _State(threading.local):
    serving = False
    plain = False
    within_objective = False
    memory: dict[tuple[int, Hashable], tuple[Tensor, Any]]

    def __init__(self) -> None:
        self.memory = {}


_state = _State()


@contextmanager
def serving() -> Iterator[None]:
    """A promise about all that this thread computes within: nothing outside differentiates, maps or traces it."""
    with _set("serving", value=True), torch.no_grad():
        try:
            yield
        finally:
            _state.memory.clear()


@contextmanager
def plain_autograd() -> Iterator[None]:
    """A promise about all that this thread computes within: only plain autograd differentiates it, nobody maps it."""
    with _set("plain", value=True):
        yield


def moments_unseen(*, anyway: bool = False) -> bool:
    """Whether a norm may be the library's: under `plain_autograd`, where a loss is all that comes of it.

    Args:
        anyway: nobody differentiates this norm's moments, wherever it is.
    """
    return _state.plain and (_state.within_objective or anyway)


def differentiated_at_most_once() -> bool:
    """Whether plain autograd, once, is all that may happen to what is computed here."""
    return _state.serving


def inner_gradient(objective: Callable[[Params], Tensor], params: Params) -> tuple[Params, Tensor]:
    """The gradient of `objective` at `params`, and its value.

    Differentiable itself, except while serving, and good for torch.func's transforms, except under `plain_autograd`.
    """
    if not (_state.serving or _state.plain):
        grads, value = grad_and_value(objective)(params)
        return grads, value
    differentiable = not _state.serving and torch.is_grad_enabled() and any(p.requires_grad for p in params.values())
    with torch.enable_grad(), _set("within_objective", value=True):
        # A name of their own for each: one parameter may have been made of another, a head of prototypes of the body.
        leaves = {
            name: p.view_as(p) if differentiable and p.requires_grad else p.detach().requires_grad_()
            for name, p in params.items()
        }
        value = objective(leaves)
        found = torch.autograd.grad(value, list(leaves.values()), create_graph=differentiable, materialize_grads=True)
    return dict(zip(leaves, found, strict=True)), value if differentiable else value.detach()


def transformable(objective: Callable[[Params], Tensor]) -> Callable[[Params], Tensor]:
    """The same function for callers that differentiate it as they please, whatever was promised."""

    @functools.wraps(objective)
    def plain(params: Params) -> Tensor:
        with _set("serving", value=False), _set("plain", value=False):
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
def _set(promise: str, *, value: bool) -> Iterator[None]:
    before = getattr(_state, promise)
    setattr(_state, promise, value)
    try:
        yield
    finally:
        setattr(_state, promise, before)
