"""What the server promises under load and from bad neighbours, on a real one."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

TEACH = "/v1/models/tiny/sessions"
LIMIT = 4


@pytest.fixture(scope="module")
def server(serve: Any, models: Path) -> Iterator[Any]:
    """One server for this file; tests leave it as they found it."""
    flags = ("--models", str(models), "--max-inflight", str(LIMIT), "--timeout", "60", "--log-level", "warning")
    with serve(*flags) as running:
        yield running


@pytest.fixture
def engine(server: Any, family: Any) -> Iterator[psutil.Process]:
    """The engine's process; resumed when a test has suspended it."""
    (process,) = family(server).engines
    yield process
    process.resume()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as opened:
        yield opened


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def post_many(pool: ThreadPoolExecutor, url: str, contents: list[Any]) -> list[Future[httpx.Response]]:
    sent = [pool.submit(httpx.post, url + TEACH, json=content, timeout=60) for content in contents]
    until(lambda: metric(url, "kshot_in_flight ") == len(contents))
    return sent


def test_overload_is_refused_at_once(
    server: Any, engine: psutil.Process, pool: ThreadPoolExecutor, bodies: Callable[..., Any]
) -> None:
    engine.suspend()
    sent = post_many(pool, server.url, [bodies(seed=i).json for i in range(LIMIT)])
    with httpx.Client(base_url=server.url) as client:
        seconds = []
        for _ in range(20):
            begun = time.perf_counter()
            refused = client.post(TEACH, json=bodies(seed=99).json)
            seconds.append(time.perf_counter() - begun)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert refused.headers["Retry-After"] == "1"
        assert min(seconds) < 0.01  # the best of 20: the others may have waited for the processor
        # Probes are not part of the crowd.
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    engine.resume()
    assert [future.result().status_code for future in sent] == [201] * LIMIT


def test_a_deadline_is_kept_and_the_work_dropped(
    server: Any, engine: psutil.Process, bodies: Callable[..., Any]
) -> None:
    dropped = 'kshot_engine_outcomes{outcome="deadline_exceeded"}'
    before = metric(server.url, dropped)
    engine.suspend()
    begun = time.monotonic()
    late = httpx.post(server.url + TEACH, json=bodies(seed=20).json, headers={"X-Timeout-Seconds": "0.5"}, timeout=30)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert 0.5 <= time.monotonic() - begun < 5
    engine.resume()
    until(lambda: metric(server.url, dropped) == before + 1)
    assert metric(server.url, "kshot_in_flight ") == 0


def test_a_client_that_has_gone_is_not_waited_for(
    server: Any, engine: psutil.Process, bodies: Callable[..., Any]
) -> None:
    gone = 'kshot_requests_total{method="POST",route="/v1/models/{model}/sessions",status="499"}'
    before = metric(server.url, gone)
    engine.suspend()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + TEACH, json=bodies(seed=30).json, timeout=1)
    until(lambda: metric(server.url, "kshot_in_flight ") == 0)
    assert metric(server.url, gone) == before + 1
    engine.resume()
    assert httpx.post(server.url + TEACH, json=bodies(seed=30).json, timeout=30).status_code == 201


def test_one_bad_item_of_32_costs_one_4xx(
    serve: Any, models: Path, pool: ThreadPoolExecutor, bodies: Callable[..., Any]
) -> None:
    """32 sessions at once, one of which diverges, one of which is no image: two refusals, 30 right answers."""
    with serve("--models", str(models), "--log-level", "warning") as server:
        contents = [bodies(seed=100 + i, queries=1).json for i in range(32)]
        url = f"{server.url}/v1/models/tiny/classify"
        alone = [httpx.post(url, json=content, timeout=30).json()["predictions"] for content in contents]
        fresh = [bodies(seed=100 + i, queries=1, labels=("x", "y", "z")).json for i in range(32)]
        urls = [url] * 32
        urls[7] = f"{server.url}/v1/models/wild/classify"
        fresh[19]["support"][0]["image"] = "bm8gaW1hZ2U="
        answers = list(pool.map(lambda u, c: httpx.post(u, json=c, timeout=60), urls, fresh))
        assert [i for i, answer in enumerate(answers) if answer.status_code != 200] == [7, 19]
        assert [answers[i].json()["code"] for i in (7, 19)] == ["adaptation_diverged", "invalid_image"]
        for i, (answer, wanted) in enumerate(zip(answers, alone, strict=True)):
            if i not in {7, 19}:
                got = answer.json()["predictions"][0]["probabilities"]
                assert list(got.values()) == pytest.approx(list(wanted[0]["probabilities"].values()), abs=1e-4)


# -- on the socket -----------------------------------------------------------------------------------------------------


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


def test_a_good_request_is_not_held_up_by_bad_ones(server: Any, bodies: Callable[..., Any]) -> None:
    """Deep JSON, a form of 10^5 parts and a cut image, over and over, beside one who classifies."""
    body = bodies(seed=50, queries=1)
    session = httpx.post(server.url + TEACH, json={"support": body.json["support"]}, timeout=30).json()["id"]
    stop = threading.Event()

    def annoy() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                client.post(TEACH, content=b"[" * 100_000, headers={"Content-Type": "application/json"})
                client.post(
                    TEACH, content=b"--x\r\n" * 10_000, headers={"Content-Type": "multipart/form-data; boundary=x"}
                )
                client.post(TEACH, files=[("support[a]", b"\x89PNG\r\n\x1a\n"), ("support[b]", b"")])

    thread = threading.Thread(target=annoy)
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            answers = [client.post(f"/v1/sessions/{session}/classify", json=body.query_json) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


# -- the store ---------------------------------------------------------------------------------------------------------


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def redis(free_port: Callable[[], int], tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed; `make setup` installs it as root on Debian")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until(lambda: answers(port))
        yield f"redis://127.0.0.1:{port}/0", process
        process.kill()


def test_without_its_store_known_sessions_go_on(
    serve: Any, models: Path, bodies: Callable[..., Any], redis: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, process = redis
    with (
        serve("--models", str(models), "--store", url, "--log-level", "error") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        body = bodies(queries=2)
        known = client.post(TEACH, json={"support": body.json["support"]}).json()["id"]
        wanted = client.post(f"/v1/sessions/{known}/classify", json=body.query_json).json()
        process.kill()
        process.wait()
        assert client.post(f"/v1/sessions/{known}/classify", json=body.query_json).json() == wanted
        again = client.post(TEACH, json={"support": body.json["support"]})
        assert (again.status_code, again.json()["id"]) == (200, known)
        refused = client.post(TEACH, json=bodies(seed=1).json)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        volatile = client.post(TEACH, json=bodies(seed=1).json | {"durability": "volatile"})
        assert (volatile.status_code, volatile.json()["durability"]) == (201, "volatile")
        path = f"/v1/sessions/{volatile.json()['id']}/classify"
        assert client.post(path, json=body.query_json).status_code == 200
        once = client.post("/v1/models/tiny/classify", json=bodies(seed=2, queries=1).json)
        assert once.status_code == 200
        unknown = client.get(f"/v1/sessions/s_{'0' * 32}")
        assert (unknown.status_code, unknown.json()["code"]) == (503, "store_unavailable")
        assert client.get("/readyz").status_code == 200
