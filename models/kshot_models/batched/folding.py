"""How operations with an axis of tasks are called, and how they meet vmap: the mapped axis is folded into the tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

from kshot_models.serving import being_transformed

__all__ = ["applied", "mapped"]


def applied(function: type[Function], *arguments: Any) -> Any:
    """`function.apply(*arguments)`, where none of its transforms is at work without what torch.func asks for.

    Which is to look up the names and defaults of the arguments, at ten times the cost of the call itself.
    """
    if being_transformed():
        return function.apply(*arguments)  # type: ignore[no-untyped-call] # torch's own
    return super(Function, function).apply(*arguments)  # type: ignore[misc] # past Function's own


def mapped(
    apply: Callable[..., Any], batch_size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[Any, Any]:
    """The vmap rule of `apply`, whose tensors all have a leading axis of tasks.

    (batch, tasks, ...) becomes (batch * tasks, ...), which is a view where one task is mapped. A tensor that is not
    mapped is expanded, not copied: the kernels read it with a stride of 0.

    Args:
        apply: takes `arguments`; tensors (tasks, ...), and values.
        batch_size: of the mapped axis.
        in_dims: where it is in each argument; None where it is in none.
        arguments: tensors, None, and values.

    Returns:
        what `apply` returns, with the mapped axis in front, and the places of that axis, as torch wants them.
    """
    folded = [_folded(value, at, batch_size) for value, at in zip(arguments, in_dims, strict=True)]
    results = apply(*folded)
    if not isinstance(results, tuple):
        return _unfolded(results, batch_size), 0
    return tuple(_unfolded(result, batch_size) for result in results), tuple(0 for _ in results)


def _folded(value: Any, at: int | None, batch_size: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.expand(batch_size, *value.shape) if at is None else value.movedim(at, 0)
    return value.squeeze(1) if value.shape[1] == 1 else value.flatten(0, 1)


def _unfolded(value: Any, batch_size: int) -> Any:
    return value.reshape(batch_size, -1, *value.shape[1:]) if isinstance(value, Tensor) else value
