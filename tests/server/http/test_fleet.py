"""From the HTTP side to the engines: which gets a request, what happens when one dies, how one handles messages."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from kshot_server.engine.requests import Adapted, AdaptRequest, ClassifyRequest, NeedsSupport, Outcome, Support, Timings
from kshot_server.faults import Fault
from kshot_server.fleet import Fleet
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply, Submit
from kshot_server.shared_state import SharedState


def request(session: str = "s_1") -> AdaptRequest:
    support = Support(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), 2)
    return AdaptRequest("digest", session, support, time.time() + 30)


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
