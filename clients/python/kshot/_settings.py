"""How a client is set up: defaults, the environment, and the API key that never shows itself.

The environment is read when a client is made, never on import:

    KSHOT_URL        base URL, http://127.0.0.1:8000 without it
    KSHOT_API_KEY    sent as `Authorization: Bearer KEY`
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

import httpx

from ._errors import ConfigurationError
from ._retry import RetryPolicy
from ._version import __version__

__all__ = [
    "DEFAULT_MAX_BODY_BYTES",
    "DEFAULT_MAX_CONNECTIONS",
    "DEFAULT_TIMEOUT_SECONDS",
    "DEFAULT_URL",
    "NOT_GIVEN",
    "NotGiven",
    "Secret",
    "Settings",
    "changed_settings",
    "http_options",
    "make_settings",
]

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_CONNECTIONS = 20
DEFAULT_MAX_BODY_BYTES = 16 * 2**20

_CONNECT_SECONDS = 5.0

# Below the server's 10 s: the client drops an idle connection first, and requests rarely meet closed ones.
_IDLE_SECONDS = 4.0

# The server's deadline lies a little before the client's, so that its 504 with the reason arrives before we hang up.
_SERVER_SHARE = 0.9


class NotGiven(Enum):
    """The type of NOT_GIVEN, which says "as it was" where None has a meaning of its own."""

    NOT_GIVEN = "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN


class Secret:
    """A string that shows itself only to `reveal()`."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('****')"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a client knows about how to talk; `place` names its server in messages."""

    url: str
    place: str
    api_key: Secret | None
    timeout_seconds: float | None
    retry: RetryPolicy
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def timeout(self) -> httpx.Timeout:
        """The timeout of one attempt, for httpx: seconds without a byte, and at most 5 s for the connection."""
        seconds = self.timeout_seconds
        return httpx.Timeout(seconds, connect=_CONNECT_SECONDS if seconds is None else min(seconds, _CONNECT_SECONDS))

    @property
    def deadline_headers(self) -> dict[str, str]:
        """The header that tells the server until when an answer is of use."""
        if self.timeout_seconds is None:
            return {}
        return {"X-Timeout-Seconds": f"{self.timeout_seconds * _SERVER_SHARE:.3f}"}


def make_settings(
    url: str | None,
    *,
    api_key: str | None,
    timeout: float | None,
    retries: int | RetryPolicy,
    max_connections: int,
    max_body_bytes: int,
    headers: Mapping[str, str] | None,
) -> Settings:
    """Checked settings from a client's arguments, with the environment for what is not given.

    Raises:
        ConfigurationError: an argument is unusable.
    """
    address = _checked_url(url or os.environ.get("KSHOT_URL") or DEFAULT_URL)
    key = os.environ.get("KSHOT_API_KEY") if api_key is None else api_key
    for name, number in (("max_connections", max_connections), ("max_body_bytes", max_body_bytes)):
        if number < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {number}")
    return Settings(
        url=str(address),
        place=str(address.copy_with(userinfo=b"")).rstrip("/"),
        api_key=Secret(_checked_key(key)) if key else None,
        timeout_seconds=_checked_timeout(timeout),
        retry=_retry_policy(retries),
        max_connections=max_connections,
        max_body_bytes=max_body_bytes,
        headers=dict(headers or {}),
    )


def changed_settings(
    settings: Settings, timeout: float | NotGiven | None, retries: int | RetryPolicy | NotGiven
) -> Settings:
    """The same settings but for what is given."""
    if not isinstance(timeout, NotGiven):
        settings = replace(settings, timeout_seconds=_checked_timeout(timeout))
    if not isinstance(retries, NotGiven):
        settings = replace(settings, retry=_retry_policy(retries))
    return settings


def http_options(settings: Settings) -> dict[str, Any]:
    """The arguments for httpx.Client and httpx.AsyncClient alike."""
    headers = {"User-Agent": f"kshot-python/{__version__}", "Accept": "application/json", **settings.headers}
    if settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key.reveal()}"
    return {
        "base_url": settings.url,
        "headers": headers,
        "limits": httpx.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_connections,
            keepalive_expiry=_IDLE_SECONDS,
        ),
        # A proxy named in the environment cannot reach this machine's own loopback.
        "trust_env": not _is_loopback(httpx.URL(settings.url).host),
    }


def _checked_url(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise ConfigurationError(f"the base URL must look like http://host:port, not {url!r}")
    return address


def _checked_timeout(seconds: float | None) -> float | None:
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ConfigurationError(f"timeout must be above 0 seconds, or None to wait for ever, not {seconds!r}")
    return seconds


def _retry_policy(retries: int | RetryPolicy) -> RetryPolicy:
    return retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries)


def _checked_key(key: str) -> str:
    # Never quote the key: this message ends in logs.
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise ConfigurationError("the API key has white space around it or characters that no header can carry")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
