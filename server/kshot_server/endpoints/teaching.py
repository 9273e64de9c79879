"""POST /v1/models/{model}/sessions and /v1/sessions/{session}/support: a support set becomes a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kshot_server.answers import json_response, session_json
from kshot_server.bodies.base import SUPPORT, Body
from kshot_server.endpoints.documented import READS_BODY, READS_SUPPORT, ModelName, SessionId, answers
from kshot_server.endpoints.wiring import Wiring
from kshot_server.metrics import HttpMetrics
from kshot_server.openapi import request_body
from kshot_server.schemas import SessionOut
from kshot_server.service.context import RequestContext
from kshot_server.service.results import Taught

__all__ = ["add_teaching"]


def add_teaching(router: APIRouter, wiring: Wiring) -> None:
    """Put the routes on `router`."""
    service, gate, metrics = wiring
    created: Mapping[int | str, dict[str, Any]] = {
        201: {
            "model": SessionOut,
            "description": "The session was made.",
            "headers": {"Location": {"description": "Path of the session.", "schema": {"type": "string"}}},
        }
    }
    documented = answers(SessionOut, *READS_BODY, *READS_SUPPORT, ok="It was known already.", also=created)

    @router.post(
        "/models/{model}/sessions",
        tags=["sessions"],
        summary="Teach a session",
        operation_id="create_session",
        openapi_extra=request_body(SUPPORT),
        **documented,
    )
    async def create_session(request: Request, model: ModelName) -> Response:
        """Adapt a model to a labelled support set. The same one, in any order, gives the same session: retry freely."""

        async def work(context: RequestContext, body: Body) -> Response:
            return _taught(await service.teach(context, model, body), metrics)

        return await gate.run_with_body(request, SUPPORT, work)

    @router.post(
        "/sessions/{session}/support",
        tags=["sessions"],
        summary="Teach more",
        operation_id="extend_session",
        openapi_extra=request_body(SUPPORT),
        **answers(
            SessionOut, *READS_BODY, *READS_SUPPORT, "session_not_found", ok="It was known already.", also=created
        ),
    )
    async def extend_session(request: Request, session: SessionId) -> Response:
        """Add images, of known or new labels. Sessions never change, so this answers a *new* session over the union."""

        async def work(context: RequestContext, body: Body) -> Response:
            return _taught(await service.extend(context, session, body), metrics)

        return await gate.run_with_body(request, SUPPORT, work)


def _taught(taught: Taught, metrics: HttpMetrics) -> Response:
    metrics.adapted(taught.info.model, known=taught.known, batch_size=taught.batch_size)
    headers = {"Location": f"/v1/sessions/{taught.info.id}"}
    return json_response(session_json(taught.info, known=taught.known), 200 if taught.known else 201, headers)
