"""ONNX Runtime: the graphs that `kshot export --onnx` wrote, in a process without torch.

Of an artifact with a frozen encoder, that runs first, and the graphs go on from its features. On a CPU for which
kshot's own kernels have been compiled (`python -m kshot_models.native`), these take the place of the graphs, for the
learners that they compute (kernels.py): a graph is made of general operations, and takes several times as long. ONNX
Runtime is not even loaded then.

Tasks run one by one, on a CPU as many side by side as there are cores, each on one core: sizes are open in the graphs,
so nothing is padded and nobody waits for company. A batch of tasks cannot be one run: a convolution's number of groups,
which would be that of the tasks, is no size of a tensor but part of the graph.

A session's parameters are kept as one row on the host: one block of memory that comes and goes as a whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot_models.encoder import Encoder
from kshot_models.manifest import ENCODER_NETWORK, Limits
from kshot_models.onnx_files import ADAPT, CLASSES, FEATURES, FIXED_WAY, PIXELS, PREDICT, TARGETS, WEIGHTS
from kshot_models.sharing import Lend, helped_by
from kshot_server.engine.executors.base import AdaptedWeights, BatchLimit, Place, Queries, ServedModel
from kshot_server.engine.executors.kernels import Kernels
from kshot_server.engine.executors.native_tasks import adapt_natively, predict_natively
from kshot_server.engine.executors.onnx_graph import Arrays, Graph
from kshot_server.engine.executors.results import DIVERGED, probabilities, probabilities_of_each
from kshot_server.engine.requests import Failed, Support

if TYPE_CHECKING:
    from kshot_server.engine.served import ModelSource

__all__ = ["OnnxExecutor"]

_BATCH_FLOPS = 2e8  # as the CPU executor of torch: some milliseconds of one core
_QUERIES_AT_ONCE = 128


class _Graphs(NamedTuple):
    """What computes a model."""

    adapt: Graph
    predict: Graph
    encoder: Encoder | None

    def given(self, pixels: NDArray[np.uint8]) -> Arrays:
        """What the graphs take of images: their pixels, or their features."""
        if self.encoder is None:
            return {PIXELS: np.ascontiguousarray(pixels)}
        return {FEATURES: self.encoder.of_pixels(pixels)}


class OnnxExecutor:
    """See Executor.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; the latter with the onnxruntime-gpu package.
        threads: tasks side by side on a CPU; 0 is one for each core that this process may use.
        kernels: whether kshot's own kernels may take the place of graphs.
    """

    waits_pay = False

    def __init__(self, device: str = "cpu", *, threads: int = 0, kernels: bool = True) -> None:
        self.device = device
        self.kernels = Kernels() if kernels and device == "cpu" else None
        self._lane = _Lane()
        self.adapting = self.predicting = BatchLimit(_BATCH_FLOPS)
        self.lanes = (threads or len(os.sched_getaffinity(0))) if device == "cpu" else 1

    def enter_lane(self, lend: Lend) -> None:
        """By `lend` kernels have idle lanes help; a graph runs on the thread that asks for it."""
        self._lane.lend, self._lane.flushes = lend, False

    def open(self, models: ModelSource, digest: str) -> ServedModel:
        """See Executor."""
        artifact = models.artifact(digest)
        arrays = {name: np.asarray(array, np.float32) for name, array in artifact.arrays.items()}
        manifest = artifact.manifest
        native = None if self.kernels is None else self.kernels.learner(manifest, arrays)
        if native is not None:
            fixed_way = len(arrays["init/head.weight"]) if manifest.learner.head.type == "linear" else None
            return ServedModel(native, arrays, manifest, artifact.digest, fixed_way, *native.flops(manifest.input))
        adapt, predict = (Graph.read(artifact, name, self.device) for name in (ADAPT, PREDICT))
        embeds = manifest.learner.network.type == ENCODER_NETWORK
        way = adapt.about.get(FIXED_WAY)
        return ServedModel(
            learner=_Graphs(adapt, predict, Encoder.read(artifact, self.device) if embeds else None),
            meta_params=arrays,
            manifest=manifest,
            digest=artifact.digest,
            fixed_way=int(way) if way else None,
            adapt_flops=adapt.flops,
            predict_flops=predict.flops,
        )

    def place_support(self, support: Support, limits: Limits) -> Place:
        """One bucket for all sizes, as nothing is padded."""
        del limits
        return Place(None, len(support.inputs))

    def place_queries(self, queries: Queries, limits: Limits) -> Place:
        """See place_support."""
        del limits
        return Place(None, len(queries.inputs))

    def adapt(self, model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
        """See Executor."""
        if isinstance(model.learner, _Graphs):
            return [_adapt(model, support) for support in supports]
        with self._by_kernels():
            return adapt_natively(model, supports)

    def predict(self, model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32] | Failed]:
        """See Executor."""
        if isinstance(model.learner, _Graphs):
            return [_predict(model, queries) for queries in batch]
        with self._by_kernels():
            logits = predict_natively(model, batch)
        ways = [queries.weights.way for queries in batch]
        return probabilities_of_each(logits, ways, model.manifest.calibration.temperature)

    @contextmanager
    def _by_kernels(self) -> Iterator[None]:
        """Idle lanes help within; and if this is a lane, numbers too small for speed count as 0 from now on."""
        if self._lane.flushes is False and self.kernels is not None:
            self.kernels.flush_denormals()
            self._lane.flushes = True
        with helped_by(self._lane.lend):
            yield


class _Lane(threading.local):
    lend: Lend | None = None  # of this thread, if it is a lane
    flushes: bool | None = None  # whether denormals count as 0 on it, if it is one


@dataclass(frozen=True, eq=False)
class _Row:
    """Task parameters, all in one row, and how to take them apart again."""

    values: NDArray[np.float32]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, names: Sequence[str], arrays: Sequence[NDArray[np.float32]]) -> _Row:
        shapes = tuple((name, array.shape) for name, array in zip(names, arrays, strict=True))
        return cls(np.concatenate([array.reshape(-1) for array in arrays]), shapes)

    def arrays(self) -> Arrays:
        """The parameters by name; views."""
        parts, start = {}, 0
        for name, shape in self.shapes:
            end = start + int(np.prod(shape))
            parts[name] = self.values[start:end].reshape(shape)
            start = end
        return parts


def _adapt(model: ServedModel, support: Support) -> AdaptedWeights | Failed:
    graphs: _Graphs = model.learner
    given: Arrays = {
        **graphs.given(support.inputs),
        TARGETS: np.ascontiguousarray(support.targets),
        WEIGHTS: np.ones(len(support.targets), np.float32),
        CLASSES: np.arange(model.fixed_way or support.way),
    }
    row = _Row.of(graphs.adapt.outputs, graphs.adapt.run(given, model.meta_params))
    if not np.isfinite(row.values).all():
        return DIVERGED
    return AdaptedWeights(row, support.way, None, row.values.nbytes)


def _predict(model: ServedModel, queries: Queries) -> NDArray[np.float32] | Failed:
    graphs: _Graphs = model.learner
    task, way = queries.weights.values.arrays(), queries.weights.way
    # Only transductive norms look from one row to another; the others' lists are cut to bound the memory.
    at_once = len(queries.inputs) if model.manifest.learner.norm == "transductive" else _QUERIES_AT_ONCE
    logits = [
        graphs.predict.run(graphs.given(queries.inputs[start : start + at_once]), task, model.meta_params)[0]
        for start in range(0, len(queries.inputs), at_once)
    ]
    return probabilities(np.concatenate(logits)[:, :way], model.manifest.calibration.temperature)
