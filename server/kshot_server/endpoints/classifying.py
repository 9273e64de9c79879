"""POST /v1/sessions/{session}/classify and /v1/models/{model}/classify: queries become predictions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kshot_server.answers import classification_json, json_response
from kshot_server.bodies.base import BOTH, QUERIES, Body
from kshot_server.endpoints.documented import (
    READS_BODY,
    READS_QUERIES,
    READS_SUPPORT,
    ModelName,
    SessionId,
    answers,
)
from kshot_server.endpoints.wiring import Wiring
from kshot_server.metrics import HttpMetrics
from kshot_server.openapi import request_body
from kshot_server.schemas import ClassificationOut
from kshot_server.service.context import RequestContext
from kshot_server.service.results import Classification

__all__ = ["add_classifying"]


def add_classifying(router: APIRouter, wiring: Wiring) -> None:
    """Put the routes on `router`."""
    service, gate, metrics = wiring

    @router.post(
        "/sessions/{session}/classify",
        tags=["classify"],
        summary="Classify with a session",
        operation_id="classify",
        openapi_extra=request_body(QUERIES),
        **answers(ClassificationOut, *READS_BODY, *READS_QUERIES, "session_not_found", "store_unavailable"),
    )
    async def classify(request: Request, session: SessionId) -> Response:
        """Classify images. An answer depends on the session and its own image, on nothing else in the request."""

        async def work(context: RequestContext, body: Body) -> Response:
            return _classified(await service.classify(context, session, body), metrics)

        return await gate.run_with_body(request, QUERIES, work)

    @router.post(
        "/models/{model}/classify",
        tags=["classify"],
        summary="Teach and classify in one call",
        operation_id="classify_once",
        openapi_extra=request_body(BOTH),
        **answers(ClassificationOut, *READS_BODY, *READS_SUPPORT, *READS_QUERIES),
    )
    async def classify_once(request: Request, model: ModelName) -> Response:
        """Support set and queries together. The adapted weights are kept as after teaching: `session` names them."""

        async def work(context: RequestContext, body: Body) -> Response:
            return _classified(await service.classify_once(context, model, body), metrics)

        return await gate.run_with_body(request, BOTH, work)


def _classified(result: Classification, metrics: HttpMetrics) -> Response:
    metrics.classified(result.info.model, result.cache, len(result.probabilities), result.batch_size)
    return json_response(classification_json(result))
