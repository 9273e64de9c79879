"""Feature normalization, written from primitives.

F.batch_norm and nn.LayerNorm are not used: under vmap their second-order gradients are silently wrong when the gain
adapts (their batching rule builds the gradient of the gain from saved statistics that carry no history). In single
precision Conv4's norms are part of its blocks (batched/normalization.py), and equal these.

    mode           moments of a support pass        moments of a query pass
    support        the support set's own            those of the support set, at the final fast weights
    transductive   the support set's own            the query batch's own: the papers' protocol, leaks between queries
    per_step       the support set's own            running ones, counted in training after each inner step (MAML++)
    population     those of all training images     the same (population.py), for learners without inner steps
    group          each example's own, per group    the same
    none           no normalization                 the same

All moments are weighted by the examples' weights, so padding never changes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kshot_models.manifest import NormMode
from kshot_models.types import Params

__all__ = ["NormPass", "group_normalize", "normalize", "weighted_moments"]


def weighted_moments(inputs: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel.

    Args:
        inputs: (n, channels, *space).
        weights: (n,), or None where all count alike.

    Returns:
        mean (channels,) and variance (channels,).
    """
    if weights is None:
        axes = (0, *range(2, inputs.ndim))
        mean = inputs.mean(axes)
        return mean, (inputs - _per_channel(mean, inputs.ndim)).square().mean(axes)
    share = weights / weights.sum().clamp_min(1)
    mean = share @ _space_mean(inputs)
    return mean, share @ _space_mean((inputs - _per_channel(mean, inputs.ndim)).square())


def normalize(inputs: Tensor, mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    """gain * (inputs - mean) / sqrt(variance + epsilon) + bias; all are (channels,), inputs (n, channels, *space)."""
    scale = gain * torch.rsqrt(variance + epsilon)
    shift = bias - mean * scale
    return torch.addcmul(_per_channel(shift, inputs.ndim), inputs, _per_channel(scale, inputs.ndim))


def group_normalize(inputs: Tensor, gain: Tensor, bias: Tensor, *, groups: int, epsilon: float) -> Tensor:
    """Normalize each example over its space and the channels of each group (Wu and He, 2018, arXiv:1803.08494)."""
    grouped = inputs.reshape(inputs.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + epsilon)
    return unit.reshape(inputs.shape) * _per_channel(gain, inputs.ndim) + _per_channel(bias, inputs.ndim)


@dataclass
class NormPass:
    """One pass through a network's norms: takes the moments that are given, or computes and records them.

    A network makes one per call and asks it, layer by layer; it never outlives the call.
    """

    mode: NormMode
    weights: Tensor | None  # (n,) of the batch
    given: Params | None  # moments to use, by layer
    epsilon: float
    groups: int
    used: Params = field(default_factory=dict)

    def __call__(self, name: str, inputs: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Normalize `inputs` (n, channels, *space) for the layer `name`."""
        if self.mode == "none":
            return inputs * _per_channel(gain, inputs.ndim) + _per_channel(bias, inputs.ndim)
        if self.mode == "group":
            return group_normalize(inputs, gain, bias, groups=self.groups, epsilon=self.epsilon)
        mean, variance = self.moments(name) or weighted_moments(inputs, self.weights)
        self.record(name, mean, variance)
        return normalize(inputs, mean, variance, gain, bias, epsilon=self.epsilon)

    def takes_moments(self) -> bool:
        """Whether the norms normalize by moments of examples, their own or given ones."""
        return self.mode not in {"none", "group"}

    def share(self, inputs: Tensor) -> Tensor:
        """The share of each example of a batch in its moments: (n,), with sum 1, or 0 where all are padding."""
        if self.weights is None:
            return inputs.new_full((len(inputs),), 1 / len(inputs))
        return self.weights / self.weights.sum().clamp_min(1)

    def moments(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The mean and variance that were given for the layer `name`; None if it takes its own."""
        return None if self.given is None else (self.given[f"{name}.mean"], self.given[f"{name}.variance"])

    def record(self, name: str, mean: Tensor, variance: Tensor) -> None:
        """Remember which moments the layer `name` used."""
        self.used |= {f"{name}.mean": mean, f"{name}.variance": variance}


def _space_mean(inputs: Tensor) -> Tensor:
    if inputs.ndim == 2:
        return inputs
    # Not mean(): its backward pass writes out a tensor in another memory layout than channels-last inputs have.
    return inputs.sum(tuple(range(2, inputs.ndim))) / inputs[0, 0].numel()


def _per_channel(values: Tensor, ndim: int) -> Tensor:
    return values.reshape(1, -1, *(1,) * (ndim - 2))
