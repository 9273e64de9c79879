"""A linear classifier under cross-entropy on a CPU: the loss and its gradients in one call."""

from __future__ import annotations

import numpy as np

from kshot_models.native.jit import Array1, Array2, Indices, compiled, inlined

__all__ = ["head_gradients", "head_second_gradients", "loss_and_gradients"]


@compiled
def loss_and_gradients(
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    of_features: Array2,
    of_weight: Array2,
    of_bias: Array1,
    loss: Array1,
) -> None:
    """`head_gradients`, and the loss."""
    loss[0] = head_gradients(features, weight, bias, targets, share, present, of_features, of_weight, of_bias)


@inlined
def head_gradients(
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    of_features: Array2,
    of_weight: Array2,
    of_bias: Array1,
) -> float:
    """See `linear_cross_entropy`; the loss is returned."""
    way, size = weight.shape
    of_features[:] = np.float32(0.0)
    of_weight[:] = np.float32(0.0)
    of_bias[:] = np.float32(0.0)
    logits = np.empty(way, np.float32)
    total = 0.0
    for i in range(len(features)):
        if share[i] == 0:
            continue
        most = np.float32(-np.inf)
        for k in range(way):
            value = bias[k]
            for c in range(size):
                value += weight[k, c] * features[i, c]
            logits[k] = value
            if present[k] != 0 and not value <= most:  # what is not a number is the largest
                most = value
        mass = 0.0
        for k in range(way):
            mass += np.exp(np.float64(logits[k] - most)) if present[k] != 0 else 0.0
        log_mass = np.log(mass)
        total -= share[i] * (logits[targets[i]] - most - log_mass)
        for k in range(way):
            if present[k] != 0:
                probability = np.exp(np.float64(logits[k] - most) - log_mass)
                change = np.float32(share[i] * (probability - (1.0 if k == targets[i] else 0.0)))
                of_bias[k] += change
                for c in range(size):
                    of_weight[k, c] += change * features[i, c]
                for c in range(size):
                    of_features[i, c] += change * weight[k, c]
    return total


@inlined
def head_second_gradients(
    features: Array2,
    weight: Array2,
    bias: Array1,
    targets: Indices,
    share: Array1,
    present: Array1,
    changes: tuple[Array2, Array2, Array1],
    of_features: Array2,
    of_weight: Array2,
    of_bias: Array1,
) -> None:
    """`head_gradients` differentiated: `changes` are the gradients at those of features, weight and bias."""
    at_features, at_weight, at_bias = changes
    way, size = weight.shape
    of_features[:] = np.float32(0.0)
    of_weight[:] = np.float32(0.0)
    of_bias[:] = np.float32(0.0)
    logits, at_logits = np.empty(way, np.float32), np.empty(way, np.float32)
    for i in range(len(features)):
        if share[i] == 0:
            continue
        most = np.float32(-np.inf)
        for k in range(way):
            value, change = bias[k], at_bias[k]
            for c in range(size):
                value += weight[k, c] * features[i, c]
                change += at_weight[k, c] * features[i, c] + weight[k, c] * at_features[i, c]
            logits[k], at_logits[k] = value, change
            if present[k] != 0 and not value <= most:  # what is not a number is the largest
                most = value
        mass, mean = 0.0, 0.0
        for k in range(way):
            each = np.exp(np.float64(logits[k] - most)) if present[k] != 0 else 0.0
            mass += each
            mean += each * at_logits[k]
        for k in range(way):
            if present[k] != 0:
                probability = np.exp(np.float64(logits[k] - most)) / mass
                first = np.float32(share[i] * (probability - (1.0 if k == targets[i] else 0.0)))
                second = np.float32(share[i] * probability * (at_logits[k] - mean / mass))
                of_bias[k] += second
                for c in range(size):
                    of_weight[k, c] += first * at_features[i, c] + second * features[i, c]
                for c in range(size):
                    of_features[i, c] += first * at_weight[k, c] + second * weight[k, c]
