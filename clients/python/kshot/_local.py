"""Local mode: the engine in this process, behind the same interface as a server.

The client stays light and knows no engine. An installed server package registers one under the entry point group
`kshot.local`: a function from an artifact's name or folder to an httpx transport. Beside `open_transport`, which the
entry point names, its module has the twin `open_async_transport`.
"""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import httpx

from ._errors import MissingExtraError

__all__ = ["LOCAL_URL", "local_async_transport", "local_transport"]

GROUP = "kshot.local"
LOCAL_URL = "http://local.kshot"  # never resolved: the transport takes every request

_INSTALL = "the local mode needs the extras 'server' and 'torch': pip install 'kshot[server,torch]'"


def local_transport(models: str | os.PathLike[str] | None) -> httpx.BaseTransport:
    """A transport that answers from an engine in this process."""
    transport: httpx.BaseTransport = _open(_entry_point(), models)
    return transport


def local_async_transport(models: str | os.PathLike[str] | None) -> httpx.AsyncBaseTransport:
    """The same for AsyncClient."""
    point = _entry_point()
    twin = EntryPoint(point.name, f"{point.module}:open_async_transport", point.group)
    transport: httpx.AsyncBaseTransport = _open(twin, models)
    return transport


def _entry_point() -> EntryPoint:
    for point in entry_points(group=GROUP):
        return point
    raise MissingExtraError(_INSTALL)


def _open(point: EntryPoint, models: str | os.PathLike[str] | None) -> Any:
    try:
        return point.load()(None if models is None else os.fspath(models))
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{_INSTALL} (there is no module {error.name!r})") from error
