"""From values to the JSON of the interface, as plain dicts.

A thousand predictions are not worth validating one by one at run time; a test holds these dicts to schemas.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from kshot_server.engine.repository import ModelEntry
from kshot_server.service.results import Classification
from kshot_server.sessions.record import SessionInfo
from kshot_server.timestamps import rfc3339

__all__ = ["classification_json", "json_response", "model_json", "session_json"]


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Encode plain data."""
    return Response(to_json(content), status_code=status, headers=headers, media_type="application/json")


def model_json(entry: ModelEntry, versions: Sequence[str]) -> dict[str, Any]:
    """A `ModelOut`."""
    manifest = entry.manifest
    learner = manifest.learner
    return {
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "description": manifest.description,
        "learner": {
            "type": learner.type,
            "inner_steps": learner.steps,
            "network": learner.network.type,
            "head": learner.head.type,
            "inner": [link.type for link in learner.inner],
        },
        "input": manifest.input.model_dump(mode="json"),
        "limits": manifest.limits.model_dump(mode="json"),
        "norm": learner.norm,
        "measured": [measured.model_dump(mode="json") for measured in manifest.provenance.measured],
        "versions": list(versions),
    }


def session_json(info: SessionInfo, *, known: bool) -> dict[str, Any]:
    """A `SessionOut`."""
    return {
        "id": info.id,
        "model": info.model,
        "version": info.version,
        "model_digest": info.model_digest,
        "labels": list(info.labels),
        "support_size": info.support_size,
        "counts": dict(zip(info.labels, info.counts, strict=True)),
        "created_at": rfc3339(info.created_at),
        "expires_at": rfc3339(info.expires_at),
        "ttl_seconds": info.ttl_seconds,
        "durability": info.durability,
        "cached": known,
    }


def classification_json(result: Classification) -> dict[str, Any]:
    """A `ClassificationOut`."""
    info, threshold = result.info, result.unknown_below
    labels, best = info.labels, result.probabilities.argmax(axis=1).tolist()
    return {
        "session": info.id,
        "model": info.model,
        "version": info.version,
        "predictions": [
            {
                "label": labels[i],
                "probability": row[i],
                "probabilities": dict(zip(labels, row, strict=True)),
                "unknown": threshold is not None and row[i] < threshold,
            }
            for i, row in zip(best, result.probabilities.tolist(), strict=True)
        ],
    }
