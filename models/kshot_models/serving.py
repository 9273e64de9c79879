"""What may be faster because of what nobody does with it: promises about a thread's computation.

    none                 it may be differentiated any number of times, mapped and traced: inner gradients come from
                         torch.func, and networks are made of primitives
    `plain_autograd`     it is differentiated by plain autograd alone, once, and not mapped: inner gradients are
                         autograd's too, and all steps may be one operation
    `serving`            nothing outside differentiates it at all: inner gradients are taken once

The numbers are the same up to rounding, and learners do not tell them apart.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.func import grad_and_value

from kshot_models.types import Learner, MetaParams, Params, Predictor, TaskParams

__all__ = [
    "Joins",
    "Prepares",
    "alone",
    "being_transformed",
    "computed_by_torch",
    "differentiated_once",
    "inner_gradient",
    "kept_briefly",
    "nobody_differentiates",
    "only_mapped",
    "plain_autograd",
    "predict_each",
    "prepared",
    "serving",
    "transformable",
]


class _State(threading.local):
    serving = False
    plain = False
    briefly = False


_state = _State()


@contextmanager
def serving() -> Iterator[None]:
    """A promise about all that this thread computes within: nothing outside differentiates, maps or traces it."""
    with _set("serving", value=True), torch.no_grad():
        yield


@contextmanager
def plain_autograd() -> Iterator[None]:
    """A promise about all that this thread computes within: plain autograd alone differentiates it, once, and nobody
    maps it."""
    with _set("plain", value=True):
        yield


def alone() -> bool:
    """Whether nothing outside differentiates what this thread computes: within `serving`."""
    return _state.serving


def differentiated_once() -> bool:
    """Whether what this thread computes is differentiated by plain autograd, once, if at all: within both promises."""
    return _state.serving or _state.plain


def nobody_differentiates(*, first_order: bool) -> bool:
    """Whether nobody differentiates the inner gradients of this thread: while serving, and those of first order, which
    count as constants; not where torch.func is at work."""
    return _state.serving or (first_order and not being_transformed())


def kept_briefly() -> bool:
    """Whether what is kept for derivatives is so only until the end of an inner step, as nobody differentiates that."""
    return _state.briefly


def being_transformed() -> bool:
    """Whether a transform of torch.func is at work on what this thread computes."""
    active: bool = torch._C._are_functorch_transforms_active()  # noqa: SLF001 - torch has no other name for it
    return active


def only_mapped() -> bool:
    """Whether the transforms of torch.func that are at work, if any, are vmap alone."""
    if not being_transformed():
        return True
    levels = torch._C._functorch.get_interpreter_stack() or []  # noqa: SLF001 - torch has no other name for it
    return all(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)  # noqa: SLF001 - likewise


@runtime_checkable
class Prepares(Protocol):
    """A learner that can get ready for a task."""

    def prepare(self, meta: MetaParams, task: TaskParams) -> Predictor | None:
        """`predict` for these parameters, with all done that inputs do not change; None if nothing can be.

        What it returns computes while serving, and refers to the parameters' memory.
        """
        ...


def prepared(learner: Learner, meta: MetaParams, task: TaskParams) -> Predictor:
    """`learner.predict` for one task, for whoever asks more than once, within `serving`."""
    ready = learner.prepare(meta, task) if isinstance(learner, Prepares) else None
    return ready or functools.partial(learner.predict, meta, task)


@runtime_checkable
class Joins(Protocol):
    """A predictor that can answer together with others."""

    def together(self, others: Sequence[Predictor], inputs: Tensor, counts: Sequence[int]) -> list[Tensor] | None:
        """What each of `others`, itself among them, says of its inputs; None if they are not all of its kind."""
        ...


def computed_by_torch(learner: Learner) -> bool:
    """Whether its network is computed by torch on a CPU, by as many threads as torch is given; kernels have one."""
    network = getattr(learner, "network", None)
    return network is not None and network.prepare is None


def predict_each(predictors: Sequence[Predictor], inputs: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Logits of several tasks of one learner, in one call where that can be.

    Args:
        predictors: one for each task.
        inputs: (sum of counts, *x): the first counts[0] are for the first predictor, and so on.
        counts: at least one each.
    """
    first: object = predictors[0]  # a function is no Joins, thinks mypy
    if isinstance(first, Joins) and (found := first.together(predictors, inputs, counts)) is not None:
        return found
    return [predict(part) for predict, part in zip(predictors, inputs.split_with_sizes(list(counts)), strict=True)]


def inner_gradient(
    objective: Callable[[Params], Tensor], params: Params, *, constant: bool = False
) -> tuple[Params, Tensor]:
    """The gradient of `objective` at `params`, and its value.

    Differentiable itself, except while serving, and good for torch.func's transforms, except under `plain_autograd`.

    Args:
        objective: to differentiate.
        params: where.
        constant: nobody differentiates the gradient; then autograd takes it wherever nothing is being transformed.
    """
    if not (_state.plain or nobody_differentiates(first_order=constant)):
        grads, value = grad_and_value(objective)(params)
        return grads, value
    differentiable = not _state.serving and torch.is_grad_enabled() and any(p.requires_grad for p in params.values())
    with torch.enable_grad(), _set("briefly", value=not differentiable):
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
        with _set("serving", value=False), _set("plain", value=False), _set("briefly", value=False):
            return objective(params)

    return plain


@contextmanager
def _set(promise: str, *, value: bool) -> Iterator[None]:
    before = getattr(_state, promise)
    setattr(_state, promise, value)
    try:
        yield
    finally:
        setattr(_state, promise, before)
