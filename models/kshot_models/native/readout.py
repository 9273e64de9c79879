"""From the last block's output to the features that a head takes, and back."""

from __future__ import annotations

import numpy as np

from kshot_models.native.jit import Array2, Array5, inlined

__all__ = ["read_out", "send_back"]


@inlined
def read_out(out: Array5, mean: bool, features: Array2) -> None:
    """Features (n, features) of the last block's output: its mean over positions, or all of it, channels first."""
    _, n, height, width, channels = out.shape
    if mean:
        features[:] = np.float32(0.0)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if mean:
                        features[i, c] += out[0, i, y, x, c] / np.float32(height * width)
                    else:
                        features[i, (c * height + y) * width + x] = out[0, i, y, x, c]


@inlined
def send_back(of_features: Array2, mean: bool, of_out: Array5) -> None:
    """The gradient of the output, of that of the features."""
    _, n, height, width, channels = of_out.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if mean:
                        of_out[0, i, y, x, c] = of_features[i, c] / np.float32(height * width)
                    else:
                        of_out[0, i, y, x, c] = of_features[i, (c * height + y) * width + x]
