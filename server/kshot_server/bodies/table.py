"""The table of content types. A new one is a file here with a `FORMAT`, and a row: it is then read and documented."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from python_multipart.multipart import parse_options_header

from kshot_server.bodies import json_body, multipart_body, tensor_body
from kshot_server.bodies.base import Body, BodyFormat, HeaderOptions, Parts
from kshot_server.errors import InputError

__all__ = ["BODY_FORMATS", "check_media_type", "read_body"]

BODY_FORMATS: Mapping[str, BodyFormat] = {
    body_format.media_type: body_format
    for body_format in (
        json_body.FORMAT,
        multipart_body.FORMAT,
        tensor_body.FORMAT,
    )
}


def check_media_type(content_type: str, content_encoding: str) -> None:
    """Refuse what will not be read, before any of it is read.

    Raises:
        InputError: `unsupported_media_type`.
    """
    if _format_of(content_type)[0] is None:
        raise InputError(
            "unsupported_media_type",
            "The content type is not one that is read.",
            expected=" or ".join(BODY_FORMATS),
            received="none" if not content_type else "another one",
            action="Set the Content-Type header.",
        )
    if content_encoding.strip().lower() not in {"", "identity"}:
        raise InputError(
            "unsupported_media_type",
            "The body has a content encoding, and compressed bodies are not read.",
            expected="no Content-Encoding header",
            action="Send it uncompressed; images are compressed already.",
        )


def read_body(content_type: str, body: bytes, parts: Parts, max_pixels: int) -> Body:
    """Parse a body.

    Args:
        content_type: the header, as `check_media_type` let it pass.
        body: all of it.
        parts: which parts the route takes.
        max_pixels: most pixels of one image, where that shows before decoding.

    Raises:
        InputError: it is not of the expected form.
    """
    body_format, options = _format_of(content_type)
    assert body_format is not None  # check_media_type has seen to it
    parsed = body_format.read(body, options, parts, max_pixels)
    if parts.support and len(parsed.support) == 0:
        raise InputError(
            "empty_support", "There is nothing to learn from.", expected="at least one image of each of two classes"
        )
    if parts.queries and len(parsed.queries) == 0:
        raise InputError("empty_queries", "There is nothing to classify.", expected="at least one query")
    return parsed


@lru_cache(maxsize=64)  # most clients send the same one each time
def _format_of(content_type: str) -> tuple[BodyFormat | None, HeaderOptions]:
    """Which format a header names, None if it is none of ours, and its options."""
    media_type, options = parse_options_header(content_type)
    return BODY_FORMATS.get(media_type.decode("latin-1")), options
