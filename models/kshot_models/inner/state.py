"""The state of an inner optimizer as a list of tensors, for whoever stores it or differentiates through it.

A state is a tensor, a dict or tuple (or NamedTuple) of states, or a plain value such as a step count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from kshot_models.inner.transformation import State

__all__ = ["flatten"]


def flatten(state: State) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], State]]:
    """Take a state apart.

    Returns:
        its tensors, in a fixed order, and a function that puts others in their places; plain values stay.
    """
    return tuple(_tensors(state)), lambda tensors: _with(state, iter(tensors))


def _tensors(state: State) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)


def _with(state: State, tensors: Iterator[Tensor]) -> State:
    if isinstance(state, Tensor):
        return next(tensors)
    if isinstance(state, dict):
        return {name: _with(part, tensors) for name, part in state.items()}
    if isinstance(state, tuple):
        parts: list[Any] = [_with(part, tensors) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state
