"""From the HTTP side to the engines: which gets a request, what happens when one dies, how one handles messages."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from kshot_server.channel import Channel, Listener, socket_path
from kshot_server.engine.requests import (
    Adapted,
    AdaptRequest,
    Classified,
    ClassifyRequest,
    Failed,
    NeedsSupport,
    Outcome,
    Support,
    Timings,
)
from kshot_server.faults import Fault
from kshot_server.fleet import Fleet
from kshot_server.gathering import Gathering
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Cancel, Cancelled, Messages, Reply
from kshot_server.parcels import pack, unpack
from kshot_server.shared_state import SharedState

# An engine's process without an engine: it answers who it is, and nothing to requests for the session "held".
PROGRAM = """
import os, sys
from pathlib import Path
from kshot_server.channel import Listener, socket_path
from kshot_server.engine.requests import Adapted, Timings

listener = Listener(socket_path(Path(sys.argv[1]), int(sys.argv[2]), os.getpid()))
print("up", flush=True)

def take(sender, messages):
    for number, message in messages:
        if getattr(message, "session", "held") != "held":
            listener.reply(sender, number, Adapted(Timings(os.getpid())))

listener.serve(take)
"""


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
    handler.take("a", [(2, Cancel(77)), (3, request()), (4, request())])
    handler.take("b", [(4, request())])  # a number is its sender's
    assert replies == []
    handler.take("a", [(5, Cancel(4))])
    assert [future.cancelled() for future in engine.taken] == [False, True, False]
    assert replies == [("a", 4, Cancelled())]
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


def test_messages_and_replies_are_bytes_and_come_back() -> None:
    random = np.random.default_rng(0)
    support = Support(random.integers(256, size=(3, 4, 5, 2), dtype=np.uint8), np.array([0, 1, 1]), 2)
    queries = random.integers(256, size=(7, 4, 5, 2), dtype=np.uint8)
    sent: list[tuple[int, Any]] = [
        (3, AdaptRequest("digest", "s_1", support, 12.5)),
        (5, ClassifyRequest("digest", "s_2", queries, None, 13.0)),
        (4, ClassifyRequest("digest", "s_3", queries[::2], support, 14.0)),
        (6, Cancel(4)),
        (7, Cancelled()),
        (8, NeedsSupport()),
        (9, Adapted(Timings(1.5, 2.5, 3.5, 4))),
        (10, Classified(random.random((7, 2), np.float32), Timings(1, predict_ms=0.1), "recomputed")),
        (11, Failed("invalid_targets", "ein Wort \u2713", (3,), np.int64(2), "do", "i-1")),
        (12, Failed("draining", "d")),
    ]
    back = unpack(bytearray(pack(sent)))
    assert [number for number, _ in back] == [number for number, _ in sent]
    for (_, was), (_, now) in zip(sent, back, strict=True):
        assert type(now) is type(was)
        assert _as_data(now) == _as_data(was)
    assert back[0][1].support.inputs.flags.writeable
    assert (back[-2][1].expected, back[-2][1].received) == ("(3,)", "2")
    kinds = get_args(AdaptRequest | ClassifyRequest | Cancel | Outcome | Cancelled)
    assert {type(message) for _, message in sent} == set(kinds)


def _as_data(message: Any) -> Any:
    if isinstance(message, np.ndarray):
        return message.dtype, message.tolist()
    if dataclasses.is_dataclass(message):
        return {field.name: _as_data(getattr(message, field.name)) for field in dataclasses.fields(message)}
    return str(message) if isinstance(message, tuple | np.integer) else message


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x05\0\0\0[1]",
        b"\2\0\0\0{]",
        b'\x0e\0\0\0[[1,"Nothing"]]',
        b'\x0c\0\0\0[[1,"Cancel"]',
        b'\x0e\0\0\0[[1,"Cancel"]] ',
    ],
)
def test_what_is_no_parcel_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        unpack(bytearray(wrong))


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="kshot-test-") as folder:
        yield Path(folder)


@pytest.fixture
def processes(sockets: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that listen as an engine's does."""
    started: list[subprocess.Popen[str]] = []

    def start(index: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(sockets), str(index)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def fleet_of(sockets: Path, shared: SharedState, **more: Any) -> Fleet:
    return Fleet(lambda index, pid: Channel.open(socket_path(sockets, index, pid)), shared, **more)


@contextlib.asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[None]:
    fleet.start()
    try:
        yield
    finally:
        await fleet.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_fleet_waits_for_an_engine_and_tells_of_its_death(processes: Any, sockets: Path) -> None:
    async def scenario() -> None:
        shared, deaths = SharedState(1), []
        fleet = fleet_of(sockets, shared, on_death=deaths.append)
        async with running(fleet):
            early = asyncio.create_task(fleet.submit(request()))
            await asyncio.sleep(0.1)
            assert not early.done()
            assert not fleet.ready
            first = processes()
            shared._pids[0] = first.pid
            assert await early == Adapted(Timings(first.pid))
            assert fleet.ready
            caught = asyncio.create_task(fleet.submit(request("held")))
            await fleet.submit(request())  # by then the other has been sent too
            first.kill()
            with pytest.raises(Fault, match="engine_unavailable"):
                await caught
            await until(lambda: deaths == [first.pid])
            assert not fleet.ready
            second = processes()
            shared._pids[0] = second.pid
            assert await fleet.submit(request()) == Adapted(Timings(second.pid))

    asyncio.run(scenario())


def test_an_engine_that_died_before_it_was_seen(processes: Any, sockets: Path) -> None:
    async def scenario() -> None:
        shared, deaths = SharedState(1), []
        gone = processes()
        gone.kill()
        gone.wait()
        shared._pids[0] = gone.pid
        async with running(fleet := fleet_of(sockets, shared, on_death=deaths.append)):
            await until(lambda: deaths == [gone.pid])
            assert not fleet.ready

    asyncio.run(scenario())


class Hearing:
    """A listener in this process, and what came to it."""

    def __init__(self, sockets: Path) -> None:
        self.parcels: list[Messages] = []
        self.senders: list[Any] = []
        self.listener = Listener(socket_path(sockets, 0, os.getpid()))
        threading.Thread(target=self.listener.serve, args=(self.take,), daemon=True).start()

    def take(self, sender: Any, messages: Messages) -> None:
        self.parcels.append(messages)
        self.senders.append(sender)

    def heard(self) -> Messages:
        return [numbered for parcel in self.parcels for numbered in parcel]


def test_a_cancelled_submit_is_told_to_the_engine(sockets: Path) -> None:
    async def scenario() -> None:
        shared, hearing = SharedState(1), Hearing(sockets)
        shared._pids[0] = os.getpid()
        fleet = fleet_of(sockets, shared)
        async with running(fleet):
            await until(lambda: fleet.ready)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fleet.submit(request()), 0.2)
            await until(lambda: len(hearing.heard()) == 2)
            (number, work), (_, cancel) = hearing.heard()
            assert isinstance(work, AdaptRequest)
            assert cancel == Cancel(number)
            (station,) = fleet._stations
            assert station.channel is not None
            assert station.channel._open == {}

    asyncio.run(scenario())


