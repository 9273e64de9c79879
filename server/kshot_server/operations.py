"""Routes for operators: probes, metrics, and the page at `/`. None needs a key; what they tell is nobody's secret."""

from __future__ import annotations

import html
from collections.abc import Callable
from importlib.resources import files
from string import Template
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kshot_server.answers import json_response
from kshot_server.engine.repository import ModelRepository
from kshot_server.faults import Fault
from kshot_server.metrics import CONTENT_TYPE, HttpMetrics
from kshot_server.openapi import problems
from kshot_server.schemas import LiveOut, ReadyOut

__all__ = ["operations_router"]


def operations_router(
    *,
    state: Callable[[], str],
    metrics: HttpMetrics,
    refresh: Callable[[], None],
    models: ModelRepository,
    show_models: bool,
    version: str,
) -> APIRouter:
    """The routes.

    Args:
        state: as of `Parts`, now.
        metrics: what /metrics shows.
        refresh: called before it is shown, to bring gauges up to date.
        models: what the page lists.
        show_models: whether the page lists them; not where models are told to key holders only.
        version: of kshot.
    """
    router = APIRouter(tags=["operations"])

    # HEAD too: it is what some load balancers probe with.
    @router.head("/livez", include_in_schema=False)
    @router.get(
        "/livez",
        summary="Is the process alive?",
        operation_id="live",
        responses={200: {"model": LiveOut}},
        response_model=None,
    )
    async def live() -> Response:
        """Answers as long as the process can. Restart it when it does not."""
        return json_response({"status": "live"})

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Will requests be answered?",
        operation_id="ready",
        responses=_READY | problems("draining", "engine_unavailable"),
        response_model=None,
    )
    async def ready() -> Response:
        """Turns 503 while no engine is up, and for good once a shutdown has begun. Send requests elsewhere then.

        It does not depend on the session store: while that is away, known sessions are still answered.
        """
        match state():
            case "leaving" | "draining":
                raise Fault("draining", "The server is shutting down; what is in work will be answered.", retry_after=5)
            case "starting":
                raise Fault("engine_unavailable", "No engine is up yet.", retry_after=1)
        return json_response({"status": "ready"})

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        operation_id="metrics",
        response_class=Response,
        responses=_METRICS,
    )
    async def show_metrics() -> Response:
        """Counts and times. No label names a tenant or a session."""
        refresh()
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    page = Template(files("kshot_server").joinpath("static/index.html").read_text(encoding="utf-8"))

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        rows = (
            _model_rows(models)
            if show_models
            else "<p>An API key is needed; <code>GET /v1/models</code> lists the models.</p>"
        )
        base = html.escape(str(request.base_url).rstrip("/"))
        content = page.substitute(version=html.escape(version), models=rows, base=base)
        return HTMLResponse(
            content, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    return router


_READY: dict[int | str, dict[str, Any]] = {200: {"model": ReadyOut}}
_METRICS: dict[int | str, dict[str, object]] = {
    200: {"description": "The metrics.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}
}


def _model_rows(models: ModelRepository) -> str:
    rows = [
        "<tr>"
        + "".join(
            f"<td>{html.escape(str(cell))}</td>"
            for cell in (
                f"{entry.name}@{entry.version}",
                f"{entry.manifest.input.height} x {entry.manifest.input.width} x {entry.manifest.input.channels}",
                f"{entry.manifest.limits.max_way} classes, {entry.manifest.limits.max_support} images",
                entry.manifest.description,
            )
        )
        + "</tr>"
        for entry in models.list()
    ]
    return "<table><tr><th>model</th><th>sees</th><th>learns up to</th><th></th></tr>" + "".join(rows) + "</table>"
