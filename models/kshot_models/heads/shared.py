"""The shared head: one learned vector, copied to each class.

Any way, and equivariant to the order of labels (UNICORN-MAML: Ye and Chao, 2022, arXiv:2106.16245).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_models.heads.head import Head
from kshot_models.types import Examples, Params

__all__ = ["shared"]


def shared(features: int, *, init_scale: float = 0.1) -> Head:
    """Start each class from the same (w, b); the inner loop tells them apart.

    Args:
        features: size of the embedding.
        init_scale: w is drawn from normal(0, init_scale^2 / features).
    """

    def init(generator: torch.Generator) -> Params:
        weight = torch.randn(features, generator=generator) * init_scale / features**0.5
        return {"weight": weight, "bias": torch.zeros(())}

    def start(params: Params, embed: Callable[[], Tensor], support: Examples, way: int) -> Params:
        del embed, support
        return {"weight": params["weight"].expand(way, features), "bias": params["bias"].expand(way)}

    def template() -> Params:
        return {"weight": torch.zeros(1, features), "bias": torch.zeros(1)}

    return Head(init, start, template, fixed_way=None)
