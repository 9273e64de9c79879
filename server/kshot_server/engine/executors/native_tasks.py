"""What an executor does by kshot's own kernels, with torch beside them or without. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kshot_server.engine.executors.base import AdaptedWeights, Queries, ServedModel
from kshot_server.engine.executors.own_memory import own_numbers
from kshot_server.engine.executors.queries import answered_in_parts, batch_in_parts
from kshot_server.engine.executors.results import DIVERGED
from kshot_server.engine.requests import Failed, Support

if TYPE_CHECKING:  # brings in Numba
    from kshot_models.native_learner import NativeLearner, NativeTask

__all__ = ["adapt_natively", "predict_natively"]


def adapt_natively(model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
    """See Executor.adapt; of a model whose learner is a NativeLearner."""
    native: NativeLearner = model.learner
    tasks = [(each.inputs, np.asarray(each.targets, np.int64), model.fixed_way or each.way) for each in supports]
    adapted = native.adapt_each(tasks, own_numbers)
    return [
        AdaptedWeights(found, support.way, None, found.nbytes) if found.is_finite() else DIVERGED
        for found, support in zip(adapted, supports, strict=True)
    ]


def predict_natively(model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32]]:
    """Logits (q, way) of each, classes beyond the session's own among them; of such a model."""
    return [each for part in batch_in_parts(batch) for each in _predict(model.learner, part)]


def _predict(native: NativeLearner, batch: Sequence[Queries]) -> list[NDArray[np.float32]]:
    tasks: list[NativeTask] = [queries.weights.values for queries in batch]
    pixels = [queries.inputs for queries in batch]
    if len(batch) == 1:
        return [answered_in_parts(lambda some: native.predict(tasks, some, [len(some)])[0], pixels[0])]
    return native.predict(tasks, np.concatenate(pixels), [len(each) for each in pixels])
