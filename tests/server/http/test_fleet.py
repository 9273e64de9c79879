"""From the HTTP side to the engines: which gets a request, what happens when one dies, how one handles messages."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from kshot_server.engine.requests import Adapted, AdaptRequest, ClassifyRequest, NeedsSupport, Outcome, Support, Timings
from kshot_server.faults import Fault
from kshot_server.fleet import Fleet
from kshot_server.gathering import Gathering
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Cancel, Message, Ping, Pong, Reply
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

    def together(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_a_handler_answers_and_cancels() -> None:
    engine, replies = Engine(), list[tuple[Any, int, Reply]]()
    handler = MessageHandler(engine, lambda *reply: replies.append(reply))
    handler.take("a", [(1, Ping()), (2, Cancel(77))])
    assert replies == [("a", 1, Pong()), ("a", 2, Pong())]
    replies.clear()
    handler.take("a", [(3, request()), (4, request())])
    handler.take("b", [(4, request())])  # a number is its sender's
    assert replies == []
    handler.take("a", [(5, Cancel(4))])
    assert [future.cancelled() for future in engine.taken] == [False, True, False]
    assert replies == [("a", 4, Pong()), ("a", 5, Pong())]
    replies.clear()
    engine.taken[2].set_result(Adapted(Timings(1)))
    engine.taken[0].set_result(NeedsSupport())
    assert replies == [("b", 4, Adapted(Timings(1))), ("a", 3, NeedsSupport())]
    assert handler._open == {}


def test_what_comes_while_a_parcel_is_on_its_way_goes_in_the_next() -> None:
    parcels, under_way, go_on = list[list[int]](), threading.Event(), threading.Event()

    def hand_on(items: list[int]) -> None:
        parcels.append(items)
        under_way.set()
        assert go_on.wait(5)

    gathering = Gathering(hand_on, "test")
    gathering.add(0)
    assert under_way.wait(5)
    for item in range(1, 100):
        gathering.add(item)
    go_on.set()
    deadline = time.monotonic() + 5
    while sum(map(len, parcels)) < 100 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert parcels == [[0], list(range(1, 100))]


def test_messages_cross_the_process_border() -> None:
    ((number, work),) = pickle.loads(pickle.dumps([(7, request())]))
    assert number == 7
    assert work.support.inputs.shape == (2, 1, 1, 1)
    fault = pickle.loads(pickle.dumps(Fault("overloaded", "d", action="a", retry_after=3)))
    assert (fault.code, fault.detail, fault.action, fault.retry_after) == ("overloaded", "d", "a", 3)


class Line:
    """A line whose other end the test plays: work is answered when `go` is set, and `swallow` messages get lost."""

    def __init__(self, swallow: int = 0) -> None:
        self.swallow = swallow
        self.got: list[Message] = []
        self.numbers: list[int] = []
        self.go = asyncio.Event()

    def send(self, number: int, message: Message) -> asyncio.Future[Reply]:
        self.got.append(message)
        self.numbers.append(number)
        lost = self.swallow > 0
        self.swallow -= lost
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._answer(answer, message, lost=lost))
        answer.add_done_callback(lambda _: task.cancel())
        return answer

    async def _answer(self, answer: asyncio.Future[Reply], message: Message, *, lost: bool) -> None:
        if lost:
            await asyncio.Event().wait()
        if isinstance(message, AdaptRequest):
            await self.go.wait()
            answer.set_result(Adapted(Timings(0)))
        else:
            answer.set_result(Pong())


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
            await until(lambda: isinstance(line.got[-1], AdaptRequest))
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
            assert isinstance(work, AdaptRequest)
            assert cancel == Cancel(line.numbers[-2])
            assert len(set(line.numbers)) == len(line.numbers)

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
                message.session: i
                for i, line in enumerate(lines)
                for message in line.got
                if isinstance(message, AdaptRequest)
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
