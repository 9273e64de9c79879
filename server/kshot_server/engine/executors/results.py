"""From logits to results: a task whose numbers are not finite has diverged, whatever the learner. No torch here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kshot_server.engine.requests import Failed

__all__ = ["DIVERGED", "probabilities", "probabilities_of_each"]

DIVERGED = Failed(
    "adaptation_diverged",
    "the model's weights left the finite numbers while they adapted to this support set",
    action="check the images and labels of the support set, or use another model",
)


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32] | Failed:
    """softmax(logits / temperature) of logits (q, way), the real classes alone."""
    if not np.isfinite(logits).all():
        return DIVERGED
    with np.errstate(over="ignore"):  # a class that is that far behind has probability 0
        # Shifted before it is divided: a small temperature must not overflow what the learner got right.
        shifted = (logits - logits.max(-1, keepdims=True)) / np.float32(temperature)
    unnormalised = np.exp(shifted)
    result: NDArray[np.float32] = unnormalised / unnormalised.sum(-1, keepdims=True)
    return result


def probabilities_of_each(
    logits: Sequence[NDArray[np.float32]], ways: Sequence[int], temperature: float
) -> list[NDArray[np.float32] | Failed]:
    """`probabilities` of each entry, whose first `way` classes are real; many of one way cost as much as one."""
    logits = [each[:, :way] for each, way in zip(logits, ways, strict=True)]
    if len(set(ways)) == 1:
        together = probabilities(np.concatenate(logits), temperature)
        if not isinstance(together, Failed):
            ends = itertools.accumulate(len(each) for each in logits)
            return [together[end - len(each) : end] for each, end in zip(logits, ends, strict=True)]
    return [probabilities(each, temperature) for each in logits]
