"""The OpenAPI document: what FastAPI derives from the routes, and what it cannot: the bodies and the problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from kshot_server.bodies.base import Parts
from kshot_server.bodies.table import BODY_FORMATS
from kshot_server.problems import MEDIA_TYPE, PROBLEMS
from kshot_server.schemas import ProblemOut

__all__ = ["install_document", "problems", "request_body"]

_TAGS = [
    {"name": "models", "description": "What is served."},
    {"name": "sessions", "description": "A session is a model adapted to one labelled support set. It never changes."},
    {"name": "classify", "description": "Labels and probabilities for images."},
    {"name": "operations", "description": "For load balancers and Prometheus. No key needed."},
]

_REF = "#/components/schemas/{model}"

_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait before a new attempt.", "schema": {"type": "integer", "minimum": 0}}
}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Document problems, grouped by status: each says which codes it may carry."""
    grouped: dict[int, list[str]] = {}
    for code in sorted(set(codes)):
        grouped.setdefault(PROBLEMS[code].status, []).append(code)
    return {status: _problem(status, names) for status, names in sorted(grouped.items())}


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    text = "; ".join(f"`{code}`: {PROBLEMS[code].title[0].lower()}{PROBLEMS[code].title[1:]}" for code in codes)
    documented: dict[str, Any] = {
        "description": f"{text}.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=ProblemOut.__name__)}}},
    }
    if status in {429, 503}:
        documented["headers"] = _RETRY_AFTER
    return documented


def request_body(parts: Parts) -> dict[str, Any]:
    """Document a body of `parts` in every content type that is read."""
    content = {media_type: body_format.describe(parts) for media_type, body_format in BODY_FORMATS.items()}
    return {"requestBody": {"required": True, "content": content}}


def install_document(app: FastAPI, version: str) -> None:
    """Make `app` answer with our document. It is built once, when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app, version)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # the way that FastAPI documents for extending it


def _build(app: FastAPI, version: str) -> dict[str, Any]:
    built = get_openapi(
        title="kshot",
        version=version,
        summary="An image model that learns new classes over HTTP.",
        description=(
            "Send a few labelled images and get a session: a model adapted to them. Send more images, get their labels."
            "\n\nErrors are `application/problem+json` (RFC 9457) with a stable `code`. Every answer carries "
            "`X-Request-Id` and `Server-Timing`."
        ),
        routes=app.routes,
        tags=_TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas: dict[str, Any] = built["components"]["schemas"]
    bodies = [(model, "validation") for body_format in BODY_FORMATS.values() for model in body_format.models]
    _, extra = models_json_schema([*bodies, (ProblemOut, "serialization")], ref_template=_REF)  # type: ignore[list-item] # literals widen in a list
    schemas |= extra["$defs"]
    _drop_framework_errors(built["paths"], schemas)
    return built


def _drop_framework_errors(paths: Mapping[str, Any], schemas: dict[str, Any]) -> None:
    """FastAPI documents its own 422, which our handlers replace."""
    for operations in paths.values():
        for operation in operations.values():
            content = operation["responses"].get("422", {}).get("content", {})
            content.pop("application/json", None)
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
