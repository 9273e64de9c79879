"""The ridge head: ridge regression of the classes on the support embedding, in closed form (R2-D2).

    W = argmin |X W - Y|^2 + r |W|^2 = (X^T X + r I)^-1 X^T Y = X^T (X X^T + r I)^-1 Y         logits = s Q W

X (n, features) are the support embeddings, Y (n, way) their classes as rows of the unit matrix, Q the query embeddings.
The two forms are equal (Woodbury's identity); the second solves a system of n equations, so it is taken where there
are fewer examples than features. The regularizer r and the scale s are meta-learned, as logarithms; the paper also
learns an offset, which is the same for all classes and changes no probability, so there is none here.

Rows of weight 0 are rows of zeros in X and Y: they add nothing to X^T X, and their entries of the solution are 0.

Reference: Bertinetto et al., 2019, "Meta-learning with differentiable closed-form solvers", arXiv:1805.08136.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kshot_models.classes import class_members
from kshot_models.heads.head import Head
from kshot_models.types import Examples, Params

__all__ = ["ridge", "ridge_weights"]


def ridge_weights(features: Tensor, members: Tensor, regularizer: Tensor) -> Tensor:
    """The minimum W of |X W - Y|^2 + regularizer |W|^2.

    Args:
        features: X, (n, features), with rows of zeros for padding.
        members: Y, (n, way), likewise.
        regularizer: above 0, a scalar.

    Returns:
        (features, way).
    """
    examples, size = features.shape
    fewer = examples < size
    gram = features @ features.T if fewer else features.T @ features
    gram = gram + regularizer * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram, members if fewer else features.T @ members)
    return features.T @ solved if fewer else solved


def ridge(features: int, *, regularizer: float = 1.0, scale: float = 1.0) -> Head:
    """Make each class a target of a ridge regression.

    Args:
        features: size of the embedding.
        regularizer: where r starts; in units of squared features, so it depends on how long embeddings are.
        scale: where s starts.

    Raises:
        ValueError: one of them is not above 0.
    """
    if regularizer <= 0 or scale <= 0:
        raise ValueError(f"regularizer and scale must be above 0, got {regularizer} and {scale}")

    def init(generator: torch.Generator) -> Params:
        del generator
        return {
            "log_regularizer": torch.tensor(math.log(regularizer)),
            "log_scale": torch.tensor(math.log(scale)),
        }

    def start(params: Params, embed: Callable[[], Tensor], support: Examples, way: int) -> Params:
        embedding = embed() * support.weights[:, None]
        members = class_members(support, way, embedding.dtype)
        weight = ridge_weights(embedding, members, params["log_regularizer"].exp())
        return {"weight": params["log_scale"].exp() * weight.T, "bias": embedding.new_zeros(way)}

    def template() -> Params:
        return {"weight": torch.zeros(1, features), "bias": torch.zeros(1)}

    return Head(init, start, template, fixed_way=None)
