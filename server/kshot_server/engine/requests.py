"""What goes into the engine and what comes out: plain frozen values that can be pickled and need numpy alone.

    AdaptRequest     -> Adapted | Failed
    ClassifyRequest  -> Classified | NeedsSupport | Failed

A request names its model by digest and its session by id, and carries all that the work needs. Every request gets
exactly one outcome; an outcome is data, never an exception, so nothing that happens to one request can reach another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AdaptRequest",
    "Adapted",
    "Classified",
    "ClassifyRequest",
    "Failed",
    "NeedsSupport",
    "Outcome",
    "Request",
    "Support",
    "Timings",
]


@dataclass(frozen=True, eq=False)
class Support:
    """A labelled support set in its canonical order; the engine adapts it as it stands."""

    inputs: NDArray[np.uint8]  # (n, height, width, channels)
    targets: NDArray[np.int64]  # (n,) class indices below `way`
    way: int


@dataclass(frozen=True, eq=False)
class AdaptRequest:
    """Adapt a model to a support set and keep the weights as a session."""

    model: str  # digest of the artifact
    session: str
    support: Support
    deadline: float  # unix seconds; work that has not begun by then is dropped


@dataclass(frozen=True, eq=False)
class ClassifyRequest:
    """Classify queries with a session's weights.

    Without `support`, weights that are not in the cache are answered `NeedsSupport`; with it they are made (again),
    cached and used.
    """

    model: str  # digest of the artifact
    session: str
    queries: NDArray[np.uint8]  # (q, height, width, channels)
    support: Support | None
    deadline: float  # unix seconds; work that has not begun by then is dropped


Request: TypeAlias = AdaptRequest | ClassifyRequest


@dataclass(frozen=True)
class Timings:
    """Where a request's time went. `adapt_ms` and `predict_ms` are those of its batch, 0 where it needed none."""

    queue_ms: float
    adapt_ms: float = 0.0
    predict_ms: float = 0.0
    batch_size: int = 0  # requests in that batch; of the prediction where there was one; 0 where nothing was computed


@dataclass(frozen=True)
class Adapted:
    """The session's weights are made, or were there already: then nothing was computed and no batch was needed."""

    timings: Timings


@dataclass(frozen=True, eq=False)
class Classified:
    """Probabilities of the calibrated softmax over the session's classes."""

    probabilities: NDArray[np.float32]  # (q, way)
    timings: Timings
    cache: Literal["device", "recomputed"]


@dataclass(frozen=True)
class NeedsSupport:
    """The session's weights are not here: send the request again with its support set."""


@dataclass(frozen=True)
class Failed:
    """Why there is no answer. No field ever holds what a client sent.

    Codes: adaptation_diverged, class_without_examples, deadline_exceeded, draining, empty_queries, empty_support,
    engine_unavailable, internal_error, invalid_targets, invalid_tensor, model_not_found, overloaded, single_class,
    too_many_classes, too_many_examples, too_many_queries. (`cancelled` is counted, but nobody is left to receive it.)
    """

    code: str
    detail: str
    expected: Any = None
    received: Any = None
    action: str | None = None
    incident: str | None = None  # of an internal error: names its line in the log


Outcome: TypeAlias = Adapted | Classified | NeedsSupport | Failed
