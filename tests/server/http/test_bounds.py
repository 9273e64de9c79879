"""What ends a request's work: its deadline, its client, or somebody else, and which of them is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from kshot_server.bounds import _MOMENT_SECONDS as MOMENT
from kshot_server.bounds import Bounds
from kshot_server.envelope import ClientGone
from kshot_server.faults import Fault


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def hung_up_after(seconds: float) -> Callable[[], Awaitable[Message]]:
    messages = [{"type": "http.disconnect"}, {"type": "http.request"}]

    async def receive() -> Message:
        await asyncio.sleep(seconds)
        return messages.pop()

    return receive


@pytest.mark.parametrize("seconds", [MOMENT / 4, 3 * MOMENT])
def test_a_deadline_is_told(seconds: float) -> None:
    async def work() -> None:
        with Bounds(never, seconds):
            await asyncio.sleep(60)

    with pytest.raises(Fault, match="deadline_exceeded") as caught:
        asyncio.run(work())
    assert f"{seconds:g} seconds" in caught.value.detail


@pytest.mark.parametrize("reading", [0.0, 2 * MOMENT])  # the body is there sooner than a moment, or later
def test_a_client_that_hangs_up_ends_the_work(reading: float) -> None:
    async def listen() -> None:
        with Bounds(hung_up_after(0.001), 60) as bounds:
            await asyncio.sleep(reading)
            bounds.end_with_client()
            await asyncio.sleep(60)

    async def work() -> int:
        with pytest.raises(ClientGone):
            await listen()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()  # the task may go on

    assert asyncio.run(work()) == 0


def test_a_client_is_not_listened_to_before_its_body_was_read() -> None:
    async def work() -> str:
        with Bounds(hung_up_after(0.001), 60):
            await asyncio.sleep(3 * MOMENT)
            return "done"

    assert asyncio.run(work()) == "done"


def test_who_is_cancelled_by_others_is_told_nothing() -> None:
    async def work(bounds: list[Bounds]) -> None:
        with Bounds(never, 60) as own:
            bounds.append(own)
            await asyncio.sleep(60)

    async def cancel_it(*, too_late: bool) -> None:
        bounds: list[Bounds] = []
        task = asyncio.create_task(work(bounds))
        await asyncio.sleep(0)
        if too_late:
            bounds[0]._too_late()  # at the same time
        task.cancel()
        await task

    for too_late in (False, True):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancel_it(too_late=too_late))


def test_errors_of_the_work_are_its_own() -> None:
    async def work() -> None:
        with Bounds(never, 60):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())


def test_nothing_is_left_for_the_garbage_collector() -> None:
    """Of a request that was watched: of each one that takes longer than a moment."""

    async def work() -> int:
        await watched()
        gc.collect()
        await watched()
        return gc.collect()

    async def watched() -> None:
        with Bounds(never, 60) as bounds:
            bounds.end_with_client()
            await asyncio.sleep(1.5 * MOMENT)
        await asyncio.sleep(0.01)  # the watcher ends

    gc.disable()
    try:
        assert asyncio.run(work()) == 0
    finally:
        gc.enable()
