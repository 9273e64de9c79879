"""What the scheduler needs to know of a device: how work is grouped, how much at once, and the two verbs.

The scheduler decides when and with whom a task is computed, an executor how. An executor holds no sessions and no
queue; it may be called from `lanes` threads at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kshot_models.manifest import Limits, Manifest
from kshot_models.sharing import Lend
from kshot_server.engine.requests import Failed, Support

if TYPE_CHECKING:  # which imports this file
    from kshot_server.engine.served import ModelSource

__all__ = ["AdaptedWeights", "BatchLimit", "Executor", "Place", "Queries", "ServedModel"]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A learner on an executor's device, with what one example costs it.

    `learner` and `meta_params` are in the form that the executor runs; opaque to everything else.
    """

    learner: Any
    meta_params: Any
    manifest: Manifest
    digest: str
    fixed_way: int | None  # the only way that the head answers for; None: any
    adapt_flops: float  # per support example
    predict_flops: float  # per query

    def flops(self, op: str) -> float:
        """What one example costs in `adapt` or `predict`."""
        return self.adapt_flops if op == "adapt" else self.predict_flops


@dataclass(frozen=True, eq=False)
class AdaptedWeights:
    """A session's task parameters in the form that its executor keeps them; opaque to everything else."""

    values: Any
    way: int  # classes of the session; the parameters may be padded to more
    layout: Hashable  # sessions of one model and layout can be predicted in one batch
    size_bytes: int


class Queries(NamedTuple):
    """Images to classify with a session's weights."""

    weights: AdaptedWeights
    inputs: NDArray[np.uint8]  # (q, height, width, channels)


class Place(NamedTuple):
    """Where a task waits: tasks of one bucket ride together; each costs `examples` of its model, padding included."""

    bucket: Hashable
    examples: int


class BatchLimit(NamedTuple):
    """How much is one batch, at most; there is always one task in it."""

    flops: float  # that it costs
    share: float = 1.0  # of what a lane's share of all that waits would be


class Executor(Protocol):
    """Computes batches of tasks on one device.

    A task that cannot be computed is answered `Failed`. An exception concerns the whole batch: the caller tries again
    with parts of it until the culprit is alone (`isolate.py`).
    """

    device: str
    lanes: int  # batches that may run at once, each on a thread of its own
    adapting: BatchLimit
    predicting: BatchLimit
    waits_pay: bool  # whether a batch costs less than its tasks one by one, so that waiting for company can pay

    def enter_lane(self, lend: Lend) -> None:
        """Called once by each thread that will compute; by `lend` it may have idle ones help."""
        ...

    def open(self, models: ModelSource, digest: str) -> ServedModel:
        """Make a model ready.

        Raises:
            ModelNotFound: there is no such artifact (any more).
            ModelError: it cannot be built, or not for this executor.
        """
        ...

    def place_support(self, support: Support, limits: Limits) -> Place:
        """Where an adaptation waits."""
        ...

    def place_queries(self, queries: Queries, limits: Limits) -> Place:
        """Where a prediction waits."""
        ...

    def adapt(self, model: ServedModel, supports: Sequence[Support]) -> list[AdaptedWeights | Failed]:
        """Adapt to each support set; weights that are not finite are answered `adaptation_diverged`."""
        ...

    def predict(self, model: ServedModel, batch: Sequence[Queries]) -> list[NDArray[np.float32] | Failed]:
        """Probabilities (q, way) of each; logits that are not finite are answered `adaptation_diverged`."""
        ...
