"""The pages for people: `/` to begin with, `/docs` with every route. They need nothing from the internet.

Files of static/, read once. A Content-Security-Policy goes with each: styles and scripts from here, nothing else.
"""

from __future__ import annotations

import html
from importlib.resources import files
from string import Template

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kshot_server.engine.repository import ModelRepository

__all__ = ["pages_router"]

_STATIC = files("kshot_server").joinpath("static")
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'"
}
_MEDIA_TYPES = {"docs.css": "text/css", "docs.js": "text/javascript"}
_NEEDS_KEY = "<p>An API key is needed; <code>GET /v1/models</code> lists the models.</p>"


def pages_router(models: ModelRepository, *, show_models: bool, version: str) -> APIRouter:
    """The routes.

    Args:
        models: what `/` lists.
        show_models: whether it lists them; not where models are told to key holders only.
        version: of kshot.
    """
    router = APIRouter(include_in_schema=False)
    start = Template(_read("index.html"))
    documentation = _read("docs.html")

    @router.get("/")
    async def index(request: Request) -> Response:
        names = [entry.name for entry in models.list()] if show_models else []
        content = start.substitute(
            version=html.escape(version),
            models=_model_table(models) if show_models else _NEEDS_KEY,
            base=html.escape(str(request.base_url).rstrip("/")),
            model=html.escape(names[0] if names else "MODEL"),
            key="" if show_models else ' -H "Authorization: Bearer KEY"',
        )
        return HTMLResponse(content, headers=_POLICY)

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(documentation, headers=_POLICY)

    for name, media_type in _MEDIA_TYPES.items():
        _add_file(router, name, media_type)
    return router


def _add_file(router: APIRouter, name: str, media_type: str) -> None:
    content = _read(name)

    @router.get(f"/static/{name}")
    async def static() -> Response:
        return Response(content, media_type=media_type)


def _read(name: str) -> str:
    return _STATIC.joinpath(name).read_text(encoding="utf-8")


def _model_table(models: ModelRepository) -> str:
    head = "<tr><th>model</th><th>sees</th><th>learns up to</th><th></th></tr>"
    rows = [
        (
            f"{entry.name}@{entry.version}",
            f"{entry.manifest.input.height} x {entry.manifest.input.width} x {entry.manifest.input.channels}",
            f"{entry.manifest.limits.max_way} classes, {entry.manifest.limits.max_support} images",
            entry.manifest.description,
        )
        for entry in models.list()
    ]
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + head + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
