"""Clients of a running server: one connection, for times, and many in one thread, for rates."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from kshot_bench.bodies import Body
from kshot_bench.errors import BenchError

__all__ = ["Connection", "arriving", "request_rate"]

_TIMEOUT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One kept connection to a server: a request, its answer, a request, its answer. Not thread-safe.

    As light as Python allows: what a client takes of the cores is missing to the server. It knows no more of HTTP than
    it meets here.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.link = socket.create_connection((place.hostname, place.port), _TIMEOUT_SECONDS)
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = place.netloc
        self._path = ""
        self._came = b""

    def send(self, path: str, body: Body) -> None:
        """Send a request."""
        self._path, self._came = path, b""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {body.content_type}\r\n"
            f"Content-Length: {len(body.content)}\r\n\r\n"
        )
        self.link.sendall(head.encode() + body.content)

    def receive(self) -> bytes | None:
        """Read what has come, after waiting for some; the content of the answer once all of it is there.

        Raises:
            BenchError: the answer is an error, or the server has closed the connection.
        """
        came = self.link.recv(1 << 16)
        if not came:
            raise BenchError(f"POST {self._path}: the server closed the connection")
        self._came += came
        head, end, content = self._came.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(content) < int(length[1]):
            return None
        if not head.startswith(b"HTTP/1.1 2"):
            told = content[:500].decode(errors="replace")
            raise BenchError(f"POST {self._path} was answered {head[9:12].decode()}: {told}")
        return content

    def post(self, path: str, body: Body) -> dict[str, Any]:
        """Send a body, read the whole answer; see `receive`."""
        answer: dict[str, Any] = json.loads(self._exchange(path, body))
        return answer

    def timed(self, path: str, body: Body) -> float:
        """The seconds until the whole answer is there."""
        begun = time.perf_counter()
        self._exchange(path, body)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Close it."""
        self.link.close()

    def _exchange(self, path: str, body: Body) -> bytes:
        self.send(path, body)
        while (content := self.receive()) is None:
            pass
        return content


def request_rate(
    url: str, paths: Sequence[str], bodies: Callable[[int], Iterator[Body]], *, connections: int, seconds: float
) -> float:
    """Requests per second that several connections of this thread get answered, each sending as soon as it can.

    Args:
        url: of the server.
        paths: asked in turn.
        bodies: number of the connection -> what it sends.
        connections: how many.
        seconds: until no more are sent; those under way are waited for and count.

    Raises:
        BenchError: an answer was an error, or a connection was closed.
    """
    asked = itertools.cycle(paths)
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as stack:
        firsts: list[tuple[Connection, Iterator[Body], Body]] = []
        for number in range(connections):
            connection, sent = Connection(url), bodies(number)
            stack.callback(connection.close)
            firsts.append((connection, sent, next(sent)))  # for which all the images are made that it will send
        begun = time.perf_counter()
        ends, count = begun + seconds, 0
        for connection, sent, first in firsts:
            ready.register(connection.link, selectors.EVENT_READ, (connection, sent))
            connection.send(next(asked), first)
        while ready.get_map():
            events = ready.select(_TIMEOUT_SECONDS)
            if not events:
                raise BenchError(f"no answer within {_TIMEOUT_SECONDS:g} seconds")
            for key, _ in events:
                connection, sent = key.data
                if connection.receive() is None:
                    continue
                count += 1
                if time.perf_counter() < ends:
                    connection.send(next(asked), next(sent))
                else:
                    ready.unregister(connection.link)
    return count / (time.perf_counter() - begun)


def arriving(
    url: str, path: str, bodies: Iterator[Body], *, rate: float, connections: int, seconds: float, seed: int = 0
) -> list[float]:
    """Seconds from when each of many requests was due to its answer; they come at random, whatever the server does.

    A request that finds no free connection waits for one, and that time counts.

    Args:
        url: of the server.
        path: asked.
        bodies: what is sent.
        rate: requests a second on average; the times between them are exponential.
        connections: how many.
        seconds: how long they come.
        seed: of the times.

    Raises:
        BenchError: an answer was an error, a connection was closed, or there was none for a minute.
    """
    gaps = np.random.default_rng(seed)
    begun = due = time.perf_counter()
    waiting, under_way, took = deque[float](), dict[Connection, float](), list[float]()
    free: list[Connection] = []
    with selectors.DefaultSelector() as ready:
        while due < begun + seconds or waiting or under_way:
            now = time.perf_counter()
            while due <= min(now, begun + seconds):
                waiting.append(due)
                due += gaps.exponential(1 / rate)
            while waiting and len(under_way) < connections:
                connection = free.pop() if free else Connection(url)
                if connection.link not in ready.get_map():
                    ready.register(connection.link, selectors.EVENT_READ, connection)
                under_way[connection] = waiting.popleft()
                connection.send(path, next(bodies))
            more = due < begun + seconds
            events = ready.select(max(due - time.perf_counter(), 0) if more else _TIMEOUT_SECONDS)
            if not (events or more):
                raise BenchError(f"no answer within {_TIMEOUT_SECONDS:g} seconds")
            for key, _ in events:
                connection = key.data
                if connection not in under_way:  # the server closes those that were idle for long
                    free.remove(connection)
                    ready.unregister(connection.link)
                    connection.close()
                elif connection.receive() is not None:
                    took.append(time.perf_counter() - under_way.pop(connection))
                    free.append(connection)
    for connection in free:
        connection.close()
    return took
