"""JSON from strangers: what the reader refuses that the standard one lets through."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot_server.strict_json import parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_whatever_is_json_is_read(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "character 0"),
        (b"{", "character 1"),
        (b'{"a": 1} x', "Extra data"),
        (b"\xff\xfe", "UTF-8 at byte 0"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'{"a": 1, "a": 2}', "repeated"),
        (b'[{"b": {"a": 1, "a": 2}}]', "repeated"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"x": -Infinity}', "-Infinity"),
        (b"1e309", "out of range"),
        (b"[-1e999]", "out of range"),
        (b"9" * 5000, "digits"),
        (b"[" * 1_000_000, "deep"),
        (b'{"a":' * 200_000, "deep"),
        (b'"\x00"', "control character"),
        (b"\xef\xbb\xbf{}", "BOM|character 0"),
    ],
)
def test_what_is_no_json_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(data)
    assert len(str(caught.value)) < 150


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(data)
