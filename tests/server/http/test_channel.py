"""Messages and how they travel: parcels, one that gathers, a handler, a channel between two processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from kshot_server.channel import Channel, socket_path
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
from kshot_server.gathering import Gathering
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Cancel, Cancelled, Reply
from kshot_server.parcels import pack, unpack

from .listening import Hearing, request, until


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
