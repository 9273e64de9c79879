"""Around every request: an id, the time it took, a line in the log, a count. The outermost layer of the application.

X-Request-Id    the sender's, if it is sane, else a new one; problem+json and log lines carry it too
Server-Timing   queue, decode, adapt, predict as far as they happened, and total, in milliseconds
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kshot_server.headers import header_of
from kshot_server.logs import log_plainly, request_id_var
from kshot_server.metrics import HttpMetrics
from kshot_server.problems import internal_problem

__all__ = ["ClientGone", "Envelope"]

_log = logging.getLogger("kshot_server.access")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ORDER = ("queue", "decode", "adapt", "predict")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})


class ClientGone(Exception):  # noqa: N818 - reads as the state it names
    """The client hung up before it had its answer; there is nobody to answer."""


class Envelope:
    """The middleware. What a request's handlers leave in its state is told: `phases`, `tenant`, `problem`."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event; anything but HTTP goes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        token = request_id_var.set(exchange.request_id)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientGone:
            exchange.status = 499  # nginx's number for it; nobody sees it but the log and the metrics
        except Exception:  # noqa: BLE001 - the last resort: whatever it is, the client gets an answer
            _log.exception("internal error")
            exchange.state["problem"] = "internal_error"
            if not exchange.started:
                await internal_problem(exchange.request_id)(scope, receive, exchange.send)
        finally:
            self._record(exchange)
            request_id_var.reset(token)

    def _record(self, exchange: _Exchange) -> None:
        route: str = getattr(exchange.scope.get("route"), "path", "unmatched")
        method = exchange.scope["method"] if exchange.scope["method"] in _METHODS else "other"
        seconds = time.perf_counter() - exchange.begun
        phases = exchange.phases
        self._metrics.answered(route, method, exchange.status, seconds)
        for phase, spent in phases.items():
            self._metrics.phase(phase, spent)
        problem = exchange.state.get("problem")
        if problem is not None:
            self._metrics.problem(problem)
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if not _log.isEnabledFor(level):
            return
        fields: dict[str, Any] = {"milliseconds": round(seconds * 1e3, 2)}
        for phase, spent in phases.items():
            fields[f"{phase}_ms"] = round(spent * 1e3, 2)
        if problem:
            fields["problem"] = problem
        if "tenant" in exchange.state:
            fields["tenant"] = exchange.state["tenant"]
        log_plainly(_log, level, f"{method} {route} {exchange.status}", fields)


_UNLESS_THERE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.begun = time.perf_counter()
        self.status = 500
        self.started = False
        self._send = send
        given = header_of(scope, b"x-request-id")
        self.request_id = given if given and _SANE_ID.fullmatch(given) else os.urandom(16).hex()
        self.state: MutableMapping[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.request_id

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase, as far as the handler told."""
        phases: Mapping[str, float] = self.state.get("phases", {})
        return phases

    async def send(self, message: Message) -> None:
        """Pass a message on, with our headers on the first."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            given = message.get("headers", ())
            headers: list[tuple[bytes, bytes]] = [
                *given,
                (b"x-request-id", self.request_id.encode("latin-1")),
                (b"server-timing", self._timing().encode("latin-1")),
            ]
            there = {name.lower() for name, _ in given}
            headers += [header for header in _UNLESS_THERE if header[0] not in there]
            message["headers"] = headers
        await self._send(message)

    def _timing(self) -> str:
        phases = self.phases
        parts = [f"{name};dur={phases[name] * 1e3:.3f}" for name in _ORDER if name in phases]
        return ", ".join([*parts, f"total;dur={(time.perf_counter() - self.begun) * 1e3:.3f}"])
