"""The clients of `kshot bench serve`: bodies that the server reads, each with another support set."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kshot_bench.bodies import BODIES, Body, BodyKind, query_body
from kshot_bench.errors import BenchError
from kshot_bench.http_load import Connection, arriving, request_rate
from kshot_bench.tasks import draw_tasks
from kshot_bench.work import Work
from kshot_server.bodies.tensors import parse_tensors


def test_safetensors_bodies_are_read_and_all_differ(tiny: Work) -> None:
    contents = [body.content for body in itertools.islice(BODIES["safetensors"](tiny, 3, queries=True), 4)]
    assert len(set(contents)) == 4
    (task,) = draw_tasks(tiny, 1, first=3)
    for content in contents:
        read = parse_tensors(content, max_pixels=1000)
        assert read.support is not None
        assert read.queries is not None
        assert (read.support[1:] == task.support[1:]).all()
        assert (read.queries == task.queries).all()
        assert list(read.labels) == [f"class {target:03d}" for target in task.targets]
    assert parse_tensors(query_body(tiny).content, max_pixels=1000).queries is not None


def test_png_bodies_differ(tiny: Work) -> None:
    bodies = [json.loads(body.content) for body in itertools.islice(BODIES["png"](tiny, 3, queries=True), 4)]
    supports = [json.dumps(body["support"]) for body in bodies]
    assert len(set(supports)) == 4
    assert all(len(body["support"]) == tiny.support and len(body["queries"]) == tiny.queries for body in bodies)
    (only,) = itertools.islice(BODIES["png"](tiny, 3, queries=False), 1)
    assert "queries" not in json.loads(only.content)


@pytest.mark.parametrize("kind", ["safetensors", "png"])
def test_two_seeds_send_different_bodies(kind: BodyKind, tiny: Work) -> None:
    def first(seed: int) -> Any:
        return next(BODIES[kind](tiny, seed, queries=False)).content

    assert first(1) == first(1) != first(2)


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Answers a POST 20 ms after it came, each connection by itself; 500 where the path says so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(0.02)
            content = b'{"id": "x"}'
            self.send_response(500 if self.path == "/wrong" else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _bodies() -> Iterator[Body]:
    return itertools.repeat(Body(b"{}", "application/json"))


def test_a_connection_asks_and_times(slow_server: str) -> None:
    connection = Connection(slow_server)
    assert connection.post("/right", next(_bodies())) == {"id": "x"}
    assert connection.timed("/right", next(_bodies())) >= 0.02
    with pytest.raises(BenchError, match="POST /wrong was answered 500"):
        connection.post("/wrong", next(_bodies()))
    connection.close()


def test_a_rate_is_that_of_all_connections(slow_server: str) -> None:
    rate = request_rate(slow_server, ["/right"], lambda _: _bodies(), connections=4, seconds=0.3)
    assert 0 < rate <= 4 / 0.02


def test_requests_arrive_whatever_the_server_does(slow_server: str) -> None:
    few = arriving(slow_server, "/right", _bodies(), rate=100, connections=1, seconds=0.5, seed=3)
    # As many as were due, and with one connection for twice its rate each waits for those before it.
    gaps = np.random.default_rng(3)
    due = np.cumsum([0, *gaps.exponential(1 / 100, 200)])
    assert len(few) == int((due < 0.5).sum())
    assert min(few) >= 0.02
    assert max(few) > 0.1
