"""All routes below /v1; the work is service/'s, what is before it gate.py's. A new route is a file here and a row."""

from __future__ import annotations

from fastapi import APIRouter

from kshot_server.endpoints.classifying import add_classifying
from kshot_server.endpoints.models import add_models
from kshot_server.endpoints.sessions import add_sessions
from kshot_server.endpoints.teaching import add_teaching
from kshot_server.endpoints.wiring import Wiring
from kshot_server.gate import Gate
from kshot_server.metrics import HttpMetrics
from kshot_server.service.service import Service

__all__ = ["ROUTES", "v1_router"]

# In the order of the document at /openapi.json.
ROUTES = (
    add_models,
    add_teaching,
    add_classifying,
    add_sessions,
)


def v1_router(service: Service, gate: Gate, metrics: HttpMetrics) -> APIRouter:
    """A router with every row of ROUTES."""
    router = APIRouter(prefix="/v1", dependencies=gate.dependencies)
    for add in ROUTES:
        add(router, Wiring(service, gate, metrics))
    return router
