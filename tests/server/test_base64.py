"""Files in base64: taken in every spelling, refused otherwise, never a link."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot_server.errors import InputError
from kshot_server.images import decode_base64

from .decoded import decode


@given(
    st.binary(max_size=200),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "data:image/png;base64,", "DATA:;base64,"]),
)
def test_base64_in_all_its_spellings(data: bytes, url_safe: bool, padded: bool, prefix: str) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    if not padded:
        text = text.rstrip("=")
    assert decode_base64(prefix + text) == data
    lines = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    assert decode_base64(f"{prefix} {lines}\n") == data


@pytest.mark.parametrize(
    "text",
    [
        "!",
        "a",
        "abc$",
        "ab=c",
        "a===",
        "====",
        "aGVsbG8=aGVsbG8=",
        "aGVsbG8=x",
        "é",
        "\ud800",
        "cat.png",
        "data:image/png,xyz",
        "aGV\0sbG8=",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_base64(text)
    assert caught.value.code == "invalid_image"
    assert text not in repr(caught.value.args) or len(text) < 5


@pytest.mark.parametrize("link", ["http://a/b.png", "HTTPS://a/b", "file:///etc/passwd", "s3://bucket/key", "ftp://x"])
def test_links_are_not_followed_and_the_error_says_so(link: str) -> None:
    with pytest.raises(InputError, match="links are not followed") as caught:
        decode_base64(link)
    assert link not in repr(caught.value.args)


def test_nothing_is_nothing() -> None:
    assert decode_base64("") == b""
    with pytest.raises(InputError, match="empty"):
        decode(b"")


@given(st.text(max_size=100))
def test_any_text_is_bytes_or_an_input_error(text: str) -> None:
    try:
        kind = type(decode_base64(text)).__name__
    except InputError as error:
        kind = error.code
    assert kind in {"bytes", "invalid_image"}
