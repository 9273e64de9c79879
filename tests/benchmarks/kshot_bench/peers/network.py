"""Conv4 and ResNet-12 as users of the peer libraries write them: torch's own layers, NCHW, fused batch normalization.

The mathematics is ours (convolution, batch statistics, max-pool, ReLU or LeakyReLU, linear), so answers can be compared
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.types import Params

__all__ = ["Moments", "PeerNetwork", "forward"]

_EPSILON = 1e-5
_SLOPE = 0.1

Moments = list[tuple[Tensor, Tensor]]  # (mean, biased variance) of each norm, in the order of the forward pass
_Layer = Callable[[str, Tensor], Tensor]  # the name of a norm and its inputs -> normalized


def forward(params: Params, inputs: Tensor, *, moments: Moments | None = None, record: Moments | None = None) -> Tensor:
    """Logits (n, way) of inputs (n, channels, height, width).

    Args:
        params: by our names, which tell the network: `body.conv1.weight`, `body.norm1.gain`, ... of Conv4,
            `body.stage1.conv1.weight`, ... of ResNet-12; `head.weight`, `head.bias`.
        inputs: the images.
        moments: normalize with these; None for the batch's own.
        record: gets the batch's own moments.
    """
    given = None if moments is None else iter(moments)

    def normalized(name: str, features: Tensor) -> Tensor:
        gain, bias = params[f"{name}.gain"], params[f"{name}.bias"]
        if given is None:
            return _batch_normalized(features, gain, bias, record)
        return F.batch_norm(features, *next(given), gain, bias, training=False, eps=_EPSILON)

    network = _resnet12 if "body.stage1.conv1.weight" in params else _conv4
    return F.linear(network(params, inputs, normalized), params["head.weight"], params["head.bias"])


def _conv4(params: Params, features: Tensor, normalized: _Layer) -> Tensor:
    for block in range(1, 1 + sum(name.startswith("body.conv") for name in params)):
        features = F.conv2d(features, params[f"body.conv{block}.weight"], padding=1)
        features = F.relu(F.max_pool2d(normalized(f"body.norm{block}", features), 2))
    return features.flatten(1)


def _resnet12(params: Params, features: Tensor, normalized: _Layer) -> Tensor:
    for stage in _stages(params):
        images = features
        for layer in (1, 2, 3):
            features = F.conv2d(features, params[f"{stage}.conv{layer}.weight"], padding=1)
            features = normalized(f"{stage}.norm{layer}", features)
            if layer < 3:
                features = F.leaky_relu(features, _SLOPE)
        shortcut = normalized(f"{stage}.norm_shortcut", F.conv2d(images, params[f"{stage}.conv_shortcut.weight"]))
        features = F.max_pool2d(F.leaky_relu(features + shortcut, _SLOPE), 2)
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def _stages(params: Params) -> Iterator[str]:
    number = 1
    while f"body.stage{number}.conv1.weight" in params:
        yield f"body.stage{number}"
        number += 1


def _batch_normalized(features: Tensor, gain: Tensor, bias: Tensor, record: Moments | None) -> Tensor:
    if record is None:
        return F.batch_norm(features, None, None, gain, bias, training=True, eps=_EPSILON)
    # With momentum 1 the running statistics are the batch's; torch keeps the unbiased variance of them.
    mean, variance = torch.zeros_like(gain), torch.ones_like(gain)
    normalized = F.batch_norm(features, mean, variance, gain, bias, training=True, momentum=1.0, eps=_EPSILON)
    count = features.numel() // features.shape[1]
    record.append((mean, variance * ((count - 1) / count)))
    return normalized


class PeerNetwork(nn.Module):
    """The same as a module, for libraries that take modules.

    Args:
        params: where its weights start, by our names.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self._names = {name.replace(".", "_"): name for name in params}
        for name, value in params.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(value.detach().clone()))

    def forward(self, inputs: Tensor, moments: Moments | None = None, record: Moments | None = None) -> Tensor:
        """See `forward` above."""
        return forward(self.named(), inputs, moments=moments, record=record)

    def named(self) -> Params:
        """The parameters by our names, whatever tensors stand in their places now."""
        return {ours: getattr(self, theirs) for theirs, ours in self._names.items()}
