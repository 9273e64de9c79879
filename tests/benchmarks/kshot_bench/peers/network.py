"""Conv4 as users of the peer libraries write it: torch's own layers, NCHW, fused batch normalization.

The mathematics is ours (convolution, batch statistics, max-pool, ReLU, linear), so answers can be compared to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own spelling

from kshot_models.types import Params

__all__ = ["Moments", "PeerNetwork", "forward"]

_EPSILON = 1e-5

Moments = list[tuple[Tensor, Tensor]]  # (mean, biased variance) of each layer


def forward(params: Params, inputs: Tensor, *, moments: Moments | None = None, record: Moments | None = None) -> Tensor:
    """Logits (n, way) of inputs (n, channels, height, width).

    Args:
        params: by our names: `body.conv1.weight`, `body.norm1.gain`, ..., `head.weight`, `head.bias`.
        inputs: the images.
        moments: normalize with these; None for the batch's own.
        record: gets the batch's own moments.
    """
    features = inputs
    for layer in range(sum(name.startswith("body.conv") for name in params)):
        features = F.conv2d(features, params[f"body.conv{layer + 1}.weight"], padding=1)
        gain, bias = params[f"body.norm{layer + 1}.gain"], params[f"body.norm{layer + 1}.bias"]
        if moments is not None:
            mean, variance = moments[layer]
            features = F.batch_norm(features, mean, variance, gain, bias, training=False, eps=_EPSILON)
        else:
            features = _batch_normalized(features, gain, bias, record)
        features = F.relu(F.max_pool2d(features, 2))
    return F.linear(features.flatten(1), params["head.weight"], params["head.bias"])


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
