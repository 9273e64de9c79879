"""LitServe, 1 of 2: the engine's process. One `EngineAPI` for each device; adapting and classifying share its weights.

    channel ─▶ MessageHandler ─▶ engine ─▶ channel

LitServe starts the process, watches it and starts it again. The loop in it is our own, by LitServe's hook for one:
LitServe's take one request from a queue at a time, or a batch of which one bad request fails all.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litserve import LitAPI, LitServer
from litserve.loops.base import LitLoop
from litserve.specs.base import LitSpec

from kshot_models.allocator import keep_freed_memory
from kshot_server.channel import Listener, socket_path
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.table import RUNTIMES
from kshot_server.engine.repository import ModelRepository
from kshot_server.logs import configure_logs
from kshot_server.message_handler import MessageHandler
from kshot_server.orphans import end_with_parent, end_with_process
from kshot_server.shared_state import Phase, SharedState

__all__ = ["EngineAPI", "EngineOptions"]

_log = logging.getLogger(__name__)
_STATS_SECONDS = 1.0


@dataclass(frozen=True)
class EngineOptions:
    """What an engine process has to know. Picklable: it is sent to the process when that starts."""

    sockets: Path
    folders: tuple[Path, ...]
    allow_transductive: bool
    device: str
    runtime: str
    cache_bytes: int
    max_wait_ms: float
    max_pending: int
    log_level: str
    log_format: str


class EngineSpec(LitSpec):  # type: ignore[misc] # LitServe is untyped
    """With a spec, LitServe adds no route of its own for an engine: the typed routes are endpoints/."""

    def __init__(self, index: int) -> None:
        super().__init__()
        # LitServe tells workers apart by the last segment of the path, so it must differ.
        self.api_path = f"/_engine/{index}"

    def __getstate__(self) -> dict[str, Any]:
        # What the worker needs; the server, which it points to in the main process, cannot be sent.
        return {"_endpoints": [], "api_path": self.api_path, "_server": None, "_max_batch_size": 1}

    def setup(self, server: LitServer) -> None:
        """Nothing to set up: LitServe's queues are not used."""

    def decode_request(self, request: Any, context_kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - LitServe's signature
        """Nothing to decode."""
        return request

    def encode_response(self, output: Any, context_kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - LitServe's signature
        """Nothing to encode."""
        return output


class _Loop(LitLoop):  # type: ignore[misc] # LitServe is untyped
    """Serves the channel for as long as the process lives."""

    def __call__(self, lit_api: EngineAPI, *_: Any, **__: Any) -> None:
        """LitServe calls this in the worker process once `setup` is done."""
        lit_api.listener.serve(MessageHandler(lit_api.engine, lit_api.listener.reply).take)


class EngineAPI(LitAPI):  # type: ignore[misc] # LitServe is untyped
    """The engine behind LitServe's hooks."""

    def __init__(self, index: int, options: EngineOptions, shared: SharedState) -> None:
        """Args: index, this engine's number among the engines."""
        super().__init__(spec=EngineSpec(index), loop=_Loop())
        self._index = index
        self._options = options
        self._shared = shared

    def setup(self, device: str) -> None:
        """Start the engine. Runs in the worker process; LitServe calls it ready when this returns.

        Raises:
            RuntimeError: no model works on this device.
        """
        del device  # LitServe's idea of one; ours is in the options
        options = self._options
        configure_logs(options.log_level, options.log_format)
        self._answer_signals()
        end_with_parent(os.getppid())  # the template: without it, this process would be taken for dead, and doubled
        if (main := multiprocessing.parent_process()) is not None and main.pid is not None:
            end_with_process(main.pid)
        keep_freed_memory()
        begun = time.perf_counter()
        models = ModelRepository(
            options.folders,
            allow_transductive=options.allow_transductive,
            need_graphs=RUNTIMES[options.runtime].needs_graphs,
        )
        engine = Engine(
            models,
            device=options.device,
            runtime=options.runtime,
            cache_bytes=options.cache_bytes,
            max_wait_ms=options.max_wait_ms,
            max_pending=options.max_pending,
        )
        failed = engine.warm_up()
        for reference, failure in failed.items():
            _log.error("model %s does not work: %s", reference, failure.detail)
        if models.list() and len(failed) >= len(models.list()):
            raise RuntimeError("no model works; see the messages above")
        self.engine = engine
        gc.freeze()  # half a million objects of libraries and models that no collection needs to look at again
        self._publish(engine.stats)
        self.listener = Listener(socket_path(options.sockets, self._index, os.getpid()))
        self._shared.announce(self._index)
        _log.info(
            "engine %d on %s is up",
            self._index,
            options.device,
            extra={"seconds": round(time.perf_counter() - begun, 2)},
        )

    def _answer_signals(self) -> None:
        """A signal to the whole process group must not take the engine away from requests that are being drained."""

        def on_terminate(_signal: int, _frame: object) -> None:
            if self._shared.phase is Phase.DRAINED:
                os._exit(0)  # LitServe's loop never ends by itself

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, on_terminate)

    def _publish(self, read: Any) -> None:
        """Keep the engine's gauges up to date."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - reads its environment on import

        from kshot_server.metrics import EngineMetrics  # noqa: PLC0415 - as above

        metrics = EngineMetrics(CollectorRegistry())

        def refresh() -> None:
            while True:
                metrics.refresh(read())
                time.sleep(_STATS_SECONDS)

        threading.Thread(target=refresh, name="engine-stats", daemon=True).start()
