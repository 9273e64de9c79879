"""multipart/form-data: image files, `support[LABEL]` once for each example and `queries` once for each query."""

from __future__ import annotations

from typing import Any

from kshot_server.bodies.base import Body, BodyFormat, HeaderOptions, Parts, parse_options
from kshot_server.bodies.multipart import Part, parse_multipart
from kshot_server.errors import InputError

__all__ = ["FORMAT"]


def _read(body: bytes, options: HeaderOptions, parts: Parts, _max_pixels: int) -> Body:
    labels: list[str] = []
    support: list[bytes] = []
    queries: list[bytes] = []
    fields: dict[str, str] = {}
    for part in parse_multipart(options.get(b"boundary", b""), body):
        if parts.support and part.name.startswith("support[") and part.name.endswith("]"):
            labels.append(part.name[len("support[") : -1])
            support.append(part.content)
        elif parts.queries and part.name == "queries":
            queries.append(part.content)
        elif parts.support and part.name in {"ttl_seconds", "durability"} and part.name not in fields:
            fields[part.name] = _text_of(part)
        else:
            raise InputError(
                "invalid_body",
                "A part has a name that this route does not take, or takes only once.",
                expected=" or ".join(_part_names(parts)),
            )
    ttl_seconds, durability = parse_options(fields)
    return Body(tuple(labels), tuple(support), tuple(queries), ttl_seconds, durability)


def _part_names(parts: Parts) -> list[str]:
    names = ["support[LABEL]", "ttl_seconds", "durability"] if parts.support else []
    return names + (["queries"] if parts.queries else [])


def _text_of(part: Part) -> str:
    return part.content[:64].decode("utf-8", "replace").strip()


def _describe(parts: Parts) -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    properties: dict[str, Any] = {}
    if parts.support:
        properties["ttl_seconds"] = {"type": "integer", "minimum": 1}
        properties["durability"] = {"type": "string", "enum": ["durable", "volatile"]}
    if parts.queries:
        properties["queries"] = files
    form: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if parts.support:
        form["patternProperties"] = {r"^support\[.+\]$": files}
        form["description"] = "Image files; `support[LABEL]` once for each image of a class."
    if parts.queries:
        form["required"] = ["queries"]
    return {"schema": form}


FORMAT = BodyFormat("multipart/form-data", _read, _describe)
