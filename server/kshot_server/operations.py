"""Routes for operators: probes and metrics. None needs a key; what they tell is nobody's secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from kshot_server.answers import json_response
from kshot_server.faults import Fault
from kshot_server.metrics import CONTENT_TYPE, HttpMetrics
from kshot_server.openapi import problems
from kshot_server.schemas import LiveOut, ReadyOut

__all__ = ["operations_router"]

_LIVE: dict[int | str, dict[str, Any]] = {200: {"model": LiveOut}}
_READY: dict[int | str, dict[str, Any]] = {200: {"model": ReadyOut}}
_METRICS: dict[int | str, dict[str, object]] = {
    200: {"description": "The metrics.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}
}


def operations_router(*, state: Callable[[], str], metrics: HttpMetrics, refresh: Callable[[], None]) -> APIRouter:
    """The routes.

    Args:
        state: as of `Components`, now.
        metrics: what /metrics shows.
        refresh: called before it is shown, to bring gauges up to date.
    """
    router = APIRouter(tags=["operations"])

    # HEAD too: it is what some load balancers probe with.
    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", summary="Is the process alive?", operation_id="live", responses=_LIVE, response_model=None)
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

    return router
