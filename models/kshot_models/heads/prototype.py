"""The prototype head: the linear classifier that a prototypical network is.

-|z - c|^2 = 2 z.c - |c|^2 + a term that all classes share: weight 2c, bias -|c|^2 for the mean embedding c of a class
(Snell et al., 2017, arXiv:1703.05175); as a start of inner steps it is Proto-MAML's
(Triantafillou et al., 2020, arXiv:1903.03096).

What all classes share is taken away, since it changes no probability and costs precision: with m the mean of the
prototypes, weight 2(c - m), bias |m|^2 - |c|^2. Embeddings lie far from the origin, so the bare terms are thousands
where their differences are tens, and rounding them moved probabilities by 4e-4; now it is 5e-6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_models.classes import class_members
from kshot_models.heads.head import Head
from kshot_models.types import Examples, Params

__all__ = ["prototype", "prototypes"]


def prototypes(features: Tensor, support: Examples, way: int) -> Tensor:
    """Mean embedding (way, features) of each class of the support set; 0 for a class without examples."""
    member = class_members(support, way, features.dtype)
    return (member.T @ features) / member.sum(0).clamp_min(1)[:, None]


def prototype(features: int, *, learned_scale: bool = False) -> Head:
    """Start from the prototypes of the support set.

    Args:
        features: size of the embedding.
        learned_scale: meta-learn a factor on all squared distances, stored as its logarithm.
    """

    def init(generator: torch.Generator) -> Params:
        del generator
        return {"log_scale": torch.zeros(())} if learned_scale else {}

    def start(params: Params, embed: Callable[[], Tensor], support: Examples, way: int) -> Params:
        centres = prototypes(embed(), support, way)
        # Of the classes that have examples: padding changes no answer.
        present = class_members(support, way, centres.dtype).sum(0).gt(0).to(centres.dtype)  # (way,)
        mean = (present @ centres) / present.sum().clamp_min(1)
        weights = {"weight": 2 * (centres - mean), "bias": -((centres - mean) * (centres + mean)).sum(1)}
        if learned_scale:
            scale = params["log_scale"].exp()
            weights = {name: scale * value for name, value in weights.items()}
        return weights

    def template() -> Params:
        return {"weight": torch.zeros(1, features), "bias": torch.zeros(1)}

    return Head(init, start, template, fixed_way=None)
