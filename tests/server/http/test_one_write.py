"""An answer leaves in one write, whole; whatever else happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from kshot_server.one_write import OneWrite

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written, call by call; `on_write` is told how much that was."""

    def __init__(self, on_write: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self._on_write = on_write

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        assert not self.closed
        self.writes.append(b"".join(list_of_data))
        self._on_write(len(self.writes[-1]))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(app: ASGIApp, wire: Wire) -> AsyncIterator[OneWrite]:
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    connection = OneWrite(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    yield connection
    if not wire.closed:
        connection.connection_lost(None)


def answered(app: ASGIApp, request: bytes) -> tuple[list[bytes], bool]:
    """What is written, and whether the connection is closed then."""

    async def exchange() -> tuple[list[bytes], bool]:
        wire = Wire()
        async with connected(app, wire) as connection:
            connection.data_received(request)
            await settled()
            return wire.writes, wire.closed

    return asyncio.run(exchange())


def test_head_and_body_are_one_write() -> None:
    [answer], closed = answered(Response("x" * 1000), GET)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n" + b"x" * 1000)
    assert not closed


def test_requests_on_one_connection_are_answered_one_by_one() -> None:
    writes, _ = answered(Response("x"), 3 * GET)  # pipelined
    assert b"".join(writes).count(b"HTTP/1.1 200 OK") == 3


def test_a_connection_that_is_to_be_closed_is_closed_after_the_answer() -> None:
    writes, closed = answered(Response("x"), GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert writes[-1].endswith(b"\r\n\r\nx")
    assert closed


def test_what_is_no_request_is_told_so_before_the_connection_closes() -> None:
    writes, closed = answered(Response("x"), b"no request\r\n\r\n")
    assert writes[0].startswith(b"HTTP/1.1 400")
    assert closed


def test_nothing_is_written_to_a_client_that_has_gone() -> None:
    async def exchange() -> list[bytes]:
        wire = Wire()
        gone = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            wire.close()  # in the same turn of the loop
            gone.set()

        async with connected(app, wire) as connection:
            connection.data_received(GET)
            await asyncio.wait_for(gone.wait(), 10)
            await settled()
        return wire.writes

    assert asyncio.run(exchange()) == []


@pytest.mark.parametrize("chunks", [1, 40])
def test_a_long_answer_is_not_held_back(chunks: int) -> None:
    """All of it comes, and a slow client's `pause_writing` is heard within 64 KiB."""
    chunk = b"y" * 10_000
    made = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(chunks):
            made += 1
            yield chunk

    async def exchange() -> tuple[bytes, int]:
        wire = Wire(on_write=lambda size: connection.pause_writing() if size > 1 << 16 else None)
        async with connected(StreamingResponse(body()), wire) as connection:
            connection.data_received(GET)
            await settled()
            while_slow = made
            connection.resume_writing()
            for _ in range(chunks):
                await settled()
                connection.resume_writing()
        return b"".join(wire.writes), while_slow

    came, while_slow = asyncio.run(exchange())
    assert came.count(b"y") == chunks * len(chunk)
    assert while_slow <= 8
