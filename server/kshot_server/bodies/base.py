"""What every content type of a body comes to, and what a content type is.

    bytes ── BodyFormat.read ──▶ Body(labels, support, queries, ttl_seconds, durability)

Nothing is decoded here: files stay files (or base64) and pixels stay pixels until the model is known, and with it how
many it takes and of which size. Reading runs in a thread (decoding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

from pydantic import BaseModel

from kshot_server.decoding import Images
from kshot_server.errors import InputError
from kshot_server.sessions.record import Durability

__all__ = ["BOTH", "QUERIES", "SUPPORT", "Body", "BodyFormat", "HeaderOptions", "Parts", "parse_options"]


@dataclass(frozen=True, eq=False)
class Body:
    """What a request says. `labels` has one entry for each support image; what was not sent is empty or None."""

    labels: tuple[str, ...] = ()
    support: Images = ()
    queries: Images = ()
    ttl_seconds: int | None = None
    durability: Durability | None = None


class Parts(NamedTuple):
    """Which parts a route takes. `ttl_seconds` and `durability` come with a support set."""

    support: bool
    queries: bool


SUPPORT = Parts(support=True, queries=False)
QUERIES = Parts(support=False, queries=True)
BOTH = Parts(support=True, queries=True)

HeaderOptions: TypeAlias = Mapping[bytes, bytes]
"""What stands behind the media type in the Content-Type header."""


class BodyFormat(NamedTuple):
    """One content type.

    read:     (bytes, options of the header, parts, most pixels of one image) -> Body; raises InputError
    describe: parts -> the media type object of the OpenAPI document
    models:   whose schemas that object refers to
    """

    media_type: str
    read: Callable[[bytes, HeaderOptions, Parts, int], Body]
    describe: Callable[[Parts], dict[str, Any]]
    models: tuple[type[BaseModel], ...] = ()


def parse_options(fields: Mapping[str, str]) -> tuple[int | None, Durability | None]:
    """Read `ttl_seconds` and `durability` where they come as text.

    Raises:
        InputError: `invalid_body`.
    """
    ttl = fields.get("ttl_seconds")
    if ttl is not None and not (ttl.isascii() and ttl.isdigit() and len(ttl) <= 18 and int(ttl) >= 1):
        raise InputError(
            "invalid_body", "ttl_seconds is no whole number above 0.", expected="a whole number of seconds, 1 or more"
        )
    durability = fields.get("durability")
    if durability not in {None, "durable", "volatile"}:
        raise InputError("invalid_body", "durability is of no known kind.", expected="durable or volatile")
    return (None if ttl is None else int(ttl)), cast("Durability | None", durability)
