"""Probes, pages and the edges of the map: what is there for operators, and that nothing else is."""

from __future__ import annotations

import re

import httpx
import pytest


def test_operations(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}
    for path in ("/livez", "/readyz"):
        assert (client.head(path).status_code, client.head(path).content) == (200, b"")
    page = client.get("/").text
    assert "tiny@10" in page
    assert "http://local/v1/models" in page
    assert client.get("/openapi.json").json()["info"]["title"] == "kshot"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(client: httpx.Client, path: str) -> None:
    """No address but this server's own, which the policy would not let a browser follow."""
    page = client.get(path)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for target in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert target.startswith("/")
        found = client.get(target)
        assert found.status_code == 200, target
        if target.startswith("/static/"):
            assert not re.search(r"https?://", found.text)


@pytest.mark.parametrize(
    "path", ["/health", "/info", "/predict", "/_engine/0", "/redoc", "/v1", "/v1/sessions/", "/shutdown"]
)
def test_nothing_else_is_there(client: httpx.Client, path: str) -> None:
    for answer in (client.get(path), client.post(path, json={})):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/models"), ("POST", "/livez"), ("PATCH", "/v1/sessions/x"), ("TRACE", "/")]
)
def test_wrong_methods_are_405(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_wrong_timeouts_are_422(client: httpx.Client, value: str) -> None:
    answer = client.get("/v1/models", headers={"X-Timeout-Seconds": value})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
