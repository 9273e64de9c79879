"""JSON from strangers: one reader for every place that takes some.

The standard parser lets through what JSON forbids or leaves open (NaN, 1e999, repeated keys of which the last wins) and
fails in several ways (recursion, integers of 5,000 digits, bad UTF-8). Here all of that is one ValueError with a short
reason that quotes nothing.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["parse_json"]


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON strictly.

    Args:
        data: the document; the caller has bounded its size.

    Returns:
        dict, list, str, int, finite float, bool or None. An escape can make a lone surrogate: check strings.

    Raises:
        ValueError: it is no JSON, holds NaN, Infinity or a number beyond float64, repeats a key, or nests
            deeper than the parser can follow.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated in one object")
    return table


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value
