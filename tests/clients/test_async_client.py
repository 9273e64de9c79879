"""The asyncio client: the same verbs as the blocking one, and a loop that never waits for files or images."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot import APITimeoutError, AsyncClient, AsyncSession, Client, ServerError, Session, SessionNotFoundError
from kshot._images import as_files

Draw = Callable[..., np.ndarray]


@pytest.fixture
def support(draw: Draw) -> dict[str, np.ndarray]:
    return {"alpha": draw(1), "beta": draw(2)}


def test_a_whole_story(async_client: AsyncClient, double: Any, support: Any, draw: Draw) -> None:
    async def story() -> None:
        async with async_client as client:
            assert await client.ready()
            assert (await client.models())[0] == await client.model("omniglot")
            session = await client.adapt("omniglot", support, ttl_seconds=5)
            assert [one.label for one in await session.classify([support["beta"]] * 10)] == ["beta"] * 10
            wider = await session.extend({"gamma": draw(3)})
            assert wider.labels == ("alpha", "beta", "gamma")
            assert (await client.classify("omniglot", support, support["alpha"]))[0].label == "alpha"
            assert [info.id async for info in client.sessions(page_size=1)] == [session.id, wider.id]
            found = await client.session(session.id)
            assert (await found.info()).ttl_seconds == 5
            assert repr(found).startswith("<kshot.AsyncSession s_")
            await client.delete_session(wider.id)
            await found.delete()
            double.sessions.clear()
            assert (await session.classify(support["alpha"]))[0].label == "alpha"

    asyncio.run(story())
    assert [len(parsed.queries) for parsed in double.parsed[1:3]] == [8, 2]


def test_retries_and_errors(async_client: AsyncClient, double: Any, answer: Any) -> None:
    async def story() -> None:
        async with async_client as client:
            double.fail(503, 502)
            assert await client.models()
            double.faults += [answer(cut=True)]
            assert await client.models()
            double.fail(500)
            with pytest.raises(ServerError):
                await client.models()
            double.faults += [answer(delay=0.3)]
            with pytest.raises(APITimeoutError):
                await client.with_options(timeout=0.05, retries=0).models()

    asyncio.run(story())
    assert len(double.received) == 7


def test_the_context_deletes_what_it_made(async_client: AsyncClient, double: Any, support: Any) -> None:
    async def story() -> None:
        async with async_client as client:
            async with await client.adapt("omniglot", support) as session:
                assert session.id in double.sessions
                async with await client.adapt("omniglot", support):
                    pass
                assert session.id in double.sessions
            assert double.sessions == {}
            with pytest.raises(SessionNotFoundError):
                await session.classify(support["alpha"])
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is the subject
                async with await client.adapt("omniglot", support):
                    double.fail(500)
                    raise ZeroDivisionError

    asyncio.run(story())


def test_many_tasks_share_a_client(async_client: AsyncClient, double: Any, draw: Draw) -> None:
    async def story() -> list[str]:
        async with async_client as client:
            session = await client.adapt("omniglot", {str(i): draw(i) for i in range(8)})
            answers = await asyncio.gather(*(session.classify(draw(i % 8)) for i in range(64)))
            return [predictions[0].label for predictions in answers]

    assert asyncio.run(story()) == [str(i % 8) for i in range(64)]


def test_the_loop_goes_on_while_a_file_is_read(async_client: AsyncClient, tmp_path: Path, support: Any) -> None:
    """A named pipe blocks its reader until somebody writes; the event loop must not be that reader."""
    pipe = tmp_path / "slow.png"
    os.mkfifo(pipe)

    async def story() -> float:
        async with async_client as client:
            session = await client.adapt("omniglot", support)
            asking = asyncio.create_task(session.classify(pipe))
            await asyncio.sleep(0.05)  # blocks for ever if the pipe is read on the loop
            alive = time.monotonic()
            await asyncio.to_thread(pipe.write_bytes, _png())
            await asking
            return alive

    assert asyncio.run(asyncio.wait_for(story(), 10)) > 0


def _png() -> bytes:
    return as_files([np.zeros((12, 12), np.uint8)])[0]


@pytest.mark.parametrize(("blocking", "other"), [(Client, AsyncClient), (Session, AsyncSession)])
def test_both_have_the_same_verbs_and_arguments(blocking: type, other: type) -> None:
    def verbs(kind: type) -> dict[str, list[tuple[str, object, object]]]:
        return {
            name.replace("aclose", "close"): [(p.name, p.kind, p.default) for p in signature.parameters.values()]
            for name, member in inspect.getmembers(kind)
            if not name.startswith("_") and callable(member) and (signature := inspect.signature(member))
        }

    assert verbs(blocking) == verbs(other)


@pytest.mark.parametrize("kind", [Client, AsyncClient, Session, AsyncSession])
def test_every_verb_is_documented(kind: type) -> None:
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
