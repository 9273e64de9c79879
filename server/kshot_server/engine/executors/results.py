"""From tensors to results: a task whose numbers are not finite has diverged, whatever the learner."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_server.engine.requests import Failed

__all__ = ["DIVERGED", "probabilities"]

DIVERGED = Failed(
    "adaptation_diverged",
    "the model's weights left the finite numbers while they adapted to this support set",
    action="check the images and labels of the support set, or use another model",
)


def probabilities(logits: Tensor, temperature: float) -> NDArray[np.float32] | Failed:
    """softmax(logits / temperature) of logits (q, way), the real classes alone, on the host."""
    logits = logits.to("cpu", torch.float32)
    if not logits.isfinite().all():
        return DIVERGED
    # Shifted before it is divided: a small temperature must not overflow what the learner got right.
    shifted = (logits - logits.amax(-1, keepdim=True)) / temperature
    result: NDArray[np.float32] = shifted.softmax(-1).numpy()
    return result
