"""What a request must be before it is queued: shapes, dtypes and limits of the manifest. Costs microseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from kshot_models.manifest import InputSpec, Limits, Manifest
from kshot_server.engine.requests import AdaptRequest, Failed, Request, Support

__all__ = ["check_queries", "check_request", "check_support"]


def check_request(request: Request, manifest: Manifest) -> Failed | None:
    """Why the model of `manifest` cannot work on `request`; None if it can."""
    if isinstance(request, AdaptRequest):
        return check_support(request.support, manifest)
    problem = check_queries(request.queries, manifest)
    return problem or (check_support(request.support, manifest) if request.support is not None else None)


def check_support(support: Support, manifest: Manifest) -> Failed | None:
    """Why `support` cannot be adapted to; None if it can."""
    return (
        _wrong_pixels(support.inputs, manifest.input, "support")
        or _outside_limits(support, manifest.limits)
        or _wrong_targets(support.targets, len(support.inputs), support.way)
    )


def check_queries(queries: Any, manifest: Manifest) -> Failed | None:
    """Why `queries` cannot be classified; None if they can."""
    if problem := _wrong_pixels(queries, manifest.input, "queries"):
        return problem
    limit = manifest.limits.max_queries
    if len(queries) == 0:
        return Failed("empty_queries", "there is nothing to classify", expected="at least 1 query", received=0)
    if len(queries) > limit:
        return Failed(
            "too_many_queries", f"this model takes at most {limit} queries at once", limit, len(queries), "split them"
        )
    return None


def _wrong_pixels(pixels: Any, spec: InputSpec, name: str) -> Failed | None:
    image = (spec.height, spec.width, spec.channels)
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[1:] == image:
        return None
    received = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    expected = f"uint8 (n, {spec.height}, {spec.width}, {spec.channels})"
    return Failed("invalid_tensor", f"{name}: not the images that this model takes", expected, received)


def _outside_limits(support: Support, limits: Limits) -> Failed | None:
    examples, way = len(support.inputs), support.way
    if examples == 0:
        return Failed("empty_support", "there is nothing to learn from", "at least one image of each class", 0)
    if way < 2:
        return Failed("single_class", "one class leaves nothing to tell apart", "at least 2 classes", way)
    if way > limits.max_way:
        return Failed(
            "too_many_classes", f"this model tells at most {limits.max_way} classes apart", limits.max_way, way
        )
    if examples > limits.max_support:
        return Failed(
            "too_many_examples",
            f"this model takes at most {limits.max_support} support images",
            limits.max_support,
            examples,
        )
    return None


def _wrong_targets(targets: Any, examples: int, way: int) -> Failed | None:
    shaped = isinstance(targets, np.ndarray) and targets.dtype == np.int64 and targets.shape == (examples,)
    if not shaped or targets.min() < 0 or targets.max() >= way:
        return Failed("invalid_targets", "targets do not name a class of each support image", f"int64 (n,) below {way}")
    absent = way - np.count_nonzero(np.bincount(targets))  # some times faster than np.unique
    if absent:
        return Failed("class_without_examples", f"{absent} of {way} classes have no support image", way, way - absent)
    return None
