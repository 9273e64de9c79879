"""What a lane does with a batch: get the model, compute, and come back with one result for each piece of work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kshot_server.engine.executors.base import AdaptedWeights, Executor, Queries, ServedModel
from kshot_server.engine.isolate import internal_error, one_result_each
from kshot_server.engine.repository import ModelNotFound
from kshot_server.engine.requests import Failed, Support
from kshot_server.engine.served import ServedModels
from kshot_server.engine.work import Adaptation, Prediction, Work

__all__ = ["NO_MODEL", "Computed", "compute_batch", "try_model"]

NO_MODEL = Failed("model_not_found", "no model with these bytes is served here", action="make the session anew")


@dataclass(frozen=True, eq=False)
class Computed:
    """A batch that has run: each piece of work with its result, and how long that took. One of both is empty."""

    adaptations: Sequence[tuple[Adaptation, AdaptedWeights | Failed]]
    predictions: Sequence[tuple[Prediction, NDArray[np.float32] | Failed]]
    seconds: float = 0.0

    @property
    def works(self) -> list[Work]:
        """The batch."""
        return [*(work for work, _ in self.adaptations), *(work for work, _ in self.predictions)]


def compute_batch(executor: Executor, served: ServedModels, works: Sequence[Work]) -> Computed:
    """Compute work of one bucket. Never raises an Exception."""
    model = _ready_model(served, works[0].model)
    if isinstance(model, Failed):
        return _failed_batch(works, model)
    adaptations, predictions = _split(works)
    started = time.perf_counter()
    weights = _adapt(executor, model, [work.support for work in adaptations]) if adaptations else []
    answers = _predict(executor, model, [work.queries for work in predictions]) if predictions else []
    seconds = time.perf_counter() - started
    return Computed(list(zip(adaptations, weights, strict=True)), list(zip(predictions, answers, strict=True)), seconds)


def _failed_batch(works: Sequence[Work], failed: Failed) -> Computed:
    """A batch that could not be run at all."""
    adaptations, predictions = _split(works)
    return Computed([(work, failed) for work in adaptations], [(work, failed) for work in predictions])


def try_model(executor: Executor, served: ServedModels, digest: str) -> Failed | None:
    """Take a model through its first adaptation and prediction, on noise; why that failed, if it did."""
    model = _ready_model(served, digest)
    if isinstance(model, Failed):
        return model
    spec = model.manifest.input
    shape = (2, spec.height, spec.width, spec.channels)
    noise = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    (weights,) = _adapt(executor, model, [Support(noise, np.arange(2), 2)])
    if isinstance(weights, Failed):
        return weights
    (answer,) = _predict(executor, model, [Queries(weights, noise[:1])])
    return answer if isinstance(answer, Failed) else None


def _adapt(executor: Executor, model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
    return one_result_each(supports, lambda some: executor.adapt(model, some), what=f"adapt of {_named(model)}")


def _predict(executor: Executor, model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32] | Failed]:
    return one_result_each(batch, lambda some: executor.predict(model, some), what=f"predict of {_named(model)}")


def _ready_model(served: ServedModels, digest: str) -> ServedModel | Failed:
    try:
        return served.get(digest)
    except ModelNotFound:
        return NO_MODEL
    except Exception as error:  # noqa: BLE001 - a model that cannot be loaded must not take the lane with it
        return replace(internal_error(f"loading model {digest}", error), detail="the model cannot be loaded")


def _split(works: Sequence[Work]) -> tuple[list[Adaptation], list[Prediction]]:
    adaptations = [work for work in works if isinstance(work, Adaptation)]
    return adaptations, [work for work in works if isinstance(work, Prediction)]


def _named(model: ServedModel) -> str:
    return f"{model.manifest.name}@{model.manifest.version}"
