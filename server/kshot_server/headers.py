"""A request's headers, looked up without making objects of Starlette's for it.

Each request asks for half a dozen of them.
"""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["header_of"]


def header_of(scope: Scope, name: bytes) -> str | None:
    """The value of a header, the first one if it is there several times; None if it is not there.

    Args:
        scope: of ASGI, where names are lower case.
        name: in lower case.
    """
    for given, value in scope["headers"]:
        if given == name:
            text: str = value.decode("latin-1")
            return text
    return None
