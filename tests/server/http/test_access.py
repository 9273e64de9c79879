"""Who may ask, and what others see of it: keys, tenants, rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx


def test_tenants_do_not_see_each_other(application: Callable[..., httpx.Client], bodies: Callable[..., Any]) -> None:
    client = application(keys={"key-of-alice-0123": "alice", "key-of-bob-012345": "bob"})
    alice, bob = {"Authorization": "Bearer key-of-alice-0123"}, {"X-API-Key": "key-of-bob-012345"}
    made = client.post("/v1/models/tiny/sessions", json=bodies().json, headers=alice).json()["id"]
    queries = bodies(queries=1).query_json
    unknown = client.get(f"/v1/sessions/s_{'0' * 32}", headers=bob).json()
    for answer in (
        client.get(f"/v1/sessions/{made}", headers=bob),
        client.delete(f"/v1/sessions/{made}", headers=bob),
        client.post(f"/v1/sessions/{made}/classify", json=queries, headers=bob),
        client.post(f"/v1/sessions/{made}/support", json=bodies(seed=1).json, headers=bob),
    ):
        assert answer.status_code == 404
        assert {**answer.json(), "request_id": ""} == {**unknown, "request_id": ""}
    assert client.get("/v1/sessions", headers=bob).json()["sessions"] == []
    assert client.post(f"/v1/sessions/{made}/classify", json=queries, headers=alice).status_code == 200
    theirs = client.post("/v1/models/tiny/sessions", json=bodies().json, headers=bob).json()
    assert theirs["id"] != made
    assert theirs["cached"] is False


def test_keys_are_needed_where_there_are_some(
    application: Callable[..., httpx.Client], bodies: Callable[..., Any]
) -> None:
    client = application(keys={"key-of-alice-0123": "alice"})
    for headers in (
        {},
        {"Authorization": "Bearer no"},
        {"Authorization": "Basic key-of-alice-0123"},
        {"X-API-Key": ""},
    ):
        answer = client.post("/v1/models/tiny/sessions", json=bodies().json, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/v1/models", headers=headers).status_code == 401
        # Nor is anything said of what else is wrong.
        for path, wrong in (("/v1/sessions?limit=0", {}), ("/v1/models", {"X-Timeout-Seconds": "nan"})):
            assert client.get(path, headers=headers | wrong).status_code == 401
    for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert "tiny" not in client.get("/").text


def test_a_tenant_has_a_rate(application: Callable[..., httpx.Client]) -> None:
    client = application(keys={"key-of-alice-0123": "alice", "key-of-bob-012345": "bob"}, rate_limit=0.5)
    headers = {"X-API-Key": "key-of-alice-0123"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    refused = client.get("/v1/models", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 2
    assert client.get("/v1/models", headers={"X-API-Key": "key-of-bob-012345"}).status_code == 200
