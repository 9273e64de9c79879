"""The linear head: one meta-learned row for each class, for a fixed way; the head of the papers' protocols."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_models.errors import WayUnsupported
from kshot_models.heads.head import Head
from kshot_models.types import Examples, Params

__all__ = ["linear"]


def linear(features: int, *, way: int, init_scale: float = 1.0) -> Head:
    """Start from meta-learned rows. Answers depend on the order of labels; the way is fixed.

    Args:
        features: size of the embedding.
        way: number of classes, or of outputs of a regression.
        init_scale: rows are drawn from normal(0, init_scale^2 / features).
    """
    fixed_way = way

    def init(generator: torch.Generator) -> Params:
        weight = torch.randn(fixed_way, features, generator=generator) * init_scale / features**0.5
        return {"weight": weight, "bias": torch.zeros(fixed_way)}

    def start(params: Params, embed: Callable[[], Tensor], support: Examples, way: int) -> Params:
        del embed, support
        if way != fixed_way:
            raise WayUnsupported(f"expected {fixed_way} classes, the way of this linear head; got {way}")
        return {"weight": params["weight"], "bias": params["bias"]}

    def template() -> Params:
        return {"weight": torch.zeros(fixed_way, features), "bias": torch.zeros(fixed_way)}

    return Head(init, start, template, fixed_way=fixed_way)
