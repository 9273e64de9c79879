"""What strangers write on the socket itself: lying lengths, odd requests, clients that reset. Nobody else notices."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kshot._settings import _IDLE_SECONDS
from kshot_server.app import KEEP_ALIVE_SECONDS

from .watching import metric, until

TEACH = "/v1/models/tiny/sessions"


@pytest.fixture(scope="module")
def server(serve: Any, models: Path) -> Iterator[Any]:
    """One server for this file; tests leave it as they found it."""
    with serve("--models", str(models), "--log-level", "warning") as running:
        yield running


def exchange(url: str, *parts: bytes, wait: float = 10.0) -> bytes:
    """Send bytes as they are and read what comes back, until the server closes or is quiet."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        with contextlib.suppress(TimeoutError):
            connection.settimeout(wait)
            while chunk := connection.recv(65_536):
                received += chunk
                head, _, rest = received.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                if length and len(rest) >= int(length[1]):
                    break
        return received


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: x", *headers, "", ""]).encode()


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(server: Any) -> None:
    answer = exchange(
        server.url, head(f"POST {TEACH} HTTP/1.1", "Content-Type: application/json", "Content-Length: 209715200")
    )
    assert b" 413 " in answer.splitlines()[0]
    assert b"payload_too_large" in answer


def test_a_body_of_200_mb_is_refused_and_leaves_no_trace(server: Any, family: Any) -> None:
    (api,) = family(server).api
    before = api.memory_info().rss

    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * (1 << 20)

    answer = httpx.post(server.url + TEACH, content=chunks(), headers={"Content-Type": "application/json"}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    # One body up to the limit of 64 MiB, and room for it to grow in.
    assert api.memory_info().rss - before < 200 << 20


def test_tiny_chunks_are_read(server: Any, bodies: Callable[..., Any]) -> None:
    content = httpx.Request("POST", "http://x", json=bodies(seed=40).json).content

    def chunks() -> Iterator[bytes]:
        for i in range(len(content)):
            yield content[i : i + 1]

    answer = httpx.post(server.url + TEACH, content=chunks(), headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code in {200, 201}


ODDITIES = {
    "no request": b"\x00\x01\x02\x03\r\n\r\n",
    "negative length": head(f"POST {TEACH} HTTP/1.1", "Content-Type: application/json", "Content-Length: -1"),
    "two lengths": head(f"POST {TEACH} HTTP/1.1", "Content-Length: 5", "Content-Length: 6") + b"hello",
    "length no number": head(f"POST {TEACH} HTTP/1.1", "Content-Length: five") + b"hello",
    "long header": head("GET /v1/models HTTP/1.1", "X-Long: " + "x" * 300_000),
    "header with NUL": head("GET /v1/models HTTP/1.1", "X-Nul: a\x00b"),
    "target in full": head("GET http://elsewhere/v1/models HTTP/1.1"),
    "asterisk": head("OPTIONS * HTTP/1.1"),
    "upgrade": head(
        "GET /v1/models HTTP/1.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAA",
    ),
    "CONNECT": head("CONNECT example.org:443 HTTP/1.1"),
    "unknown method": head("BREW /v1/models HTTP/1.1"),
    "HTTP/1.0": b"GET /livez HTTP/1.0\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "bad chunk": head(f"POST {TEACH} HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked")
    + b"zz\r\nhello\r\n",
}


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_on_the_socket_are_no_5xx(server: Any, name: str) -> None:
    answer = exchange(server.url, ODDITIES[name], wait=1.0)
    assert not re.match(rb"HTTP/1\.[01] 5", answer), answer
    assert httpx.get(f"{server.url}/v1/models").status_code == 200


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    get = (
        head("GET /livez HTTP/1.1")
        + head("GET /v1/models/none HTTP/1.1")
        + head("GET /readyz HTTP/1.1", "Connection: close")
    )
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(get)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"404", b"200"]


REFUSED_EARLY = {
    "no content type": (head(f"POST {TEACH} HTTP/1.1", "Content-Length: 100000"), b"415"),
    "no such path": (head("POST /nowhere HTTP/1.1", "Content-Length: 100000"), b"404"),
    "wrong method": (head("POST /v1/models HTTP/1.1", "Content-Length: 100000"), b"405"),
    "bad parameter": (head(f"POST {TEACH} HTTP/1.1", "X-Timeout-Seconds: nan", "Content-Length: 100000"), b"422"),
}


@pytest.mark.parametrize("name", REFUSED_EARLY)
def test_a_connection_goes_on_after_a_request_that_was_refused_unread(server: Any, name: str) -> None:
    """The body that nobody read is not taken for the next request."""
    request, status = REFUSED_EARLY[name]
    body = b"GET /livez HTTP/1.1\r\n" * 10_000
    get = head("GET /readyz HTTP/1.1", "Connection: close")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request + body[:100_000] + get)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [status, b"200"]


def test_whoever_keeps_a_connection_closes_it_before_the_server_does() -> None:
    nginx = Path(__file__).resolve().parents[3] / "server" / "deploy" / "nginx.conf"
    upstream = [
        int(s) for s in re.findall(r"keepalive \d+;[^}]*?keepalive_timeout (\d+)s;", nginx.read_text(encoding="utf-8"))
    ]
    assert upstream
    assert max(*upstream, _IDLE_SECONDS) < KEEP_ALIVE_SECONDS


def test_a_client_that_resets_in_the_middle_disturbs_nobody(server: Any, bodies: Callable[..., Any]) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            connection.sendall(
                head(f"POST {TEACH} HTTP/1.1", "Content-Type: application/json", "Content-Length: 1000") + b"{"
            )
    assert httpx.post(server.url + TEACH, json=bodies(seed=41).json, timeout=30).status_code in {200, 201}
    until(lambda: metric(server.url, "kshot_in_flight ") == 0)
