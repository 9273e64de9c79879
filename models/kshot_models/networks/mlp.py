"""A multi-layer perceptron: the network of the sine regression, and a baseline on images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.manifest import InputSpec, NormMode
from kshot_models.networks.network import Network
from kshot_models.norm import NormPass
from kshot_models.types import Params

__all__ = ["mlp"]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


def mlp(
    input: InputSpec,  # noqa: A002 - the manifest's word
    norm: NormMode,
    *,
    hidden: tuple[int, ...] = (40, 40),
    activation: Literal["relu", "sigmoid", "tanh"] = "relu",
    norm_epsilon: float = 1e-5,
    norm_groups: int = 8,
) -> Network:
    """Build the network; inputs (n, *x) are flattened to (n, channels * height * width).

    Args:
        input: the artifact's input; a scalar regression has 1 x 1 x 1.
        norm: how features are normalized, before the activation.
        hidden: width of each hidden layer; the last one is the embedding.
        activation: after each layer.
        norm_epsilon: added to variances.
        norm_groups: groups of `norm="group"`.
    """
    fan_ins = (input.channels * input.height * input.width, *hidden[:-1])

    def init(generator: torch.Generator) -> Params:
        params: Params = {}
        for i, (inside, outside) in enumerate(zip(fan_ins, hidden, strict=True), start=1):
            params[f"linear{i}.weight"] = torch.randn(outside, inside, generator=generator) * math.sqrt(2 / inside)
            params[f"linear{i}.bias"] = torch.zeros(outside)
            if norm != "none":
                params[f"norm{i}.gain"] = torch.ones(outside)
                params[f"norm{i}.bias"] = torch.zeros(outside)
        return params

    act = _ACTIVATIONS[activation]

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        norms = NormPass(norm, weights, moments, norm_epsilon, norm_groups)
        features = inputs.flatten(1)
        for i in range(1, len(hidden) + 1):
            features = F.linear(features, params[f"linear{i}.weight"], params[f"linear{i}.bias"])
            if norm != "none":
                features = norms(f"norm{i}", features, params[f"norm{i}.gain"], params[f"norm{i}.bias"])
            features = act(features)
        return features, norms.used

    return Network(init, apply, hidden[-1])
