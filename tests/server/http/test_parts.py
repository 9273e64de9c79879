"""The smaller parts, each alone: admission, message handler, fleet, envelope, logs, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message as AsgiMessage

from kshot_server.admission import Admission, RateLimiter
from kshot_server.engine.requests import Adapted, AdaptRequest, ClassifyRequest, NeedsSupport, Outcome, Support, Timings
from kshot_server.envelope import ClientGone, Envelope
from kshot_server.faults import Fault
from kshot_server.fleet import Fleet
from kshot_server.logs import configure_logs
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply, Submit
from kshot_server.metrics import HttpMetrics
from kshot_server.shared_state import Phase, SharedState


def request(session: str = "s_1") -> AdaptRequest:
    support = Support(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), 2)
    return AdaptRequest("digest", session, support, time.time() + 30)


# -- admission ---------------------------------------------------------------------------------------------------------


def test_permits_come_back() -> None:
    admission = Admission(2)
    with admission.permit(), admission.permit():
        with pytest.raises(Fault, match="overloaded"), admission.permit():
            pass
        assert admission.in_flight == 2
    with contextlib.suppress(ZeroDivisionError), admission.permit():
        raise ZeroDivisionError
    assert admission.in_flight == 0


def test_rates_fill_up_again_and_are_each_tenants_own() -> None:
    now = [0.0]
    limiter = RateLimiter(10, clock=lambda: now[0])
    for _ in range(20):
        limiter.take("a")
    with pytest.raises(Fault, match="rate_limited") as caught:
        limiter.take("a")
    assert caught.value.retry_after == 1
    limiter.take("b")
    now[0] = 0.1
    limiter.take("a")
    with pytest.raises(Fault, match="rate_limited"):
        limiter.take("a")


def test_many_tenants_do_not_grow_for_ever() -> None:
    limiter = RateLimiter(1, clock=lambda: 0.0)
    for i in range(10_050):
        limiter.take(str(i))
    assert len(limiter._buckets) == 10_000


def test_rate_zero_is_no_limit() -> None:
    limiter = RateLimiter(0)
    for _ in range(1000):
        limiter.take("a")


# -- message handler ---------------------------------------------------------------------------------------------------


class Engine:
    """Takes requests and answers when told to."""

    def __init__(self) -> None:
        self.taken: list[Future[Outcome]] = []

    def submit(self, request: AdaptRequest | ClassifyRequest) -> Future[Outcome]:
        self.taken.append(Future())
        return self.taken[-1]


def test_a_handler_answers_and_cancels() -> None:
    async def scenario() -> None:
        engine = Engine()
        handler = MessageHandler(engine)
        assert await handler.handle(Ping()) == Pong()
        assert await handler.handle(Cancel("unknown")) == Pong()
        first = asyncio.create_task(handler.handle(Submit("1", request())))
        second = asyncio.create_task(handler.handle(Submit("2", request())))
        await asyncio.sleep(0)
        assert await handler.handle(Cancel("2")) == Pong()
        assert engine.taken[1].cancelled()
        assert await second == Pong()
        engine.taken[0].set_result(NeedsSupport())
        assert await first == NeedsSupport()
        assert handler._open == {}

    asyncio.run(scenario())


def test_messages_cross_the_process_border() -> None:
    work = pickle.loads(pickle.dumps(Submit("t", request())))
    assert work.submission == "t"
    assert work.request.support.inputs.shape == (2, 1, 1, 1)
    fault = pickle.loads(pickle.dumps(Fault("overloaded", "d", action="a", retry_after=3)))
    assert (fault.code, fault.detail, fault.action, fault.retry_after) == ("overloaded", "d", "a", 3)


# -- fleet -------------------------------------------------------------------------------------------------------------


class Line:
    """A line whose other end the test plays: work is answered when `go` is set, and `swallow` messages get lost."""

    def __init__(self, swallow: int = 0) -> None:
        self.swallow = swallow
        self.got: list[Message] = []
        self.go = asyncio.Event()

    async def call(self, message: Message) -> Reply:
        self.got.append(message)
        if self.swallow:
            self.swallow -= 1
            await asyncio.Event().wait()
        if isinstance(message, Submit):
            await self.go.wait()
            return Adapted(Timings(0))
        return Pong()


@pytest.fixture
def processes() -> Iterator[Any]:
    """Starts processes that do nothing, to be announced and killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[None]:
    fleet.start()
    try:
        yield
    finally:
        await fleet.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_fleet_waits_for_an_engine_and_tells_of_its_death(processes: Any) -> None:
    async def scenario() -> None:
        shared, line, deaths = SharedState(1), Line(), []
        line.go.set()
        fleet = Fleet([line], shared, on_death=deaths.append)
        async with running(fleet):
            early = asyncio.create_task(fleet.submit(request()))
            await asyncio.sleep(0.1)
            assert not early.done()
            assert not fleet.ready
            first = processes()
            shared._pids[0] = first.pid
            assert isinstance(await early, Adapted)
            assert fleet.ready
            line.go.clear()
            caught = asyncio.create_task(fleet.submit(request()))
            await until(lambda: isinstance(line.got[-1], Submit))
            first.kill()
            with pytest.raises(Fault, match="engine_unavailable"):
                await caught
            first.wait()
            await until(lambda: deaths == [first.pid])
            assert not fleet.ready
            # The dead one's reader in the queue takes the next two messages with it.
            line.swallow = 2
            line.go.set()
            shared._pids[0] = processes().pid
            assert isinstance(await fleet.submit(request()), Adapted)
            pings = [message for message in line.got if isinstance(message, Ping)]
            assert len(pings) == 4

    asyncio.run(scenario())


