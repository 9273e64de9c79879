"""Conv4: blocks of 3x3 convolution, normalization, ReLU and downsampling; the field's small network.

With max-pooling (Vinyals et al., 2016, arXiv:1606.04080; Snell et al., 2017, arXiv:1703.05175) or with strides
(Finn et al., 2017, arXiv:1703.03400, on Omniglot).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.batched import suits
from kshot_models.inner.transformation import Rates
from kshot_models.manifest import InputSpec, NormMode
from kshot_models.networks.batched_blocks import batched_blocks
from kshot_models.networks.block import BlockShape
from kshot_models.networks.cpu_blocks import cpu_blocks, cpu_classifier, cpu_pullback
from kshot_models.networks.cpu_descent import cpu_descend
from kshot_models.networks.network import Descend, Network, Prepare, Pull, Pullback
from kshot_models.norm import NormPass
from kshot_models.serving import being_transformed
from kshot_models.types import Examples, Params, Predictor

__all__ = ["conv4"]

Blocks = Callable[[Params, Tensor, NormPass, int, BlockShape], Tensor]


def conv4(
    input: InputSpec,  # noqa: A002 - the manifest's word
    norm: NormMode,
    *,
    channels: tuple[int, ...] = (64, 64, 64, 64),
    downsample: Literal["max_pool", "stride"] = "max_pool",
    readout: Literal["flatten", "mean"] = "flatten",
    norm_epsilon: float = 1e-5,
    norm_groups: int = 8,
) -> Network:
    """Build the network for inputs (n, input.channels, input.height, input.width).

    Args:
        input: the artifact's input.
        norm: how features are normalized.
        channels: width of each block; as many blocks as there are numbers.
        downsample: 2x2 max-pooling that drops an odd last row (28-14-7-3-1), or stride 2 (28-14-7-4-2).
        readout: all positions of the last block, or their mean.
        norm_epsilon: added to variances.
        norm_groups: groups of `norm="group"`.
    """
    shape = BlockShape(2 if downsample == "stride" else 1, downsample == "max_pool", norm_epsilon)
    height, width = (
        _final_size(input.height, downsample, len(channels)),
        _final_size(input.width, downsample, len(channels)),
    )

    def init(generator: torch.Generator) -> Params:
        return _drawn((input.channels, *channels), generator, biases=norm == "none")

    def passed(weights: Tensor | None, moments: Params | None) -> NormPass:
        return NormPass(norm, weights, moments, norm_epsilon, norm_groups)

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        norms = passed(weights, moments)
        features = _blocks(inputs, norms)(params, inputs, norms, len(channels), shape)
        return features.flatten(1) if readout == "flatten" else features.mean((2, 3)), norms.used

    size = channels[-1] * (height * width if readout == "flatten" else 1)
    return Network(init, apply, size, *_without_autograd(passed, len(channels), shape, mean=readout == "mean"))


def _without_autograd(
    passed: Callable[[Tensor | None, Params | None], NormPass], count: int, shape: BlockShape, *, mean: bool
) -> tuple[Pullback, Descend, Prepare]:
    """What the blocks of a CPU can do at once; each gives None where these are not the blocks to run."""

    def pullback(params: Params, inputs: Tensor, *, weights: Tensor | None) -> tuple[Tensor, Pull] | None:
        norms = passed(weights, None)
        if _blocks(inputs, norms) is not cpu_blocks:
            return None
        features, pull_blocks = cpu_pullback(params, inputs, norms, count, shape)
        positions = features.shape[2] * features.shape[3]

        def pull(grad: Tensor) -> Params:
            if mean:
                return pull_blocks((grad / positions)[..., None, None].expand(features.shape))
            return pull_blocks(grad.view(features.shape))

        return features.mean((2, 3)) if mean else features.flatten(1), pull

    def descend(
        params: Params,
        head: Params,
        support: Examples,
        present: Tensor,
        rates: Callable[[str], Rates | None],
        *,
        moments: bool,
        first_order: bool,
    ) -> tuple[Params, Params] | None:
        norms = passed(support.weights, None)
        if _blocks(support.inputs, norms) is not cpu_blocks or support.inputs.requires_grad:
            return None
        wanted = {"mean": mean, "moments": moments, "first_order": first_order}
        return cpu_descend(params, head, support, present, rates, norms, count, shape, **wanted)

    def prepare(params: Params, head: Params, moments: Params) -> Predictor | None:
        norms = passed(None, moments)
        if _blocks(params["conv1.weight"], norms) is not cpu_blocks:
            return None
        return cpu_classifier(params, head, norms, count, shape, mean=mean)

    return pullback, descend, prepare


def _drawn(channels: tuple[int, ...], generator: torch.Generator, *, biases: bool) -> Params:
    """Random filters between these channels, and norms that change nothing.

    Convolutions have biases of their own only where asked: a normalization would take them away again.
    """
    params: Params = {}
    for i, (inside, outside) in enumerate(pairwise(channels), start=1):
        # He et al. (2015): the variance that keeps ReLU activations at scale.
        scale = math.sqrt(2 / (9 * inside))
        params[f"conv{i}.weight"] = torch.randn(outside, inside, 3, 3, generator=generator) * scale
        if biases:
            params[f"conv{i}.bias"] = torch.zeros(outside)
        params[f"norm{i}.gain"] = torch.ones(outside)
        params[f"norm{i}.bias"] = torch.zeros(outside)
    return params


def _blocks(inputs: Tensor, norms: NormPass) -> Blocks:
    """The fastest way to run the blocks here; all give the same numbers, up to rounding."""
    if not (norms.takes_moments() and suits(inputs)):
        return _plain
    here = inputs.device.type == "cpu" and inputs.dtype == torch.float32 and not being_transformed()
    return cpu_blocks if here else batched_blocks


def _plain(params: Params, inputs: Tensor, norms: NormPass, count: int, shape: BlockShape) -> Tensor:
    features = inputs
    for i in range(1, count + 1):
        bias = params.get(f"conv{i}.bias")
        features = F.conv2d(features, params[f"conv{i}.weight"], bias, stride=shape.stride, padding=1)
        features = norms(f"norm{i}", features, params[f"norm{i}.gain"], params[f"norm{i}.bias"])
        if shape.pool:  # before the ReLU, which then has a quarter of the work and the same answer
            features = F.max_pool2d(features, 2)
        features = F.relu(features)
    return features


def _final_size(size: int, downsample: str, blocks: int) -> int:
    for _ in range(blocks):
        size = size // 2 if downsample == "max_pool" else (size + 1) // 2
    if size < 1:
        raise ValueError(f"{blocks} blocks leave nothing of the input; take fewer blocks or larger images")
    return size
