"""LitServe, 1 of 2: what LitServe is told of an engine. It starts the process, watches it and starts it again.

What runs in the process is worker.py, and has nothing of LitServe: its loops take one request from a queue at a time,
or a batch of which one bad request fails all, and importing it, a web framework with it, takes most of a second.
"""

from __future__ import annotations

from typing import Any

from litserve import LitAPI, LitServer
from litserve.specs.base import LitSpec

from kshot_server.worker import EngineOptions

__all__ = ["EngineAPI"]


class EngineSpec(LitSpec):  # type: ignore[misc] # LitServe is untyped
    """With a spec, LitServe adds no route of its own for an engine: the typed routes are endpoints/."""

    def __init__(self, index: int) -> None:
        super().__init__()
        # LitServe tells workers apart by the last segment of the path, so it must differ.
        self.api_path = f"/_engine/{index}"

    def setup(self, server: LitServer) -> None:
        """Nothing to set up: LitServe's queues are not used."""

    def decode_request(self, request: Any, context_kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - LitServe's signature
        """Nothing to decode."""
        return request

    def encode_response(self, output: Any, context_kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - LitServe's signature
        """Nothing to encode."""
        return output


class EngineAPI(LitAPI):  # type: ignore[misc] # LitServe is untyped
    """An engine as LitServe sees it.

    Args:
        index: the engine's number among the engines.
        options: of its process.
    """

    def __init__(self, index: int, options: EngineOptions) -> None:
        super().__init__(spec=EngineSpec(index))
        self.index = index
        self.options = options

    def setup(self, device: str) -> None:
        """LitServe asks for one; no process of ours calls it."""
