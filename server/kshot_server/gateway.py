"""All of HTTP put together on a FastAPI application: app.py puts it on LitServe's, local.py on one of its own.

Express (express.py)              teaching and classifying skip the problem handlers and routes below
└── Envelope (envelope.py)       id, timing, log line, count, last resort for defects
    └── problem handlers         errors -> problem+json
        └── routes               endpoints/ (/v1), operations.py, pages.py (/, /docs), /openapi.json
            └── Gate (gate.py)   key, rate, permit, deadline, body
                └── Service      service/: repository, decoding, identity, store, engines
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp

from kshot_server.admission import Admission, RateLimiter
from kshot_server.answers import json_response
from kshot_server.auth import ApiKeys
from kshot_server.decoding import Decoder
from kshot_server.endpoints.table import v1_router
from kshot_server.engine.repository import ModelRepository
from kshot_server.envelope import Envelope
from kshot_server.express import Express
from kshot_server.gate import Gate
from kshot_server.metrics import HttpMetrics
from kshot_server.openapi import install_document
from kshot_server.operations import operations_router
from kshot_server.pages import pages_router
from kshot_server.problems import install_handlers
from kshot_server.service.service import Service
from kshot_server.service.steps import Engines
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Components", "Mounted", "kshot_version", "mount"]


def kshot_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("kshot")
    except PackageNotFoundError:
        return "0+unknown"


@dataclasses.dataclass(frozen=True)
class Components:
    """What the application is made of. The caller owns them and closes what must be closed.

    `state` tells `starting`, `ready`, `leaving` (not ready any more, still serving) or `draining` (refusing).
    """

    models: ModelRepository
    keys: ApiKeys
    store: SessionStore
    engines: Engines
    state: Callable[[], str]
    registry: CollectorRegistry


class Mounted(NamedTuple):
    """What `mount` made and its caller needs."""

    entrance: ASGIApp  # what requests come to
    metrics: HttpMetrics
    decoder: Decoder
    admission: Admission


def mount(app: FastAPI, settings: Settings, components: Components) -> Mounted:
    """Put routes, handlers and middleware on an application that has none of its own, and the short road before it."""
    decoder = Decoder(settings.decode_threads)
    metrics = HttpMetrics(components.registry, kshot_version())
    admission = Admission(settings.max_inflight)
    service = Service(
        models=components.models,
        store=components.store,
        engines=components.engines,
        decoder=decoder,
        max_pixels=settings.max_pixels,
        ttl_seconds=settings.ttl_seconds,
        max_ttl_seconds=settings.max_ttl_seconds,
    )
    gate = Gate(
        keys=components.keys,
        rates=RateLimiter(settings.rate_limit),
        admission=admission,
        draining=lambda: components.state() == "draining",
        decoder=decoder,
        metrics=metrics,
        timeout=settings.timeout,
        max_body_bytes=settings.max_body_bytes,
        max_pixels=settings.max_pixels,
    )
    v1 = v1_router(service, gate, metrics)
    app.include_router(v1)
    app.include_router(
        operations_router(
            state=components.state,
            metrics=metrics,
            refresh=lambda: metrics.store_events(dataclasses.asdict(components.store.counters)),
        )
    )
    app.include_router(
        pages_router(components.models, show_models=not components.keys.required, version=kshot_version())
    )
    install_document(app, kshot_version())

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return json_response(app.openapi())

    app.router.redirect_slashes = False  # a redirected POST is sent twice, body and all
    install_handlers(app)
    app.add_middleware(Envelope, metrics=metrics)
    return Mounted(Express(app, v1.routes, gate, metrics), metrics, decoder, admission)
