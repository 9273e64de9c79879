"""uvicorn's HTTP/1.1, with an answer's head and body in one system call and one packet.

    head, body ──▶ uvicorn: write, write ──▶ at the end of this turn of the loop ──▶ one writev

uvloop writes at once whatever it is given. The client of a small classification was woken for its head, read that, and
slept again until the body was there.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["OneWrite"]

_MANY_BYTES = 1 << 16  # not to hold back more than uvicorn wants to have unsent


class OneWrite(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(cast("asyncio.Transport", _Transport(transport, self.loop)))


class _Transport:
    """A transport that writes once in a turn of the loop; otherwise the one that it was made of."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write it with what else is written in this turn."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._size += len(data)
        if self._size > _MANY_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what there is, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._unsent and not self._transport.is_closing():
            self._transport.writelines(self._unsent)
        self._unsent, self._size = [], 0
