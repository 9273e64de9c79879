"""Matching Networks: attention over the support set says how much of each example's label a query gets.

    p(y | x) = sum_i a(x, x_i) [y_i = y]      a(x, .) = softmax_i (s cos(f(x), g(x_i)))

Without full context embeddings f and g are the embedding itself, with them those of full_context.py. The scale s is
meta-learned; the paper's is 1, which bounds how sure an answer can be: with one example of each of N classes the
odds are at most e^2 : 1.

Logits are log p, taken as differences of logarithms of sums, so a hopeless class has a finite logit with a gradient.

Reference: Vinyals et al., 2016, "Matching networks for one shot learning", arXiv:1606.04080.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kshot_models.classes import class_members
from kshot_models.context.context import Context
from kshot_models.context.full_context import embed_queries, embed_support, init_full_context
from kshot_models.context.vectors import unit
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, Params

__all__ = ["label_attention", "matching"]


def label_attention(cosines: Tensor, members: Tensor) -> Tensor:
    """log sum_i softmax_i(cosines) members_i.

    Args:
        cosines: (q, n), scaled.
        members: (n, way), 1 where the example is of the class; rows of padding are 0.

    Returns:
        (q, way), very low for classes without examples.
    """
    lowest = torch.finfo(cosines.dtype).min
    everyone = cosines.masked_fill(members.sum(1) == 0, lowest).logsumexp(1, keepdim=True)
    of_class = cosines[:, None, :].masked_fill(members.T == 0, lowest).logsumexp(2)  # (q, way)
    return of_class - everyone


def matching(
    features: int, *, scale: float = 10.0, full_context: bool = False, reads: int = 5, orders: int = 4
) -> Context:
    """Match queries with support examples by cosine.

    Args:
        features: size of the embedding.
        scale: where s starts.
        full_context: embed each example in the light of the whole support set, and each query likewise (FCE).
        reads: K, how often a query's embedding looks at the support set; of `full_context`.
        orders: orders of the support set that are averaged over; of `full_context`.

    Raises:
        ValueError: an option is below what makes sense.
    """
    if scale <= 0 or reads < 1 or orders < 1:
        raise ValueError(f"expected a scale above 0, reads and orders from 1, got {scale}, {reads}, {orders}")

    def init(generator: torch.Generator) -> Params:
        params = {"log_scale": torch.tensor(math.log(scale))}
        return params | (prefixed("fce.", init_full_context(features, generator)) if full_context else {})

    def read(params: Params, features: Tensor, support: Examples, way: int) -> Params:
        if full_context:
            features = embed_support(under("fce.", params), features, support, orders=orders)
        present = support.weights[:, None]
        # Padding is cleared, so that what a session stores does not depend on it.
        return {"embeddings": features * present, "members": class_members(support, way, features.dtype)}

    def answer(params: Params, context: Params, features: Tensor) -> Tensor:
        known = context["embeddings"]
        if full_context:
            features = embed_queries(under("fce.", params), features, known, context["members"].sum(1), reads=reads)
        cosines = params["log_scale"].exp() * (unit(features) @ unit(known).T)
        return label_attention(cosines, context["members"])

    return Context(init, read, answer)
