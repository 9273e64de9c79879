"""How routes are documented: path parameters, answers, and which problems each may answer with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Path
from starlette.responses import Response

from kshot_server.openapi import problems

__all__ = ["ALWAYS", "READS_BODY", "READS_QUERIES", "READS_SUPPORT", "ModelName", "SessionId", "answers"]

ModelName = Annotated[
    str, Path(description="A model's name, for its newest version, or name@version.", examples=["omniglot"])
]
SessionId = Annotated[str, Path(description="A session's id.", examples=["s_0123456789abcdef0123456789abcdef"])]

ALWAYS = (
    "unauthorized",
    "rate_limited",
    "overloaded",
    "draining",
    "deadline_exceeded",
    "internal_error",
    "invalid_parameter",
)
READS_BODY = (
    "invalid_json",
    "invalid_body",
    "unsupported_media_type",
    "payload_too_large",
    "invalid_image",
    "image_too_large",
    "unsupported_image",
    "invalid_tensor",
    "engine_unavailable",
    "model_not_found",
)
READS_SUPPORT = (
    "empty_support",
    "single_class",
    "too_many_classes",
    "too_many_examples",
    "class_without_examples",
    "invalid_label",
    "invalid_targets",
    "adaptation_diverged",
    "store_unavailable",
)
READS_QUERIES = ("empty_queries", "too_many_queries")


def answers(
    model: type, *codes: str, ok: str = "The answer.", also: Mapping[int | str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """How a route's answers are documented. They are encoded by hand, so the model is documentation only."""
    good: dict[int | str, dict[str, Any]] = {200: {"model": model, "description": ok}, **(also or {})}
    return {"response_class": Response, "response_model": None, "responses": good | problems(*ALWAYS, *codes)}
