"""ResNet-12: the larger network of the few-shot literature, four stages of three convolutions each.

    stage    images ─┬─> conv1 ─> norm1 ─> act ─> conv2 ─> norm2 ─> act ─> conv3 ─> norm3 ─> (+) ─> act ─> max-pool
                     └─> conv_shortcut (1x1) ─────────────────────────────> norm_shortcut ────┘

The stages are those of TADAM (Oreshkin et al., 2018, arXiv:1805.10123); the widths and the activation, a LeakyReLU of
slope 0.1, are those of MetaOptNet (Lee et al., 2019, arXiv:1904.03758), whose DropBlock is left out: a network here is
a pure function of its parameters.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.manifest import InputSpec, NormMode
from kshot_models.networks.network import Network
from kshot_models.norm import NormPass
from kshot_models.tree import under
from kshot_models.types import Params

__all__ = ["resnet12"]

_SLOPE = 0.1  # of the LeakyReLU below 0
_KERNELS = {"1": 3, "2": 3, "3": 3, "_shortcut": 1}  # of a stage's convolutions, by what follows `conv` and `norm`


def resnet12(
    input: InputSpec,  # noqa: A002 - the manifest's word
    norm: NormMode,
    *,
    channels: tuple[int, ...] = (64, 160, 320, 640),
    readout: Literal["flatten", "mean"] = "mean",
    norm_epsilon: float = 1e-5,
    norm_groups: int = 8,
) -> Network:
    """Build the network for inputs (n, input.channels, input.height, input.width).

    Args:
        input: the artifact's input.
        norm: how features are normalized.
        channels: width of each stage; as many stages as there are numbers. Four make the twelve layers of the name.
        readout: all positions of the last stage, or their mean.
        norm_epsilon: added to variances.
        norm_groups: groups of `norm="group"`.

    Raises:
        ValueError: the stages leave nothing of the input; each halves it, and drops an odd last row (84-42-21-10-5).
    """
    height, width = input.height >> len(channels), input.width >> len(channels)
    if min(height, width) < 1:
        raise ValueError(f"{len(channels)} stages leave nothing of the input; take fewer stages or larger images")

    def init(generator: torch.Generator) -> Params:
        return _drawn((input.channels, *channels), generator, biases=norm == "none")

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        norms = NormPass(norm, weights, moments, norm_epsilon, norm_groups)
        features = inputs
        for i in range(1, len(channels) + 1):
            features = _stage(f"stage{i}.", params, features, norms)
        return features.flatten(1) if readout == "flatten" else features.mean((2, 3)), norms.used

    return Network(init, apply, channels[-1] * (height * width if readout == "flatten" else 1))


def _stage(prefix: str, params: Params, inputs: Tensor, norms: NormPass) -> Tensor:
    """(n, inside, height, width) -> (n, outside, height // 2, width // 2)."""
    own = under(prefix, params)

    def normalized(layer: str, images: Tensor) -> Tensor:
        filters, bias = own[f"conv{layer}.weight"], own.get(f"conv{layer}.bias")
        images = F.conv2d(images, filters, bias, padding=_KERNELS[layer] // 2)
        return norms(f"{prefix}norm{layer}", images, own[f"norm{layer}.gain"], own[f"norm{layer}.bias"])

    features = F.leaky_relu(normalized("1", inputs), _SLOPE)
    features = F.leaky_relu(normalized("2", features), _SLOPE)
    features = normalized("3", features) + normalized("_shortcut", inputs)
    # Pooled before the activation, which then has a quarter of the work and the same answer.
    return F.leaky_relu(F.max_pool2d(features, 2), _SLOPE)


def _drawn(channels: tuple[int, ...], generator: torch.Generator, *, biases: bool) -> Params:
    """Random filters between these channels, and norms that change nothing.

    Convolutions have biases of their own only where asked: a normalization would take them away again.
    """
    params: Params = {}
    for i, (inside, outside) in enumerate(pairwise(channels), start=1):
        for layer, kernel in _KERNELS.items():
            fan_in = kernel * kernel * (outside if layer in {"2", "3"} else inside)
            # He et al. (2015): the variance that keeps the scale of activations that are leaky below 0.
            scale = math.sqrt(2 / ((1 + _SLOPE**2) * fan_in))
            shape = (outside, fan_in // kernel**2, kernel, kernel)
            params[f"stage{i}.conv{layer}.weight"] = torch.randn(shape, generator=generator) * scale
            if biases:
                params[f"stage{i}.conv{layer}.bias"] = torch.zeros(outside)
            params[f"stage{i}.norm{layer}.gain"] = torch.ones(outside)
            params[f"stage{i}.norm{layer}.bias"] = torch.zeros(outside)
    return params
