"""Validation errors without what was sent: an input may be large, or secret, and is never echoed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MAX_ERRORS", "without_input"]

MAX_ERRORS = 20
_MAX_NAME_LENGTH = 64


def without_input(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keep place, message and type of each error of pydantic.

    At most the first 20 are told: a body of a million wrong items must not be answered with a million errors.
    """
    return [
        {"loc": [_short(part) for part in error["loc"]], "msg": error["msg"], "type": error["type"]}
        for error in errors[:MAX_ERRORS]
    ]


def _short(part: int | str) -> int | str:
    # The name of an unknown key is input too, and may hold a lone surrogate, which no JSON can.
    if isinstance(part, int):
        return part
    readable = part.encode("utf-8", "replace").decode("utf-8")
    return readable if len(readable) <= _MAX_NAME_LENGTH else readable[:_MAX_NAME_LENGTH] + "..."
