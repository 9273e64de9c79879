"""The CPU: tasks one by one, each on one core, as many side by side as there are cores.

Two tasks on two cores take less time than the same two one after the other on both cores, and batching them into one
tensor gains nothing, so nothing is padded and nobody waits for company. Where many wait anyway, a lane takes some: what
is done for each before and after its steps is done for one after the other.

Learners that kshot's kernels compute alone (native_learner.py) have nothing of torch about them: what it does around an
adaptation's kernels takes an eighth of the time. The others' tensors are channels-last, which saves the max-pool its
strided reads.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.costs import measure_costs
from kshot_models.load import LoadedLearner, meta_to_arrays
from kshot_models.manifest import Limits
from kshot_models.native_learner import NativeLearner, load_kernels
from kshot_models.pixels import at_levels, pixel_levels
from kshot_models.serving import computed_by_torch, predict_each, prepared, serving
from kshot_models.sharing import Lend, helped_by, idle_threads
from kshot_models.tree import meta_map
from kshot_models.types import Examples, Params, Predictor
from kshot_server.engine.executors.base import AdaptedWeights, BatchLimit, Place, Queries, ServedModel
from kshot_server.engine.executors.held import held
from kshot_server.engine.executors.native_tasks import adapt_natively, predict_natively
from kshot_server.engine.executors.queries import QUERIES_TO_SHARE, answered_in_parts, batch_in_parts
from kshot_server.engine.executors.results import DIVERGED, probabilities_of_each
from kshot_server.engine.requests import Failed, Support

if TYPE_CHECKING:
    from kshot_server.engine.served import ModelSource

__all__ = ["CpuExecutor", "Ready", "all_finite"]

# Some milliseconds of one core: dozens of single queries. Of adaptations some tenths of a second: what Python does for
# each takes half of the time where it is not forgotten between them. But the first of a batch is answered with the
# last, so they ride together only where many wait.
_PREDICTING = BatchLimit(2e8)
_ADAPTING = BatchLimit(8e9, share=0.5)
_FLOPS_TO_SHARE = 2e9  # of what torch computes: some tens of milliseconds of one core


class Ready(NamedTuple):
    """A session's task parameters, and the function that predicts with them."""

    params: Params
    predictor: Predictor


@dataclass(frozen=True, eq=False)
class _CpuModel(ServedModel):
    levels: NDArray[np.float32]  # what each value of a pixel becomes, (channels, 256)


class _Lane(threading.local):
    lend: Lend | None = None  # of this thread, if it is a lane
    others: int = 1  # threads of torch that other threads have


