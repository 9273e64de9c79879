"""From the HTTP side to the engines: which gets a request, and what happens when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kshot_server.channel import Channel, socket_path
from kshot_server.engine.requests import (
    Adapted,
    AdaptRequest,
    Timings,
)
from kshot_server.faults import Fault
from kshot_server.fleet import Fleet
from kshot_server.messages import Cancel
from kshot_server.shared_state import SharedState

from .listening import Hearing, request, until


def fleet_of(sockets: Path, shared: SharedState, **more: Any) -> Fleet:
    return Fleet(lambda index, pid: Channel.open(socket_path(sockets, index, pid)), shared, **more)


@contextlib.asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[None]:
    fleet.start()
    try:
        yield
    finally:
        await fleet.stop()


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
