"""LitServe, 1 of 3: the engine's process. One `EngineAPI` for each device; adapting and classifying share its weights.

    request queue ─▶ _Loop ─▶ MessageHandler ─▶ engine ─▶ gathering ─▶ response queue

The loop is our own, by LitServe's hook for one: LitServe's take a message for a request, and ours carry several. Its
batching is not used either: one bad request of a batch would fail all of it. Nothing raises: an exception that cannot
be pickled kills the process.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litserve import LitAPI
from litserve.loops.base import LitLoop
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, LoopResponseType

from kshot_models.allocator import keep_freed_memory
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.table import RUNTIMES
from kshot_server.engine.repository import ModelRepository
from kshot_server.gathering import Gathering
from kshot_server.logs import configure_logs
from kshot_server.message_handler import MessageHandler
from kshot_server.messages import Replies, Reply
from kshot_server.orphans import end_with_parent, end_with_process
from kshot_server.shared_state import Phase, SharedState

__all__ = ["EngineAPI", "EngineOptions"]

_log = logging.getLogger(__name__)
_STATS_SECONDS = 1.0


@dataclass(frozen=True)
class EngineOptions:
    """What an engine process has to know. Picklable: it is sent to the process when that starts."""

    folders: tuple[Path, ...]
    allow_transductive: bool
    device: str
    runtime: str
    cache_bytes: int
    max_wait_ms: float
    max_pending: int
    log_level: str
    log_format: str


class _Loop(LitLoop):  # type: ignore[misc] # LitServe is untyped
    """From LitServe's queues to the engine and back, for as long as the process lives."""

    def __call__(
        self,
        lit_api: EngineAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """LitServe calls this in the worker process once `setup` is done."""
        del device, worker_id, workers_setup_status, callback_runner

        def put(gathered: list[tuple[Hashable, int, Reply]]) -> None:
            parcels: defaultdict[Any, Replies] = defaultdict(list)
            for sender, number, reply in gathered:
                parcels[sender].append((number, reply))
            for (response_queue_id, uid), replies in parcels.items():
                with contextlib.suppress(OSError, EOFError):  # the queues are gone: the server has ended
                    self.put_response(
                        transport, response_queue_id, uid, replies, LitAPIStatus.OK, LoopResponseType.REGULAR
                    )

        replies = Gathering(put, "engine-replies")
        handler = MessageHandler(lit_api.engine, lambda *reply: replies.add(reply))
        while True:
            response_queue_id, uid, _, parcel = request_queue.get()
            if uid is None:
                return  # LitServe's sign to end
            handler.take((response_queue_id, uid), parcel)


class EngineAPI(LitAPI):  # type: ignore[misc] # LitServe is untyped
    """The engine behind LitServe's hooks."""

    def __init__(self, spec: LitSpec, index: int, options: EngineOptions, shared: SharedState) -> None:
        """Args: spec, this engine's way in; index, its number among the engines."""
        super().__init__(spec=spec, loop=_Loop())
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
        gc.collect()
        gc.freeze()  # half a million objects of libraries and models that no collection needs to look at again
        self._publish(engine.stats)
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
