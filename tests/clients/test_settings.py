"""Arguments, environment and the API key that never shows itself."""

from __future__ import annotations

import httpx
import pytest

from kshot import AsyncClient, Client, ConfigurationError, RetryPolicy
from kshot._settings import NOT_GIVEN, Secret, changed_settings, http_options, make_settings

KEY = "k-super-secret"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KSHOT_URL", raising=False)
    monkeypatch.delenv("KSHOT_API_KEY", raising=False)


def settings(url: str | None = None, **changed: object) -> object:
    given = {
        "api_key": None,
        "timeout": 30.0,
        "retries": 2,
        "max_connections": 20,
        "max_body_bytes": 10,
        "headers": None,
    }
    return make_settings(url, **(given | changed))  # type: ignore[arg-type]


def test_defaults_then_environment_then_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        assert repr(client) == "<kshot.Client http://127.0.0.1:8000>"
    monkeypatch.setenv("KSHOT_URL", "https://kshot.example/base/")
    monkeypatch.setenv("KSHOT_API_KEY", KEY)
    with Client() as client:
        assert repr(client) == "<kshot.Client https://kshot.example/base api_key=****>"
        assert client._http.headers["Authorization"] == f"Bearer {KEY}"
    with Client("http://10.0.0.1", api_key="other") as client:
        assert repr(client) == "<kshot.Client http://10.0.0.1 api_key=****>"
        assert client._http.headers["Authorization"] == "Bearer other"
    with Client(api_key="") as client:
        assert "Authorization" not in client._http.headers
    assert repr(AsyncClient(api_key=KEY)) == "<kshot.AsyncClient https://kshot.example/base api_key=****>"


def test_secrets_do_not_show() -> None:
    assert KEY not in repr(Secret(KEY)) + str(Secret(KEY)) + f"{Secret(KEY)}"
    assert Secret(KEY).reveal() == KEY
    assert KEY not in repr(settings(api_key=KEY))
    with Client(f"http://user:{KEY}@example.org") as client:
        assert repr(client) == "<kshot.Client http://example.org>"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "/path", "http://host:notaport"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        Client(url)


@pytest.mark.parametrize("key", ["line\nbreak", "ключ", " padded"])
def test_bad_keys_are_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_bad_timeouts(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="above 0 seconds"):
        Client(timeout=seconds)


@pytest.mark.parametrize("name", ["max_connections", "max_body_bytes"])
def test_bad_sizes(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be at least 1"):
        settings(**{name: 0})


def test_the_server_gets_a_little_less_time_than_the_client_waits() -> None:
    ten = settings(timeout=10.0)
    assert ten.deadline_headers == {"X-Timeout-Seconds": "9.000"}
    assert ten.timeout == httpx.Timeout(10.0, connect=5.0)
    assert settings(timeout=2.0).timeout == httpx.Timeout(2.0, connect=2.0)
    endless = settings(timeout=None)
    assert endless.deadline_headers == {}
    assert endless.timeout == httpx.Timeout(None, connect=5.0)


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://localhost", False),
        ("http://127.0.0.9:1", False),
        ("http://[::1]", False),
        ("http://kshot.example", True),
    ],
)
def test_environment_proxies_are_not_asked_for_loopback(url: str, trusted: bool) -> None:
    assert http_options(settings(url))["trust_env"] is trusted


def test_changed_settings() -> None:
    before = settings()
    assert changed_settings(before, NOT_GIVEN, NOT_GIVEN) == before
    after = changed_settings(before, None, RetryPolicy(7))
    assert after.timeout_seconds is None
    assert after.retry.retries == 7
    with pytest.raises(ConfigurationError):
        changed_settings(before, 0, NOT_GIVEN)
    with pytest.raises(ConfigurationError):
        changed_settings(before, NOT_GIVEN, -1)
