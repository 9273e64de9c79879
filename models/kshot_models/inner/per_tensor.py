"""A rule for each tensor: the same kind of rule, but what it learns of one layer is not shared with the others."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective, State
from kshot_models.tree import prefixed, under
from kshot_models.types import Params

__all__ = ["per_tensor"]


def per_tensor(rule: InnerOptimizer) -> InnerOptimizer:
    """Let every fast weight have `rule` to itself; what NAME's learned is stored as `NAME:...`.

    Its weights then belong to the names that it was learned with, of whatever shapes. The objective is of all weights
    together and is not handed on, nor does anything carry over to the next adaptation.
    """

    def init(params: Params, generator: torch.Generator) -> Params:
        learned = [prefixed(f"{name}:", rule.init({name: leaf}, generator)) for name, leaf in params.items()]
        return {name: leaf for part in learned for name, leaf in part.items()}

    def bind(phi: Params) -> GradientTransformation:
        def rule_of(name: str) -> GradientTransformation:
            return rule.bind(under(f"{name}:", phi))

        def start(params: Params) -> dict[str, State]:
            return {name: rule_of(name).init({name: leaf}) for name, leaf in params.items()}

        def update(
            grads: Params, state: dict[str, State], params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, dict[str, State]]:
            del objective
            updates: Params = {}
            after: dict[str, State] = {}
            for name, grad in grads.items():
                one, after[name] = rule_of(name).update({name: grad}, state[name], {name: params[name]}, loss)
                updates |= one
            return updates, after

        return GradientTransformation(start, update)

    return InnerOptimizer(init, bind)
