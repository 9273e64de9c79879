"""The GPU: many tasks as one batch, vmapped over the learner that one task uses.

Tasks of one bucket are padded to one size: support and query rows with weight 0, classes without examples. Learners
see to it that padding changes nothing. Batches are filled up to certain numbers of tasks too, so that a batch of a
known size can be played from a CUDA graph (graphs.py). A session's parameters are kept as one row, so that a batch of
sessions is gathered by one copy and a row can be freed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from kshot_models.costs import measure_costs
from kshot_models.learners import FrozenLearner
from kshot_models.load import LoadedLearner, normalise_by, scale_of
from kshot_models.manifest import InputSpec, Limits
from kshot_models.sharing import Lend
from kshot_models.tree import meta_map
from kshot_models.types import Examples, Params
from kshot_server.engine.executors.base import AdaptedWeights, BatchLimit, Place, Queries, ServedModel
from kshot_server.engine.executors.graphs import Graphs
from kshot_server.engine.executors.results import DIVERGED, probabilities
from kshot_server.engine.requests import Failed, Support

if TYPE_CHECKING:
    from kshot_server.engine.served import ModelSource

__all__ = ["CudaExecutor", "padded_size"]

_MOST_TASKS = 1 << 16  # no limit: it is _BATCH_FLOPS that bounds a batch
_BATCH_FLOPS = 5e11  # tens of milliseconds of a large GPU: some hundred adaptations

Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each parameter, in the order of the row


class CudaExecutor:
    """See Executor. One lane, as one batch fills the device.

    Args:
        device: `cuda` or `cuda:N`; on `cpu` it computes the same, which is how tests compare it.
    """

    lanes = 1
    waits_pay = True

    def __init__(self, device: str = "cuda") -> None:
        self.device = device
        self.adapting = self.predicting = BatchLimit(_BATCH_FLOPS)
        self._graphs = Graphs(device)
        self._scales: dict[InputSpec, tuple[Tensor, Tensor]] = {}

    def enter_lane(self, lend: Lend) -> None:
        """Nothing to do: kernels are launched from any thread."""
        del lend

    def prepare(self, loaded: LoadedLearner) -> ServedModel:
        """Make a loaded learner ready."""
        costs = measure_costs(loaded, self.device)
        meta = meta_map(lambda values: values.to(self.device), loaded.meta_params)
        return ServedModel(
            loaded.learner, meta, loaded.manifest, loaded.digest, costs.fixed_way, costs.adapt, costs.predict
        )

    def open(self, models: ModelSource, digest: str) -> ServedModel:
        """See Executor."""
        return self.prepare(models.load(digest, device=self.device))

    def place_support(self, support: Support, limits: Limits) -> Place:
        """Tasks whose way and size round up to the same wait together."""
        examples = padded_size(len(support.inputs), limits.max_support)
        return Place((padded_size(support.way, limits.max_way), examples), examples)

    def place_queries(self, queries: Queries, limits: Limits) -> Place:
        """Sessions whose parameters have the same shapes wait together, if their queries round up to one number."""
        examples = padded_size(len(queries.inputs), limits.max_queries)
        return Place((queries.weights.layout, examples), examples)

    @torch.no_grad()
    def adapt(self, model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
        """See Executor."""
        limits = model.manifest.limits
        way = model.fixed_way or padded_size(max(support.way for support in supports), limits.max_way)
        rows = padded_size(max(len(support.inputs) for support in supports), limits.max_support)
        tasks = padded_size(len(supports), _MOST_TASKS)

        scale = self._scale(model)

        def adapt_one(pixels: Tensor, targets: Tensor, weights: Tensor) -> Params:
            examples = Examples(normalise_by(pixels, *scale), targets, weights)
            task: Params = model.learner.adapt(model.meta_params, examples, way=way)
            return task

        def adapt_all(pixels: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Layout]:
            task = vmap(adapt_one)(pixels, targets, weights)
            layout = tuple((name, tuple(values.shape[1:])) for name, values in task.items())
            flat = torch.cat([values.reshape(tasks, -1) for values in task.values()], dim=1)
            return flat, flat.isfinite().all(1), layout  # (tasks, all parameters of a task), (tasks,)

        given = (
            self._padded([support.inputs for support in supports], tasks, rows),
            self._padded([support.targets for support in supports], tasks, rows),
            self._padded([np.ones(len(support.targets), np.float32) for support in supports], tasks, rows),
        )
        key = (model.digest, "adapt", way, *given[0].shape)
        flat, finite, layout = self._graphs.run(key, adapt_all, given, waits_for_device=_waits(model))
        # Rows are cloned: a view would keep the memory of the whole batch for as long as one session of it is cached.
        return [
            AdaptedWeights(row.clone(), support.way, layout, row.nbytes) if fine else DIVERGED
            for row, support, fine in zip(flat, supports, finite.tolist(), strict=False)
        ]

    @torch.no_grad()
    def predict(self, model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32] | Failed]:
        """See Executor."""
        layout = cast("Layout", batch[0].weights.layout)  # that of all, or they would not share a bucket
        rows = padded_size(max(len(queries.inputs) for queries in batch), model.manifest.limits.max_queries)
        tasks = padded_size(len(batch), _MOST_TASKS)

        scale = self._scale(model)

        def predict_one(task: Params, pixels: Tensor, weights: Tensor) -> Tensor:
            inputs = normalise_by(pixels, *scale)
            logits: Tensor = model.learner.predict(model.meta_params, task, inputs, weights)
            return logits

        def predict_all(flat: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
            return vmap(predict_one)(_unflatten(flat, layout), pixels, weights).float()

        fillers = [batch[0].weights.values] * (tasks - len(batch))
        given = (
            torch.stack([*(queries.weights.values for queries in batch), *fillers]),
            self._padded([queries.inputs for queries in batch], tasks, rows),
            self._padded([np.ones(len(queries.inputs), np.float32) for queries in batch], tasks, rows),
        )
        key = (model.digest, "predict", layout, *given[1].shape)
        logits = self._graphs.run(key, predict_all, given, waits_for_device=_waits(model))
        temperature = model.manifest.calibration.temperature
        return [
            probabilities(one[: len(queries.inputs), : queries.weights.way], temperature)
            for one, queries in zip(logits.cpu().numpy(), batch, strict=False)  # (tasks, rows, padded way)
        ]

    def _scale(self, model: ServedModel) -> tuple[Tensor, Tensor]:
        """Of the model's inputs; copied to the device once, as a graph may not."""
        spec = model.manifest.input
        if spec not in self._scales:
            self._scales[spec] = scale_of(spec, self.device)
        return self._scales[spec]

    def _padded(self, arrays: Sequence[NDArray[np.generic]], tasks: int, rows: int) -> Tensor:
        """Arrays (n, ...) of different n -> one (tasks, rows, ...), zero behind each, where a GPU can fetch it."""
        shape, dtype = (tasks, rows, *arrays[0].shape[1:]), torch.from_numpy(arrays[0][:0]).dtype
        padded = torch.zeros(shape, dtype=dtype, pin_memory=self.device != "cpu")
        for to, array in zip(padded.numpy(), arrays, strict=False):
            to[: len(array)] = array
        return padded


def _waits(model: ServedModel) -> bool:
    """Whether the host has a part in it: a frozen encoder is run by ONNX Runtime on arrays."""
    return isinstance(model.learner, FrozenLearner)


def padded_size(size: int, limit: int) -> int:
    """`size` rounded up to four steps an octave (8, 10, 12, 14, 16, 20, ...), at most `limit`: at most a quarter more.

    Every size up to 8 stays as it is, so the smallest and commonest episodes pay nothing.
    """
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return min(-(-size // step) * step, limit)


def _unflatten(flat: Tensor, layout: Layout) -> Params:
    """The inverse of what `adapt` does: rows (tasks, parameters) -> tensors (tasks, *shape) by name."""
    sizes = [int(np.prod(shape)) for _, shape in layout]
    parts = torch.split(flat, sizes, dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(layout, parts, strict=True)}
