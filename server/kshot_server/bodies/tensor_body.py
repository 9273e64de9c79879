"""application/x-safetensors: raw uint8 pixels, for clients that have arrays. The layout is tensors.py's."""

from __future__ import annotations

from typing import Any

from kshot_server.bodies.base import Body, BodyFormat, HeaderOptions, Parts, parse_options
from kshot_server.bodies.tensors import parse_tensors
from kshot_server.errors import InputError

__all__ = ["FORMAT"]


def _read(body: bytes, _options: HeaderOptions, parts: Parts, max_pixels: int) -> Body:
    tensors = parse_tensors(body, max_pixels=max_pixels)
    for name, there, may in (
        ("support", tensors.support, parts.support),
        ("queries", tensors.queries, parts.queries),
    ):
        if there is not None and not may:
            raise InputError(
                "invalid_tensor",
                f"This route takes no {name}.",
                action="Send it to a route that does; /docs lists them.",
            )
    if tensors.options and not parts.support:
        raise InputError("invalid_tensor", "This route takes no ttl_seconds and no durability.")
    ttl_seconds, durability = parse_options(tensors.options)
    support = () if tensors.support is None else tensors.support
    queries = () if tensors.queries is None else tensors.queries
    return Body(tensors.labels, support, queries, ttl_seconds, durability)


def _describe(parts: Parts) -> dict[str, Any]:
    text = ["A safetensors file with raw 8-bit pixels."]
    if parts.support:
        text.append(
            "`support`: uint8 (n, h, w) or (n, h, w, c); `targets`: int64 (n,), indices into `labels`, which is a JSON "
            "list of strings in the file's metadata, beside `ttl_seconds` and `durability`."
        )
    if parts.queries:
        text.append("`queries`: uint8 (q, h, w) or (q, h, w, c).")
    return {"schema": {"type": "string", "format": "binary", "description": " ".join(text)}}


FORMAT = BodyFormat("application/x-safetensors", _read, _describe)
