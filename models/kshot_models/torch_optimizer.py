"""A learned update rule as a torch.optim.Optimizer, to train any model with.

    optimizer = load("l2l-quadratic").as_torch_optimizer(model.parameters())

Each parameter has a state of its own, as torch keeps it; for a coordinatewise rule that is the same as one state for
all. `lr` multiplies the updates: 1 is the rule as it was learned, and torch's schedules work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from kshot_models.errors import NotAnOptimizer
from kshot_models.inner.state import flatten
from kshot_models.inner.transformation import InnerOptimizer, State
from kshot_models.tree import tree_map
from kshot_models.types import Params

__all__ = ["LearnedOptimizer"]

_NAME = "parameter"  # what a rule sees each parameter as
_PROBES = (torch.zeros(1), torch.zeros(2, 3))


class LearnedOptimizer(torch.optim.Optimizer):
    """Steps by a learned rule.

    Args:
        rule: the update rule. What it learned must not be shaped after certain parameters.
        phi: what it learned.
        params: parameters or groups of them, as every torch optimizer takes them.
        lr: multiplies the updates; a group may have its own.

    Raises:
        NotAnOptimizer: the rule has rates (or moments) for the weights that it was learned with, or needs the loss as
            a function.
        ValueError: a learning rate below 0, or parameters that torch refuses.
    """

    def __init__(self, rule: InnerOptimizer, phi: Params, params: ParamsT, *, lr: float = 1.0) -> None:
        if lr < 0:
            raise ValueError(f"lr multiplies the learned updates and is at least 0, got {lr}")
        _check_fits_any_parameter(rule, phi)
        self._rule, self._phi = rule, phi
        self._cast: dict[tuple[torch.device, torch.dtype], Params] = {}
        self._needs_loss = _looks_at_loss(rule, phi)
        super().__init__(params, {"lr": lr})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: evaluates the model again and returns the loss. Rules that look at the loss need it.

        Returns:
            the loss that `closure` returned.

        Raises:
            ValueError: the rule looks at the loss and there is no closure, or a gradient is sparse.
        """
        if closure is None and self._needs_loss:
            raise ValueError("this rule looks at the loss beside the gradients: call step(closure)")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group["lr"], torch.as_tensor(0.0 if loss is None else loss).detach())
        return loss

    def _step_one(self, parameter: Tensor, lr: float, loss: Tensor) -> None:
        if parameter.grad is None or parameter.grad.is_sparse:
            raise ValueError("learned optimizers do not step by sparse gradients; use a dense one")
        bound = self._rule.bind(self._phi_for(parameter))
        here = {_NAME: parameter.detach()}
        state, kept = bound.init(here), self.state[parameter]
        tensors, rebuild = flatten(state)
        if kept:
            state = rebuild([kept[f"state{i}"] for i in range(len(tensors))])
        updates, after = bound.update({_NAME: parameter.grad}, state, here, loss.to(parameter))
        parameter.add_(updates[_NAME], alpha=lr)
        # Under "state0" and so on: torch casts what it finds in a state dict, but for the key "step".
        kept.update({f"state{i}": tensor for i, tensor in enumerate(flatten(after)[0])})

    def _phi_for(self, parameter: Tensor) -> Params:
        place = (parameter.device, parameter.dtype)
        if place not in self._cast:
            self._cast[place] = tree_map(lambda leaf: leaf.detach().to(*place), self._phi)
        return self._cast[place]


def _check_fits_any_parameter(rule: InnerOptimizer, phi: Params) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [_shapes(rule.init({name: probe}, generator)) for name, probe in zip("ab", _PROBES, strict=True)]
    if shapes[0] != shapes[1] or shapes[0] != _shapes(phi):
        raise NotAnOptimizer(
            f"what this rule learned ({', '.join(sorted(phi)[:4])}) belongs to the weights that it was learned with: "
            "only rules that are the same for all coordinates fit a model of yours"
        )
    state = _probe(rule, phi, loss=0.0)
    if _plain_values(state):
        raise NotAnOptimizer("this rule counts its steps outside of its tensors, which a state dict could not keep")


def _looks_at_loss(rule: InnerOptimizer, phi: Params) -> bool:
    """Whether a loss that is no number spoils what the rule does."""
    return any(not tensor.isfinite().all() for tensor in flatten(_probe(rule, phi, loss=float("nan")))[0])


def _probe(rule: InnerOptimizer, phi: Params, *, loss: float) -> State:
    """The state, and the update beside it, after a step on a parameter of our own."""
    bound, here = rule.bind(tree_map(Tensor.detach, phi)), {_NAME: next(iter(phi.values()), _PROBES[0]).new_ones(1)}
    try:
        updates, state = bound.update(here, bound.init(here), here, here[_NAME].new_tensor(loss))
    except ValueError as error:
        raise NotAnOptimizer(str(error)) from error
    return (updates, state)


def _plain_values(state: State) -> Iterable[Any]:
    if isinstance(state, Tensor):
        return []
    if isinstance(state, dict | tuple):
        return [
            value for part in (state.values() if isinstance(state, dict) else state) for value in _plain_values(part)
        ]
    return [state]


def _shapes(phi: Params) -> dict[str, torch.Size]:
    return {name: leaf.shape for name, leaf in phi.items()}