class CpuExecutor:
    """See Executor.

    Args:
        threads: tasks side by side; 0 is one for each core that this process may use.
    """

    device = "cpu"
    waits_pay = False

    def __init__(self, *, threads: int = 0) -> None:
        self.lanes = threads or len(os.sched_getaffinity(0))
        self.adapting, self.predicting = _ADAPTING, _PREDICTING
        self._lane = _Lane()

    def enter_lane(self, lend: Lend) -> None:
        """Give the calling thread one core, and leave all other threads of the process as they are.

        Denormal numbers count as 0 on it: networks make them of blank images, and are many times slower on them.
        """
        self._lane.lend, self._lane.others = lend, torch.get_num_threads()
        self._take_threads(1)
        torch.set_flush_denormal(True)

    def prepare(self, loaded: LoadedLearner) -> ServedModel:
        """Make a loaded learner ready: as it is, or the kernels that compute all of it."""
        costs = measure_costs(loaded, self.device)
        manifest, meta = loaded.manifest, loaded.meta_params
        arrays = {name: tensor.numpy() for name, tensor in meta_to_arrays(meta).items()}
        native = NativeLearner.of(manifest.learner, manifest.input, arrays)
        if native is not None:
            load_kernels()
        return _CpuModel(
            native or loaded.learner,
            meta_map(_channels_last, meta) if native is None else meta,  # filters too: so blocks multiply them
            manifest,
            loaded.digest,
            costs.fixed_way,
            costs.adapt,
            costs.predict,
            pixel_levels(manifest.input),
        )

    def open(self, models: ModelSource, digest: str) -> ServedModel:
        """See Executor."""
        return self.prepare(models.load(digest, device=self.device))

    def place_support(self, support: Support, limits: Limits) -> Place:
        """One bucket for all sizes, as nothing is padded."""
        del limits
        return Place(None, len(support.inputs))

    def place_queries(self, queries: Queries, limits: Limits) -> Place:
        """See place_support."""
        del limits
        return Place(None, len(queries.inputs))

    @serving()
    def adapt(self, model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
        """See Executor."""
        with self._helped(model, sum(len(support.targets) for support in supports) * model.adapt_flops):
            if isinstance(model.learner, NativeLearner):
                return adapt_natively(model, supports)
            return [_adapt(model, support) for support in supports]

    @serving()
    def predict(self, model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32] | Failed]:
        """See Executor."""
        count = sum(len(queries.inputs) for queries in batch)
        # More than a few are computed in parts, each by one lane.
        with self._helped(model, count * model.predict_flops if count < 2 * QUERIES_TO_SHARE else 0.0):
            if isinstance(model.learner, NativeLearner):
                logits = predict_natively(model, batch)
            else:
                logits = [each for part in batch_in_parts(batch) for each in _predict(model, part)]
        ways = [queries.weights.way for queries in batch]
        return probabilities_of_each(logits, ways, model.manifest.calibration.temperature)

    @contextmanager
    def _helped(self, model: ServedModel, flops: float) -> Iterator[None]:
        """Idle lanes help within: kernels ask them, and what torch computes has their cores."""
        with helped_by(self._lane.lend):
            dear = flops >= _FLOPS_TO_SHARE and computed_by_torch(model.learner)
            threads = 1 + idle_threads(self.lanes - 1) if dear else 1
            if threads == 1:
                yield
                return
            self._take_threads(threads)
            try:
                yield
            finally:
                self._take_threads(1)

    def _take_threads(self, count: int) -> None:
        torch.set_num_threads(count)
        # The call binds this thread, but is also what threads to come start from: another one takes that back.
        restore = threading.Thread(target=torch.set_num_threads, args=(self._lane.others,))
        restore.start()
        restore.join()


def _adapt(model: ServedModel, support: Support) -> AdaptedWeights | Failed:
    count = len(support.targets)
    inputs = _to_inputs(support.inputs, model)
    examples = Examples(inputs, torch.tensor(support.targets), torch.ones(count))
    task = held(model.learner.adapt(model.meta_params, examples, way=model.fixed_way or support.way))
    if not all_finite(task.memory.view(torch.float32)):
        return DIVERGED
    ready = Ready(task.values, prepared(model.learner, model.meta_params, task.values))
    return AdaptedWeights(ready, support.way, None, task.memory.nbytes)


def all_finite(numbers: Tensor) -> bool:
    """As `isfinite().all()`, and sooner: a sum that is finite has no other terms."""
    return math.isfinite(float(numbers.sum())) or bool(numbers.isfinite().all())


def _predict(model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32]]:
    """Logits of each task."""
    predictors = [cast("Ready", queries.weights.values).predictor for queries in batch]
    pixels = [queries.inputs for queries in batch]
    # Only transductive norms look from one row to another; the others' lists are cut to bound the memory, and for idle
    # lanes to have some.
    if len(batch) == 1 and model.manifest.learner.norm != "transductive":

        @serving()  # on an idle lane too
        def answer(some: NDArray[np.uint8]) -> NDArray[np.float32]:
            return predictors[0](_to_inputs(some, model)).numpy()

        return [answered_in_parts(answer, pixels[0])]
    inputs = _to_inputs(pixels[0] if len(pixels) == 1 else np.concatenate(pixels), model)
    return [logits.numpy() for logits in predict_each(predictors, inputs, [len(each) for each in pixels])]


def _to_inputs(pixels: NDArray[np.uint8], model: ServedModel) -> Tensor:
    """As `normalise`, and laid out channels-last."""
    return torch.from_numpy(at_levels(pixels, cast("_CpuModel", model).levels)).movedim(-1, -3)


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
