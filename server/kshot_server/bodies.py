"""From a request's bytes to one structure, whichever of the three content types they came in.

    application/json            base64 images            ┐
    multipart/form-data         image files              ├─▶ Body(labels, support, queries, ttl_seconds, durability)
    application/x-safetensors   raw uint8 pixels         ┘

Nothing is decoded here: files stay files (or base64) and pixels stay pixels until the model is known, and with it how
many it takes and of which size. It all runs in a thread (decoding.py). A new content type is one function and one row
in `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header

from kshot_server.decoding import Images
from kshot_server.errors import InputError
from kshot_server.multipart import Part, parse_multipart
from kshot_server.schemas import ClassifyBody, ClassifyOnceBody, TeachBody
from kshot_server.sessions.record import Durability
from kshot_server.strict_json import parse_json
from kshot_server.tensors import parse_tensors
from kshot_server.validation_errors import without_input

__all__ = ["MEDIA_TYPES", "Body", "InvalidBody", "Wanted", "check_media_type", "read_body"]

_FORMS: Mapping[tuple[bool, bool], type[BaseModel]] = {
    (True, False): TeachBody,
    (False, True): ClassifyBody,
    (True, True): ClassifyOnceBody,
}


@dataclass(frozen=True, eq=False)
class Body:
    """What a request says. `labels` has one entry for each support image; what was not sent is empty or None."""

    labels: tuple[str, ...] = ()
    support: Images = ()
    queries: Images = ()
    ttl_seconds: int | None = None
    durability: Durability | None = None


@dataclass(frozen=True)
class Wanted:
    """Which parts a route takes, and the most pixels of one image."""

    support: bool
    queries: bool
    max_pixels: int


Options: TypeAlias = Mapping[bytes, bytes]


def check_media_type(content_type: str, content_encoding: str) -> None:
    """Refuse what will not be read, before any of it is read.

    Raises:
        InputError: `unsupported_media_type`.
    """
    media_type, _ = parse_options_header(content_type)
    if media_type.decode("latin-1") not in _READERS:
        raise InputError(
            "unsupported_media_type",
            "The content type is not one that is read.",
            expected=" or ".join(MEDIA_TYPES),
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


def read_body(content_type: str, body: bytes, wanted: Wanted) -> Body:
    """Parse a body.

    Args:
        content_type: the header, as `check_media_type` let it pass.
        body: all of it.
        wanted: which parts the route takes.

    Raises:
        InputError: it is not of the expected form.
    """
    media_type, options = parse_options_header(content_type)
    parsed = _READERS[media_type.decode("latin-1")](body, options, wanted)
    if wanted.support and len(parsed.support) == 0:
        raise InputError(
            "empty_support", "There is nothing to learn from.", expected="at least one image of each of two classes"
        )
    if wanted.queries and len(parsed.queries) == 0:
        raise InputError("empty_queries", "There is nothing to classify.", expected="at least one query")
    return parsed


def _read_json(body: bytes, _options: Options, wanted: Wanted) -> Body:
    try:
        raw = parse_json(body)
    except ValueError as error:
        raise InputError(
            "invalid_json", f"The body is no JSON: {error}.", expected="one JSON object in UTF-8"
        ) from None
    try:
        form: Any = _FORMS[wanted.support, wanted.queries].model_validate(raw)
    except ValidationError as error:
        raise InvalidBody(error) from None
    examples = form.support if wanted.support else ()
    return Body(
        labels=tuple(example.label for example in examples),
        support=tuple(example.image for example in examples),
        queries=tuple(query.image for query in form.queries) if wanted.queries else (),
        ttl_seconds=form.ttl_seconds if wanted.support else None,
        durability=form.durability if wanted.support else None,
    )


class InvalidBody(InputError):  # noqa: N818 - an InputError like the others, with a list
    """`invalid_body` with the wrong fields one by one; never with their values."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__(
            "invalid_body", "The body is not of the expected form.", action="See `errors`, and /docs for the form."
        )
        self.errors = without_input(error.errors(include_url=False, include_input=False, include_context=False))


def _read_multipart(body: bytes, options: Options, wanted: Wanted) -> Body:
    labels: list[str] = []
    support: list[bytes] = []
    queries: list[bytes] = []
    fields: dict[str, str] = {}
    for part in parse_multipart(options.get(b"boundary", b""), body):
        if wanted.support and part.name.startswith("support[") and part.name.endswith("]"):
            labels.append(part.name[len("support[") : -1])
            support.append(part.content)
        elif wanted.queries and part.name == "queries":
            queries.append(part.content)
        elif wanted.support and part.name in {"ttl_seconds", "durability"} and part.name not in fields:
            fields[part.name] = _text_of(part)
        else:
            raise InputError(
                "invalid_body",
                "A part has a name that this route does not take, or takes only once.",
                expected=" or ".join(_part_names(wanted)),
            )
    ttl_seconds, durability = _parse_fields(fields)
    return Body(tuple(labels), tuple(support), tuple(queries), ttl_seconds, durability)


def _part_names(wanted: Wanted) -> list[str]:
    names = ["support[LABEL]", "ttl_seconds", "durability"] if wanted.support else []
    return names + (["queries"] if wanted.queries else [])


def _text_of(part: Part) -> str:
    return part.content[:64].decode("utf-8", "replace").strip()


def _parse_fields(fields: Mapping[str, str]) -> tuple[int | None, Durability | None]:
    """Read the two options where they come as text."""
    ttl = fields.get("ttl_seconds")
    if ttl is not None and not (ttl.isascii() and ttl.isdigit() and len(ttl) <= 18 and int(ttl) >= 1):
        raise InputError(
            "invalid_body", "ttl_seconds is no whole number above 0.", expected="a whole number of seconds, 1 or more"
        )
    durability = fields.get("durability")
    if durability not in {None, "durable", "volatile"}:
        raise InputError("invalid_body", "durability is of no known kind.", expected="durable or volatile")
    return (None if ttl is None else int(ttl)), cast("Durability | None", durability)


def _read_tensors(body: bytes, _options: Options, wanted: Wanted) -> Body:
    tensors = parse_tensors(body, max_pixels=wanted.max_pixels)
    for name, there, may in (
        ("support", tensors.support, wanted.support),
        ("queries", tensors.queries, wanted.queries),
    ):
        if there is not None and not may:
            raise InputError(
                "invalid_tensor",
                f"This route takes no {name}.",
                action="Send it to a route that does; /docs lists them.",
            )
    if tensors.options and not wanted.support:
        raise InputError("invalid_tensor", "This route takes no ttl_seconds and no durability.")
    ttl_seconds, durability = _parse_fields(tensors.options)
    support = () if tensors.support is None else tensors.support
    queries = () if tensors.queries is None else tensors.queries
    return Body(tensors.labels, support, queries, ttl_seconds, durability)


_READERS: Mapping[str, Callable[[bytes, Options, Wanted], Body]] = {
    "application/json": _read_json,
    "multipart/form-data": _read_multipart,
    "application/x-safetensors": _read_tensors,
}

MEDIA_TYPES = tuple(_READERS)