def test_what_a_turn_of_the_loop_sends_is_one_parcel_and_replies_find_their_requests(sockets: Path) -> None:
    async def scenario() -> None:
        hearing = Hearing(sockets)
        channel = await Channel.open(socket_path(sockets, 0, os.getpid()))
        tasks = [asyncio.create_task(channel.ask(request(f"s_{i}"))) for i in range(20)]
        await until(lambda: len(hearing.heard()) == 20)
        assert [len(parcel) for parcel in hearing.parcels] == [20]
        for number, message in reversed(hearing.heard()):
            assert isinstance(message, AdaptRequest)
            hearing.listener.reply(hearing.senders[0], number, Adapted(Timings(float(message.session[2:]))))
        assert await asyncio.gather(*tasks) == [Adapted(Timings(i)) for i in range(20)]
        assert channel._open == {}
        channel.close()
        await channel.closed
        with pytest.raises(Fault, match="engine_unavailable"):
            await channel.ask(request())

    asyncio.run(scenario())


def test_large_messages_pass(sockets: Path) -> None:
    async def scenario() -> None:
        hearing = Hearing(sockets)
        channel = await Channel.open(socket_path(sockets, 0, os.getpid()))
        queries = np.random.default_rng(0).integers(256, size=(1000, 84, 84, 3), dtype=np.uint8)
        sent = ClassifyRequest("digest", "s_1", queries, None, 1.0)
        task = asyncio.create_task(channel.ask(sent))
        await until(hearing.heard)
        ((number, message),) = hearing.heard()
        assert isinstance(message, ClassifyRequest)
        assert (message.queries == queries).all()
        hearing.listener.reply(hearing.senders[0], number, NeedsSupport())
        assert await task == NeedsSupport()
        channel.close()

    asyncio.run(scenario())


def test_an_engine_outlives_a_killed_sender_and_ends_at_what_it_cannot_read(processes: Any, sockets: Path) -> None:
    engine = processes()
    path = socket_path(sockets, 0, engine.pid)
    with socket.socket(socket.AF_UNIX) as cut:
        cut.connect(str(path))
        cut.sendall((1 << 20).to_bytes(8, "little") + b"the rest never comes")

    async def scenario() -> None:
        channel = await Channel.open(path)
        assert await channel.ask(request()) == Adapted(Timings(engine.pid))
        channel.close()

    asyncio.run(scenario())
    with socket.socket(socket.AF_UNIX) as broken:
        broken.connect(str(path))
        broken.sendall((3).to_bytes(8, "little") + b"\x80\x05x")
        assert engine.wait(10) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_nobody_else_is_heard(processes: Any, sockets: Path) -> None:
    engine = processes()
    path = socket_path(sockets, 0, engine.pid)
    sockets.chmod(0o755)
    path.chmod(0o777)
    program = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "print(s.recv(1))"
    )
    command = [sys.executable, "-c", program, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout == "b''\n"


def test_sessions_stay_with_their_engine_and_move_only_when_it_dies(processes: Any, sockets: Path) -> None:
    async def scenario() -> None:
        shared, workers = SharedState(3), [processes(i) for i in range(3)]
        for i, worker in enumerate(workers):
            shared._pids[i] = worker.pid
        fleet = fleet_of(sockets, shared)
        sessions = [f"s_{i}" for i in range(60)]

        async def places() -> dict[str, int]:
            found: dict[str, int] = {}
            for session in sessions:
                outcome = await fleet.submit(request(session))
                assert isinstance(outcome, Adapted)
                found[session] = int(outcome.timings.queue_ms)
            return found

        async with running(fleet):
            await until(lambda: all(station.channel is not None for station in fleet._stations))
            before = await places()
            assert await places() == before
            assert all(list(before.values()).count(worker.pid) > 8 for worker in workers)
            lost = workers[1].pid
            workers[1].kill()
            await until(lambda: fleet._stations[1].channel is None)
            after = await places()
            assert {s: i for s, i in after.items() if before[s] != lost} == {
                s: i for s, i in before.items() if i != lost
            }
            assert lost not in after.values()

    asyncio.run(scenario())