def test_an_engine_that_died_before_it_was_seen(processes: Any) -> None:
    async def scenario() -> None:
        shared, deaths = SharedState(1), []
        fleet = Fleet([Line()], shared, on_death=deaths.append)
        gone = processes()
        gone.kill()
        gone.wait()
        shared._pids[0] = gone.pid
        async with running(fleet):
            await until(lambda: deaths == [gone.pid])
            assert not fleet.ready

    asyncio.run(scenario())


def test_a_cancelled_submit_is_told_to_the_engine(processes: Any) -> None:
    async def scenario() -> None:
        shared, line = SharedState(1), Line()
        shared._pids[0] = processes().pid
        fleet = Fleet([line], shared)
        async with running(fleet):
            await until(lambda: fleet.ready)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fleet.submit(request()), 0.2)
            await until(lambda: isinstance(line.got[-1], Cancel))
            work, cancel = line.got[-2:]
            assert isinstance(work, Submit)
            assert cancel == Cancel(work.submission)

    asyncio.run(scenario())


def test_sessions_stay_with_their_engine_and_move_only_when_it_dies(processes: Any) -> None:
    async def scenario() -> None:
        shared, lines = SharedState(3), [Line() for _ in range(3)]
        workers = [processes() for _ in range(3)]
        for line in lines:
            line.go.set()
        for i, worker in enumerate(workers):
            shared._pids[i] = worker.pid
        fleet = Fleet(lines, shared)
        sessions = [f"s_{i}" for i in range(60)]

        async def places() -> dict[str, int]:
            for line in lines:
                line.got.clear()
            for session in sessions:
                await fleet.submit(request(session))
            return {
                message.request.session: i
                for i, line in enumerate(lines)
                for message in line.got
                if isinstance(message, Submit)
            }

        async with running(fleet):
            await until(lambda: all(station.up for station in fleet._stations))
            before = await places()
            assert await places() == before
            assert all(list(before.values()).count(i) > 8 for i in range(3))
            workers[1].kill()
            workers[1].wait()
            await until(lambda: not fleet._stations[1].up)
            after = await places()
            assert {s: i for s, i in after.items() if before[s] != 1} == {s: i for s, i in before.items() if i != 1}
            assert 1 not in after.values()

    asyncio.run(scenario())


# -- shared state ------------------------------------------------------------------------------------------------------


def announce(shared: SharedState, index: int) -> None:
    shared.announce(index)


def test_shared_state_is_seen_by_spawned_and_forked_processes() -> None:
    shared = SharedState(2)
    for index, method in enumerate(("spawn", "fork")):
        child = multiprocessing.get_context(method).Process(target=announce, args=(shared, index))
        child.start()
        child.join()
        assert shared.pid(index) == child.pid


def test_phases_only_go_up() -> None:
    shared = SharedState(1)
    assert shared.phase is Phase.SERVING
    shared.phase = Phase.DRAINED
    shared.phase = Phase.DRAINING
    assert shared.phase is Phase.DRAINED


def test_a_child_ends_with_its_parent() -> None:
    program = (
        "import os, sys, time\n"
        "from kshot_server.orphans import forked_children_end_with\n"
        "forked_children_end_with(os.getpid())\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            os.kill(child, 0)
            time.sleep(0.05)
    assert time.monotonic() < deadline


# -- envelope, logs, metrics -------------------------------------------------------------------------------------------


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
