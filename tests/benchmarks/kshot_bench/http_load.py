"""Clients of a running server, as light as Python allows: http.client on kept connections, bodies made beforehand.

What they take of the cores is missing to the server: on one machine, that is part of what is measured.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from kshot_bench.bodies import Body
from kshot_bench.errors import BenchError

__all__ = ["Connection", "request_rate"]

_TIMEOUT_SECONDS = 60.0


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
    """Requests per second that several connections of this process get answered, each sending as soon as it can.

    Args:
        url: of the server.
        paths: asked in turn.
        bodies: number of the connection -> what it sends.
        connections: as many threads.
        seconds: until no more are sent; those under way are waited for and count.

    Raises:
        BenchError: an answer was an error.
    """
    counts = [0] * connections
    errors: list[Exception] = []
    ends = time.perf_counter() + seconds

    def ask(number: int) -> None:
        connection, sent = Connection(url), bodies(number)
        try:
            while time.perf_counter() < ends:
                connection.post(paths[(number + counts[number]) % len(paths)], next(sent))
                counts[number] += 1
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - begun)
