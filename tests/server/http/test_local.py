"""Local mode: the same answers without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from kshot_models.errors import ArtifactNotFound
from kshot_server.local import open_async_transport, open_transport

TEACH = "/v1/models/tiny/sessions"


def test_a_folder_of_models(models: Path, bodies: Callable[..., Any]) -> None:
    with httpx.Client(transport=open_transport(str(models)), base_url="http://local", timeout=60) as client:
        assert client.post(TEACH, json=bodies().json).status_code == 201
        assert client.get("/metrics").text.count("kshot_") > 10


def test_the_folder_of_one_artifact_wherever_it_stands(
    models: Path, tmp_path: Path, bodies: Callable[..., Any]
) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.symlink_to(models / "tiny" / "2")
    with httpx.Client(transport=open_transport(str(elsewhere)), base_url="http://local", timeout=60) as client:
        assert client.get("/v1/models/tiny").json()["versions"] == ["2"]
        assert client.post(TEACH, json=bodies().json).status_code == 201


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="expected a folder or the name of a shipped model"):
        open_transport("no-such-model")
    with pytest.raises(ArtifactNotFound, match="expected a model in"):
        open_transport(str(tmp_path))


def test_an_async_client_on_its_own_loop(models: Path, bodies: Callable[..., Any]) -> None:
    async def scenario() -> list[int]:
        transport = open_async_transport(str(models))
        async with httpx.AsyncClient(transport=transport, base_url="http://local", timeout=60) as client:
            answers = await asyncio.gather(*(client.post(TEACH, json=bodies(seed=i).json) for i in range(8)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(scenario()) == [201] * 8


def test_many_threads_share_one_transport(models: Path, bodies: Callable[..., Any]) -> None:
    with httpx.Client(transport=open_transport(str(models)), base_url="http://local", timeout=60) as client:
        codes: list[int] = []

        def work(seed: int) -> None:
            codes.append(client.post(TEACH, json=bodies(seed=seed).json).status_code)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [201] * 6


def test_timeouts_of_the_client_hold(models: Path, bodies: Callable[..., Any]) -> None:
    local = httpx.Client(transport=open_transport(str(models)), base_url="http://local")
    with local as client, pytest.raises(httpx.ReadTimeout):
        client.post(TEACH, json=bodies().json, timeout=1e-6)

    async def scenario() -> None:
        transport = open_async_transport(str(models))
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(TEACH, json=bodies().json, timeout=1e-6)

    asyncio.run(scenario())


def test_closing_ends_it(models: Path) -> None:
    before = threading.active_count()
    transport = open_transport(str(models))
    client = httpx.Client(transport=transport, base_url="http://local")
    assert client.get("/livez").status_code == 200
    client.close()
    transport.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        transport.handle_request(httpx.Request("GET", "http://local/livez"))
