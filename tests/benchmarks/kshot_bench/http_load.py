"""Clients of a running server: one that looks at each answer, and one as light as Python allows, for its rate.

What they take of the cores is missing to the server: on one machine, that is part of what is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from kshot_bench.bodies import Body
from kshot_bench.errors import BenchError

__all__ = ["Connection", "request_rate"]

_TIMEOUT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One kept connection to a server. Not thread-safe.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        assert place.hostname is not None  # our own server's URL
        self._connection = http.client.HTTPConnection(place.hostname, place.port, timeout=_TIMEOUT_SECONDS)

    def post(self, path: str, body: Body) -> dict[str, Any]:
        """Send a body, read the whole answer.

        Raises:
            BenchError: the answer is an error.
        """
        self._connection.request("POST", path, body.content, {"Content-Type": body.content_type})
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 300:
            raise BenchError(f"POST {path} was answered {response.status}: {content[:500].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def timed(self, path: str, body: Body) -> float:
        """The seconds of `post`."""
        begun = time.perf_counter()
        self.post(path, body)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Close it."""
        self._connection.close()


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
    place = urlsplit(url)
    begun = time.perf_counter()
    ends, count = begun + seconds, 0
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as stack:
        for number in range(connections):
            link = stack.enter_context(socket.create_connection((place.hostname, place.port), _TIMEOUT_SECONDS))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asking = _Asking(link, place.netloc, itertools.islice(itertools.cycle(paths), number, None), bodies(number))
            ready.register(link, selectors.EVENT_READ, asking)
            asking.ask()
        while ready.get_map():
            events = ready.select(_TIMEOUT_SECONDS)
            if not events:
                raise BenchError(f"no answer within {_TIMEOUT_SECONDS:g} seconds")
            for key, _ in events:
                if key.data.answered():
                    count += 1
                    if time.perf_counter() < ends:
                        key.data.ask()
                    else:
                        ready.unregister(key.fileobj)
    return count / (time.perf_counter() - begun)


class _Asking:
    """One kept connection: a request, its answer, a request, its answer. Knows no more of HTTP than it meets here."""

    def __init__(self, link: socket.socket, host: str, paths: Iterator[str], bodies: Iterator[Body]) -> None:
        self._link = link
        self._host = host
        self._paths = paths
        self._bodies = bodies
        self._path = ""
        self._answer = b""

    def ask(self) -> None:
        """Send the next request."""
        self._path, body = next(self._paths), next(self._bodies)
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {body.content_type}\r\n"
            f"Content-Length: {len(body.content)}\r\n\r\n"
        )
        self._answer = b""
        self._link.sendall(head.encode() + body.content)

    def answered(self) -> bool:
        """Read what has come; whether that was the last of the answer.

        Raises:
            BenchError: it is an error, or the server has closed the connection.
        """
        came = self._link.recv(1 << 16)
        if not came:
            raise BenchError(f"POST {self._path}: the server closed the connection")
        self._answer += came
        head, end, content = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(content) < int(length[1]):
            return False
        if not head.startswith(b"HTTP/1.1 2"):
            told = content[:500].decode(errors="replace")
            raise BenchError(f"POST {self._path} was answered {head[9:12].decode()}: {told}")
        return True
