"""GET /v1/sessions, GET and DELETE /v1/sessions/{session}: list, look at, forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from kshot_server.answers import json_response, session_json
from kshot_server.endpoints.documented import ALWAYS, SessionId, answers
from kshot_server.endpoints.wiring import Wiring
from kshot_server.openapi import problems
from kshot_server.schemas import SessionListOut, SessionOut
from kshot_server.service.context import RequestContext

__all__ = ["add_sessions"]


def add_sessions(router: APIRouter, wiring: Wiring) -> None:
    """Put the routes on `router`."""
    service, gate = wiring.service, wiring.gate

    @router.get(
        "/sessions",
        tags=["sessions"],
        summary="Your sessions",
        operation_id="list_sessions",
        **answers(SessionListOut, "store_unavailable"),
    )
    async def list_sessions(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most sessions of one page.")] = 50,
        cursor: Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before.")] = None,
        model: Annotated[str | None, Query(max_length=64, description="Only sessions of this model.")] = None,
    ) -> Response:
        """The sessions of this API key's tenant, newest first."""

        async def work(context: RequestContext) -> Response:
            page = await service.list_sessions(context, model=model, cursor=cursor, limit=limit)
            sessions = [session_json(info, known=True) for info in page.sessions]
            return json_response({"sessions": sessions, "next_cursor": page.next_cursor})

        return await gate.run(request, work)

    @router.get(
        "/sessions/{session}",
        tags=["sessions"],
        summary="One session",
        operation_id="get_session",
        **answers(SessionOut, "session_not_found", "store_unavailable"),
    )
    async def get_session(request: Request, session: SessionId) -> Response:
        """Look at a session. Looking is not using: it does not renew its life."""

        async def work(context: RequestContext) -> Response:
            return json_response(session_json(await service.inspect(context, session), known=True))

        return await gate.run(request, work)

    @router.delete(
        "/sessions/{session}",
        tags=["sessions"],
        summary="Forget a session",
        operation_id="delete_session",
        status_code=204,
        response_class=Response,
        responses=problems(*ALWAYS, "session_not_found", "store_unavailable"),
    )
    async def delete_session(request: Request, session: SessionId) -> Response:
        """Forget a session and its support set."""

        async def work(context: RequestContext) -> Response:
            await service.forget(context, session)
            return Response(status_code=204)

        return await gate.run(request, work)
