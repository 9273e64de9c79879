"""Around every request: the last resort for defects, the log line, and metrics of several processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message as AsgiMessage

from kshot_server.envelope import ClientGone, Envelope
from kshot_server.logs import configure_logs
from kshot_server.metrics import HttpMetrics


def through_envelope(app: Any, metrics: HttpMetrics, path: str = "/x") -> list[AsgiMessage]:
    sent: list[AsgiMessage] = []

    async def receive() -> AsgiMessage:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(Envelope(app, metrics)(scope, receive, send))
    return sent


@pytest.fixture
def metrics() -> HttpMetrics:
    return HttpMetrics(CollectorRegistry(), "1.2.3")


def test_a_defect_is_an_answer_that_tells_nothing(metrics: HttpMetrics, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret of the house")

    start, body = through_envelope(broken, metrics)
    problem = json.loads(body["body"])
    assert (start["status"], problem["code"]) == (500, "internal_error")
    assert b"secret" not in body["body"]
    assert "secret of the house" in caplog.text
    assert 'kshot_problems_total{code="internal_error"} 1.0' in metrics.render().decode()


def test_a_defect_after_the_answer_began_sends_nothing_more(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    assert [message["type"] for message in through_envelope(broken, metrics)] == ["http.response.start"]
    assert "too late" in caplog.text


def test_nobody_is_answered_who_has_gone(metrics: HttpMetrics) -> None:
    async def left(scope: Any, receive: Any, send: Any) -> None:
        raise ClientGone

    assert through_envelope(left, metrics) == []
    assert 'status="499"' in metrics.render().decode()


def test_logs_are_json_with_the_request_id(capsys: pytest.CaptureFixture[str], metrics: HttpMetrics) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        configure_logs("info", "json")

        async def fine(scope: Any, receive: Any, send: Any) -> None:
            scope["state"]["phases"] = {"decode": 0.002}
            scope["state"]["tenant"] = "alice"
            await send({"type": "http.response.start", "status": 204, "headers": []})

        through_envelope(fine, metrics, "/v1/sessions/secret-path")
        logging.getLogger("x").error("with an exception", exc_info=ValueError("why"))
        logging.getLogger("x").debug("too fine")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        configure_logs("info", "text")
        logging.getLogger("x").warning("plain %d", 5, extra={"a": 1})
        assert capsys.readouterr().err.rstrip().endswith("warning plain 5 a=1")
        configure_logs("info", "json")
        odd = logging.makeLogRecord({"msg": "half a pair \udcff", "path": Path("a/b"), "number": float("inf")})
        told = json.loads(root.handlers[0].format(odd))
        assert (told["message"], told["path"], told["number"]) == ("half a pair \udcff", "a/b", float("inf"))
        whole = json.loads(root.handlers[0].format(logging.makeLogRecord({"msg": "é", "path": Path("a/b")})))
        assert (whole["message"], whole["path"]) == ("é", "a/b")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
    access, error = lines
    assert access["message"] == "GET unmatched 204"
    assert (access["decode_ms"], access["tenant"], len(access["request_id"])) == (2.0, "alice", 32)
    assert "secret-path" not in json.dumps(access)
    assert "ValueError: why" in error["exception"]


def test_metrics_of_several_processes_add_up(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from prometheus_client import CollectorRegistry\n"
        "from kshot_server.metrics import EngineMetrics, HttpMetrics, forget_process\n"
        "metrics = HttpMetrics(CollectorRegistry(), 'v')\n"
        "engine = EngineMetrics(CollectorRegistry())\n"
        "child = os.fork()\n"
        "metrics.answered('/a', 'GET', 200, 0.1)\n"
        "metrics.in_flight(2)\n"
        "metrics.tell()\n"
        "cache = {'entries': 3}\n"
        "numbers = {'cache': cache, 'outcomes': {}, 'seconds': {}, 'models': (), 'joined': 4}\n"
        "numbers |= {'pending': 1, 'queued': 0, 'running': 0}\n"
        "engine.refresh(numbers | {'batches': {'adapt': {1: 2}}})\n"
        "engine.refresh(numbers | {'batches': {'adapt': {1: 2, 5: 1}}})\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "    print(metrics.render().decode())\n"
        "    forget_process(child)\n"
        "    print('----')\n"
        "    print(metrics.render().decode())\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    both, one = done.stdout.split("----")
    assert 'kshot_requests_total{method="GET",route="/a",status="200"} 2.0' in both
    assert "kshot_in_flight 4.0" in both
    assert 'kshot_cache{what="entries"} 6.0' in both
    assert "kshot_engine_joined 8.0" in both
    assert 'kshot_engine_batch_size_count{operation="adapt"} 6.0' in both
    assert 'kshot_engine_batch_size_sum{operation="adapt"} 14.0' in both
    assert 'kshot_requests_total{method="GET",route="/a",status="200"} 2.0' in one
    assert "kshot_in_flight 2.0" in one
