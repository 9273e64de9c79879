"""The models that are ready on the executor's device, loaded when they are first needed."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from kshot_models.artifact import Artifact
from kshot_models.manifest import Manifest
from kshot_server.engine.executors.base import Executor, ServedModel
from kshot_server.engine.repository import ModelEntry

if TYPE_CHECKING:  # needs torch, which comes in with the executor
    from kshot_models.load import LoadedLearner

__all__ = ["ModelSource", "ServedModels"]


class ModelSource(Protocol):
    """Where models come from: a ModelRepository, for all that the engine needs of it."""

    def at(self, digest: str) -> ModelEntry:
        """The model of a digest; raises ModelNotFound."""
        ...

    def list(self) -> tuple[ModelEntry, ...]:
        """The newest version of every model."""
        ...

    def load(self, digest: str, *, device: str) -> LoadedLearner:
        """Build a model with torch; raises ModelNotFound or ModelError."""
        ...

    def artifact(self, digest: str) -> Artifact[Manifest]:
        """The verified files of a model, without torch; raises ModelNotFound or ModelError."""
        ...


class ServedModels:
    """Each model is loaded once, however many threads ask; loading one does not keep another waiting."""

    def __init__(self, source: ModelSource, executor: Executor) -> None:
        self._source = source
        self._executor = executor
        self._ready: dict[str, ServedModel] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, digest: str) -> ServedModel:
        """The model, loaded now if it was not yet.

        Raises:
            ModelNotFound: there is no such artifact (any more).
            ModelError: it cannot be built.
        """
        if (model := self._ready.get(digest)) is not None:
            return model
        with self._locks[digest]:
            if digest not in self._ready:
                self._ready[digest] = self._executor.open(self._source, digest)
            return self._ready[digest]

    def example_flops(self, op: str, digest: str) -> float:
        """What one example costs; infinite while the model is not loaded, so that its first requests ride alone."""
        model = self._ready.get(digest)
        return float("inf") if model is None else model.flops(op)

    def digests(self) -> tuple[str, ...]:
        """The models that are loaded."""
        return tuple(self._ready)
