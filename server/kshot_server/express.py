"""The road that most requests take: past the framework, straight to their endpoint.

    POST, path of a known route, no parameter that needs reading ──▶ Envelope ─▶ key ─▶ endpoint ─▶ answer
    anything else                                                ──▶ FastAPI  ─▶ ...  the same endpoint

FastAPI looks for the route, solves dependencies and reads parameters for some 0.4 ms of a core, which is as much as all
of a small classification needs; for routes whose only parameters are in the path there is nothing to solve. They are
declared to FastAPI all the same: it documents them, and serves them whenever there is more to read.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from kshot_server.envelope import Envelope
from kshot_server.errors import InputError
from kshot_server.faults import Fault
from kshot_server.gate import TIMEOUT_HEADER, Gate
from kshot_server.headers import header_of
from kshot_server.metrics import HttpMetrics
from kshot_server.problems import tell_problem

__all__ = ["Express"]

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()


class Express:
    """An ASGI application.

    Args:
        rest: answers what this does not.
        routes: those of them that only POST are answered here.
        gate: whose key and timeout the routes depend on.
        metrics: for the envelope.
    """

    def __init__(self, rest: ASGIApp, routes: Iterable[object], gate: Gate, metrics: HttpMetrics) -> None:
        self._rest = rest
        self._gate = gate
        self._routes = [route for route in routes if isinstance(route, APIRoute) and route.methods == {"POST"}]
        self._enveloped = Envelope(self._answer, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        await (self._enveloped if self._takes(scope) else self._rest)(scope, receive, send)

    def _takes(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return False
        if header_of(scope, _TIMEOUT_HEADER) is not None:
            return False
        for route in self._routes:
            match = route.path_regex.match(scope["path"])
            if match is not None:
                scope["route"], scope["path_params"] = route, match.groupdict()
                return True
        return False

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            self._gate.let_in(request)
            response = await scope["route"].endpoint(request, **scope["path_params"])
        except (InputError, Fault) as error:
            response = tell_problem(request, error)
        await response(scope, receive, send)
