"""The network of a head that sees features as they are: nothing to compute, and no weights.

Behind an encoder (encoder.py), and behind a body that no inner step changes, which embeds a support set once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.networks.network import Network, Pull
from kshot_models.types import Params

__all__ = ["identity"]


def identity(features: int) -> Network:
    """Pass features (n, features) on as they are."""

    def init(generator: torch.Generator) -> Params:
        del generator
        return {}

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        del params, weights, moments
        return inputs, {}

    def pullback(params: Params, inputs: Tensor, *, weights: Tensor | None) -> tuple[Tensor, Pull] | None:
        del params, weights
        single = inputs.device.type == "cpu" and inputs.dtype == torch.float32  # which the head's kernel takes
        return (inputs, lambda grad: {}) if single else None

    return Network(init, apply, features, pullback)
