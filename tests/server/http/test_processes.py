"""What the server promises when processes end, on real ones: drains, kills, and never an orphan.

An engine that is suspended (SIGSTOP) keeps its requests in flight for as long as a test needs them there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .watching import post_all, until

TEACH = "/v1/models/tiny/sessions"
QUIET = "--log-level=warning"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as opened:
        yield opened


SIGNALS: dict[str, Callable[[Any], None]] = {
    "main": lambda process: process.terminate(),
    "group": lambda process: os.killpg(process.pid, signal.SIGTERM),  # systemd's default
    "interrupt": lambda process: process.send_signal(signal.SIGINT),
    "terminal": lambda process: os.killpg(process.pid, signal.SIGINT),  # Ctrl-C
}


@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_drains(
    serve: Any, family: Any, pool: ThreadPoolExecutor, models: Path, bodies: Callable[..., Any], how: str
) -> None:
    """Who comes is refused in words, who is in work is answered, and then it ends."""
    with serve("--models", str(models), QUIET) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        processes = family(server)
        processes.engines[0].suspend()
        sent = post_all(pool, server.url, TEACH, [bodies(seed=i).json for i in range(4)])
        SIGNALS[how](server.process)
        refused = None
        for method, path, content in (
            # First: an adaptation that comes before the signal is heard would wait for the engine until its deadline.
            ("GET", "/readyz", None),
            ("POST", TEACH, bodies(seed=9).json),
            ("GET", "/v1/models", None),
        ):
            until(lambda m=method, p=path, c=content: client.request(m, p, json=c).status_code == 503)  # type: ignore[misc] # mypy cannot infer it
            refused = client.request(method, path, json=content)
            assert refused.json()["code"] == "draining"
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.headers["Connection"] == "close"
        assert client.get("/livez").status_code == 200
        server.process.send_signal(signal.SIGTERM)  # once more changes nothing
        assert server.process.poll() is None
        processes.engines[0].resume()
        assert [future.result().status_code for future in sent] == [201] * 4
        assert server.process.wait(60) == 0
        processes.wait_until_gone(30)


def test_until_the_drain_delay_is_over_it_serves(serve: Any, models: Path, bodies: Callable[..., Any]) -> None:
    """Load balancers see /readyz, and those who do not look are answered all the same."""
    with serve("--models", str(models), "--drain-delay", "600", QUIET) as server:
        server.process.terminate()
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert httpx.get(f"{server.url}/readyz").json()["code"] == "draining"
        assert httpx.post(server.url + TEACH, json=bodies().json, timeout=30).status_code == 201


def test_a_signal_while_it_starts_ends_it(models: Path, free_port: Callable[[], int], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kshot", "serve", "--port", str(free_port()), "--models", str(models)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        main = psutil.Process(process.pid)
        try:
            # An engine is a child of the template.
            until(lambda: any(child.ppid() != main.pid for child in main.children(recursive=True)))
            children = main.children(recursive=True)
            process.terminate()
            assert process.wait(60) == 0
            _, alive = psutil.wait_procs(children, timeout=5)
            assert alive == []
        finally:
            process.kill()


def test_a_killed_engine_comes_back(
    serve: Any, family: Any, pool: ThreadPoolExecutor, models: Path, bodies: Callable[..., Any]
) -> None:
    """In-flight requests are told at once, no session is lost, and it serves again within seconds."""
    with serve("--models", str(models), QUIET) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        taught = {}
        for seed in range(3):
            body = bodies(seed=seed, queries=2)
            session = client.post(TEACH, json={"support": body.json["support"]}).json()["id"]
            answer = client.post(f"/v1/sessions/{session}/classify", json=body.query_json)
            taught[session] = (body.query_json, answer.json()["predictions"])
        for round_ in range(2):
            (engine,) = family(server).engines
            engine.suspend()
            sent = post_all(pool, server.url, TEACH, [bodies(seed=10 * (round_ + 1) + i).json for i in range(3)])
            begun = time.monotonic()
            engine.kill()
            for future in sent:
                answer = future.result()
                assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
                assert answer.headers["Retry-After"] == "1"
            assert time.monotonic() - begun < 5  # long before the deadline of 30 s
            for session, (queries, wanted) in taught.items():
                answer = client.post(f"/v1/sessions/{session}/classify", json=queries)
                assert answer.status_code == 200
                for got, before in zip(answer.json()["predictions"], wanted, strict=True):
                    assert got["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
            assert client.get("/readyz").status_code == 200
        assert "kshot_engine_deaths_total 2.0" in client.get("/metrics").text


def test_a_dead_engine_is_not_ready_for_a_while(
    serve: Any, family: Any, models: Path, bodies: Callable[..., Any]
) -> None:
    with serve("--models", str(models), QUIET) as server:
        processes = family(server)
        (engine,) = processes.engines
        processes.template.suspend()  # so that there is no new one before all has been seen
        begun = time.monotonic()
        engine.kill()
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, 5)
        assert httpx.get(f"{server.url}/readyz").json()["code"] == "engine_unavailable"
        # What comes meanwhile waits for the new one, within its own deadline.
        late = httpx.post(server.url + TEACH, json=bodies().json, headers={"X-Timeout-Seconds": "0.3"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        processes.template.resume()
        assert httpx.post(server.url + TEACH, json=bodies().json, timeout=30).status_code == 201
        recovered = time.monotonic() - begun
        print(f"serving again after {recovered:.2f} s")  # noqa: T201 - shown with -s
        assert recovered < 5.0


@pytest.mark.parametrize("which", ["api", "manager"])
def test_what_cannot_be_restarted_ends_the_server(serve: Any, family: Any, models: Path, which: str) -> None:
    with serve("--models", str(models), QUIET) as server:
        processes = family(server)
        (processes.api[0] if which == "api" else processes.manager).kill()
        assert server.process.wait(60) == 1
        processes.wait_until_gone(5)


def test_a_killed_main_process_leaves_no_orphans(serve: Any, family: Any, models: Path) -> None:
    with serve("--models", str(models), QUIET) as server:
        processes = family(server)
        server.process.kill()
        server.process.wait()
        processes.wait_until_gone(5)
        with contextlib.suppress(httpx.TransportError):
            pytest.fail(f"somebody still answers: {httpx.get(server.url + '/livez')}")
