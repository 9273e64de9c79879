"""application/json: images in base64, the forms of schemas.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kshot_server.bodies.base import BOTH, QUERIES, SUPPORT, Body, BodyFormat, HeaderOptions, Parts
from kshot_server.errors import InputError
from kshot_server.schemas import ClassifyBody, ClassifyOnceBody, TeachBody
from kshot_server.strict_json import parse_json
from kshot_server.validation_errors import without_input

__all__ = ["FORMAT", "MODELS", "InvalidBody"]

MODELS: Mapping[Parts, type[BaseModel]] = {SUPPORT: TeachBody, QUERIES: ClassifyBody, BOTH: ClassifyOnceBody}


class InvalidBody(InputError):  # noqa: N818 - an InputError like the others, with a list
    """`invalid_body` with the wrong fields one by one; never with their values."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__(
            "invalid_body", "The body is not of the expected form.", action="See `errors`, and /docs for the form."
        )
        self.errors = without_input(error.errors(include_url=False, include_input=False, include_context=False))


def _read(body: bytes, _options: HeaderOptions, parts: Parts, _max_pixels: int) -> Body:
    try:
        raw = parse_json(body)
    except ValueError as error:
        raise InputError(
            "invalid_json", f"The body is no JSON: {error}.", expected="one JSON object in UTF-8"
        ) from None
    try:
        form: Any = MODELS[parts].model_validate(raw)
    except ValidationError as error:
        raise InvalidBody(error) from None
    examples = form.support if parts.support else ()
    return Body(
        labels=tuple(example.label for example in examples),
        support=tuple(example.image for example in examples),
        queries=tuple(query.image for query in form.queries) if parts.queries else (),
        ttl_seconds=form.ttl_seconds if parts.support else None,
        durability=form.durability if parts.support else None,
    )


def _describe(parts: Parts) -> dict[str, Any]:
    model = MODELS[parts]
    example = model.model_json_schema()["examples"][0]
    return {
        "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
        "examples": {"strokes": {"summary": "Strokes", "value": example}},
    }


FORMAT = BodyFormat("application/json", _read, _describe, tuple(MODELS.values()))
