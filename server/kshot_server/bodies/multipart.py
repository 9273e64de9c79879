"""multipart/form-data (RFC 7578), read in one go from a body that is in memory and bounded.

Names and header sizes come from strangers, so each has a limit. The parser itself is python-multipart's; Starlette's
reader around it is not used, for it would parse on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from kshot_server.errors import InputError

__all__ = ["MAX_PARTS", "Part", "parse_multipart"]

MAX_PARTS = 20_000
_MAX_HEADER_BYTES = 8 * 1024
_MAX_BOUNDARY_LENGTH = 70  # RFC 2046, 5.1.1


class Part(NamedTuple):
    """One field or file. `name` is as the sender wrote it, `content` is whole."""

    name: str
    content: bytes


def parse_multipart(boundary: bytes, body: bytes) -> list[Part]:
    """Split a body into its parts, in their order.

    Args:
        boundary: the parameter of the content type.
        body: all of it.

    Raises:
        InputError: `invalid_body`: no proper boundary, cut off, malformed, too many parts, or a part without a name.
    """
    if not 0 < len(boundary) <= _MAX_BOUNDARY_LENGTH:
        raise _wrong("the content type names no boundary of 1 to 70 characters")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type] # it types them as TypedDict of exact callables
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _wrong("its parts cannot be told apart") from None
    if not reader.ended:
        raise _wrong("it ends before its closing boundary")
    return reader.parts


class _Reader:
    """Collects what the parser calls out."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = bytearray()
        self._value = bytearray()
        self._content = bytearray()

    def callbacks(self) -> dict[str, Callable[..., Any]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._end_header,
            "on_part_data": self._on_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise _wrong(f"it has more than {MAX_PARTS} parts")
        self._headers, self._content = {}, bytearray()

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._bound()

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        known = sum(len(key) + len(value) for key, value in self._headers.items())
        if known + len(self._field) + len(self._value) > _MAX_HEADER_BYTES:
            raise _wrong(f"the headers of a part are longer than {_MAX_HEADER_BYTES} bytes")

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def _end_part(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if disposition != b"form-data" or name is None:
            raise _wrong("a part has no `Content-Disposition: form-data` with a name")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in {b"binary", b"8bit", b"7bit"}:
            raise _wrong("a part has a Content-Transfer-Encoding (RFC 7578, 4.7 deprecates it)")
        self.parts.append(Part(_decode_name(name), bytes(self._content)))

    def _end(self) -> None:
        self.ended = True


def _decode_name(name: bytes) -> str:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong("the name of a part is no UTF-8") from None
    # Browsers and httpx write quotes and line ends of a name this way, and no other character: see "multipart/form-data
    # encoding algorithm" in the HTML standard.
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _wrong(what: str) -> InputError:
    return InputError(
        "invalid_body", f"The multipart body cannot be read: {what}.", expected="multipart/form-data as in RFC 7578"
    )
