"""GET /v1/models and /v1/models/{model}: what is served."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kshot_server.answers import json_response, model_json
from kshot_server.endpoints.documented import ModelName, answers
from kshot_server.endpoints.wiring import Wiring
from kshot_server.schemas import ModelListOut, ModelOut
from kshot_server.service.context import RequestContext

__all__ = ["add_models"]


def add_models(router: APIRouter, wiring: Wiring) -> None:
    """Put the routes on `router`."""
    service, gate = wiring.service, wiring.gate

    @router.get(
        "/models", tags=["models"], summary="What is served", operation_id="list_models", **answers(ModelListOut)
    )
    async def list_models(request: Request) -> Response:
        """All models, each in its newest version: what images it takes, its limits, how well it was measured to do."""

        async def work(_context: RequestContext) -> Response:
            return json_response({"models": [model_json(entry, versions) for entry, versions in service.list_models()]})

        return await gate.run(request, work)

    @router.get(
        "/models/{model}",
        tags=["models"],
        summary="One model",
        operation_id="get_model",
        **answers(ModelOut, "model_not_found"),
    )
    async def get_model(request: Request, model: ModelName) -> Response:
        """One model, in its newest version or the one asked for."""

        async def work(_context: RequestContext) -> Response:
            return json_response(model_json(*service.find_model(model)))

        return await gate.run(request, work)
