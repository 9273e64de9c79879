"""A store that goes away under a running server: known sessions go on, new ones are refused or volatile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..sessions.redis_server import RedisServer, running_redis

TEACH = "/v1/models/tiny/sessions"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def test_without_its_store_known_sessions_go_on(
    serve: Any, models: Path, bodies: Callable[..., Any], redis: RedisServer
) -> None:
    with (
        serve("--models", str(models), "--store", redis.url, "--log-level", "error") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        body = bodies(queries=2)
        known = client.post(TEACH, json={"support": body.json["support"]}).json()["id"]
        wanted = client.post(f"/v1/sessions/{known}/classify", json=body.query_json).json()
        redis.kill()
        assert client.post(f"/v1/sessions/{known}/classify", json=body.query_json).json() == wanted
        again = client.post(TEACH, json={"support": body.json["support"]})
        assert (again.status_code, again.json()["id"]) == (200, known)
        refused = client.post(TEACH, json=bodies(seed=1).json)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        volatile = client.post(TEACH, json=bodies(seed=1).json | {"durability": "volatile"})
        assert (volatile.status_code, volatile.json()["durability"]) == (201, "volatile")
        path = f"/v1/sessions/{volatile.json()['id']}/classify"
        assert client.post(path, json=body.query_json).status_code == 200
        once = client.post("/v1/models/tiny/classify", json=bodies(seed=2, queries=1).json)
        assert once.status_code == 200
        unknown = client.get(f"/v1/sessions/s_{'0' * 32}")
        assert (unknown.status_code, unknown.json()["code"]) == (503, "store_unavailable")
        assert client.get("/readyz").status_code == 200
