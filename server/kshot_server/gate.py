"""What every request to /v1 passes: key, rate, permit, deadline, body. A refusal costs nothing of what comes after it.

key ─▶ parameters ─▶ draining? ─▶ rate ─▶ permit ─▶ deadline ─┬▶ read the body, up to its limit ─▶ work ─▶ answer
401       422           503       429      503        504     └─ client hangs up: the work is cancelled

Key and deadline are dependencies of the router, which FastAPI asks before it looks at a route's parameters: who has no
key is told that and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, Security, params
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from kshot_server.admission import Admission, RateLimiter
from kshot_server.auth import ApiKeys
from kshot_server.bodies.base import Body, Parts
from kshot_server.bodies.table import check_media_type, read_body
from kshot_server.bounds import Bounds
from kshot_server.decoding import Decoder
from kshot_server.envelope import ClientGone
from kshot_server.errors import InputError
from kshot_server.faults import Fault
from kshot_server.headers import header_of
from kshot_server.metrics import HttpMetrics
from kshot_server.service.context import RequestContext

__all__ = ["TIMEOUT_HEADER", "Gate"]

_SMALL_BODY_BYTES = 16 * 1024

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="Authorization: Bearer KEY")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="X-API-Key: KEY")

TIMEOUT_HEADER = "X-Timeout-Seconds"

_Timeout = Annotated[
    float | None,
    Header(
        alias=TIMEOUT_HEADER,
        gt=0,
        allow_inf_nan=False,
        description="Give up after so many seconds (504). The server has a longest of its own.",
    ),
]


class Gate:
    """Lets requests through.

    Args:
        keys: who may ask.
        rates: how often.
        admission: how many at once.
        draining: whether the server has begun to end, so that new requests are refused.
        decoder: the threads that parse bodies.
        metrics: where refusals are counted.
        timeout: longest time that a request may take, in seconds.
        max_body_bytes: largest body.
        max_pixels: most pixels of one image.
    """

    def __init__(
        self,
        *,
        keys: ApiKeys,
        rates: RateLimiter,
        admission: Admission,
        draining: Callable[[], bool],
        decoder: Decoder,
        metrics: HttpMetrics,
        timeout: float,
        max_body_bytes: int,
        max_pixels: int,
    ) -> None:
        self._keys = keys
        self._rates = rates
        self._admission = admission
        self._draining = draining
        self._decoder = decoder
        self._metrics = metrics
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes
        self._max_pixels = max_pixels

    @property
    def dependencies(self) -> list[params.Depends]:
        """What the router of the gated routes depends on, in this order; `let_in` does the same without a router."""
        return [Security(self._authenticate), Depends(self._read_timeout)]

    def let_in(self, request: Request) -> None:
        """Read the key of a request that has no timeout of its own.

        Raises:
            InputError: `unauthorized`.
        """
        state = request.scope["state"]
        state["tenant"] = self._tenant_of(_key_of(request))
        state["timeout_seconds"] = self._timeout

    async def _authenticate(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> None:
        del bearer, header  # for the document
        request.scope["state"]["tenant"] = self._tenant_of(_key_of(request))

    async def _read_timeout(self, request: Request, timeout: _Timeout = None) -> None:
        request.scope["state"]["timeout_seconds"] = min(timeout or self._timeout, self._timeout)

    async def run(self, request: Request, work: Callable[[RequestContext], Awaitable[Response]]) -> Response:
        """Answer a request, whose key and timeout were read as `dependencies`, with `work`; or refuse it.

        Raises:
            InputError: what `work` finds wrong.
            Fault: `draining`, `rate_limited`, `overloaded`, `deadline_exceeded`, or what `work` cannot do.
            ClientGone: the client hung up.
        """
        return await self._let_through(request, lambda context, _: work(context))

    async def run_with_body(
        self, request: Request, parts: Parts, work: Callable[[RequestContext, Body], Awaitable[Response]]
    ) -> Response:
        """As `run`, for a route that takes a body of `parts`.

        The work is cancelled if the client hangs up.

        Raises:
            InputError: also `unsupported_media_type` and `payload_too_large`, in both cases before the body was read to
                its end, and all that can be wrong with a body.
        """

        async def read_and_work(context: RequestContext, bounds: Bounds) -> Response:
            body = await self._body(request, parts)
            bounds.end_with_client()
            return await work(context, body)

        return await self._let_through(request, read_and_work)

    async def _let_through(
        self, request: Request, work: Callable[[RequestContext, Bounds], Awaitable[Response]]
    ) -> Response:
        state = request.scope["state"]
        tenant: str = state["tenant"]
        try:
            self._refuse_while_draining()
            self._rates.take(tenant)
            self._admission.enter()
        except Fault as fault:
            self._metrics.rejected(fault.code)
            raise
        try:
            self._metrics.in_flight(self._admission.in_flight)
            seconds: float = state["timeout_seconds"]
            context = RequestContext(tenant, time.time() + seconds)
            state["phases"] = context.phases
            with Bounds(request.receive, seconds) as bounds:
                return await work(context, bounds)
        finally:
            self._admission.leave()
            self._metrics.in_flight(self._admission.in_flight)

    def _refuse_while_draining(self) -> None:
        if self._draining():
            raise Fault(
                "draining",
                "This server is shutting down and takes no new requests.",
                action="Send the request again: another replica, or the next server, will answer.",
                retry_after=1,
            )

    def _tenant_of(self, key: str | None) -> str:
        tenant = self._keys.tenant_of(key)
        if tenant is None:
            self._metrics.rejected("unauthorized")
            raise InputError(
                "unauthorized",
                "The request has no API key, or one that is not known.",
                expected="Authorization: Bearer KEY, or X-API-Key: KEY",
            )
        return tenant

    async def _body(self, request: Request, parts: Parts) -> Body:
        content_type = header_of(request.scope, b"content-type") or ""
        check_media_type(content_type, header_of(request.scope, b"content-encoding") or "")
        data = await self._bytes(request)
        if len(data) <= _SMALL_BODY_BYTES:
            return read_body(content_type, data, parts, self._max_pixels)  # sooner done than handed to a thread
        return await self._decoder.run(read_body, content_type, data, parts, self._max_pixels)

    async def _bytes(self, request: Request) -> bytes:
        announced = header_of(request.scope, b"content-length") or ""
        # isdigit alone would let other scripts' digits through.
        if announced.isascii() and announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._too_large()
        data = bytearray()
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more: bytes = message.get("body", b"")
            if len(data) + len(more) > self._max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(data + more) if data else more
            data += more

    def _too_large(self) -> InputError:
        return InputError(
            "payload_too_large",
            "The body is too large.",
            expected=f"at most {self._max_body_bytes} bytes",
            action="Shrink the images to the model's input size, or split the queries over several requests.",
        )


def _key_of(request: Request) -> str | None:
    """`Authorization: Bearer KEY`, else `X-API-Key: KEY`."""
    scheme, _, key = (header_of(request.scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key
    return header_of(request.scope, b"x-api-key")
