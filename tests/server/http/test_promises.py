"""What the server promises under load and beside bad neighbours, on a real one.

An engine that is suspended (SIGSTOP) keeps requests in flight, or in its queue, for as long as a test needs them there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .watching import metric, post_all, until

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


def test_overload_is_refused_at_once(
    server: Any, engine: psutil.Process, pool: ThreadPoolExecutor, bodies: Callable[..., Any]
) -> None:
    engine.suspend()
    sent = post_all(pool, server.url, TEACH, [bodies(seed=i).json for i in range(LIMIT)])
    with httpx.Client(base_url=server.url) as client:

        def refused_at_once() -> bool:
            begun = time.perf_counter()
            refused = client.post(TEACH, json=bodies(seed=99).json)
            seconds = time.perf_counter() - begun
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert refused.headers["Retry-After"] == "1"
            return seconds < 0.01

        until(refused_at_once)  # those that take longer have waited for the processor
        # Probes are not part of the crowd.
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    engine.resume()
    assert [future.result().status_code for future in sent] == [201] * LIMIT


def test_a_deadline_is_kept_and_the_work_dropped(
    server: Any, engine: psutil.Process, bodies: Callable[..., Any]
) -> None:

    def dropped() -> float:
        # Late, or told that nobody waits: whichever the engine saw first when it woke up.
        reasons = ("deadline_exceeded", "cancelled")
        return sum(metric(server.url, f'kshot_engine_outcomes{{outcome="{reason}"}}') for reason in reasons)

    before = dropped()
    engine.suspend()
    begun = time.monotonic()
    late = httpx.post(server.url + TEACH, json=bodies(seed=20).json, headers={"X-Timeout-Seconds": "0.5"}, timeout=30)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert 0.5 <= time.monotonic() - begun < 30  # long before the server's own deadline
    engine.resume()
    until(lambda: dropped() == before + 1)
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
