"""The engine's process. One for each device; adapting and classifying share its weights.

channel ─▶ MessageHandler ─▶ engine ─▶ channel
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from kshot_models.allocator import keep_freed_memory
from kshot_server.channel import Listener, socket_path
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.table import RUNTIMES
from kshot_server.engine.repository import ModelRepository
from kshot_server.garbage import look_for_garbage_seldom
from kshot_server.logs import configure_logs
from kshot_server.message_handler import MessageHandler
from kshot_server.orphans import end_with_parent, end_with_process
from kshot_server.settings import Settings
from kshot_server.shared_state import Phase, SharedState

__all__ = ["EngineOptions", "run_engine"]

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

    @staticmethod
    def of(settings: Settings, sockets: Path, device: str) -> EngineOptions:
        """Those of the engine on a device, which is connected to in the folder `sockets`."""
        return EngineOptions(
            sockets=sockets,
            folders=settings.models,
            allow_transductive=settings.allow_transductive,
            device=device,
            runtime=settings.runtime,
            cache_bytes=settings.cache_bytes,
            max_wait_ms=settings.max_wait_ms,
            max_pending=settings.max_inflight * settings.api_servers * 2,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )


def run_engine(index: int, options: EngineOptions, shared: SharedState) -> None:
    """Run an engine in this process, for as long as it lives; return, with a message in the log, if it cannot start.

    Args:
        index: its number among the engines.
        options: what it has to know.
        shared: where it announces itself.
    """
    configure_logs(options.log_level, options.log_format)
    _answer_signals(shared)
    end_with_parent(os.getppid())  # the template: without it, this process would be taken for dead, and doubled
    if (main := multiprocessing.parent_process()) is not None and main.pid is not None:
        end_with_process(main.pid)
    keep_freed_memory()
    try:
        engine, listener = _start(index, options)
    except Exception:  # noqa: BLE001 - whatever it is, the main process sees that this one has ended
        _log.exception("engine %d cannot start", index)
        return
    shared.announce(index)
    listener.serve(MessageHandler(engine, listener.reply).take)


def _start(index: int, options: EngineOptions) -> tuple[Engine, Listener]:
    """An engine that has tried its models, and where it is spoken to.

    Raises:
        RuntimeError: no model works on this device.
    """
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
    look_for_garbage_seldom()
    _publish(engine)
    listener = Listener(socket_path(options.sockets, index, os.getpid()))
    _log.info("engine %d on %s is up", index, options.device, extra={"seconds": round(time.perf_counter() - begun, 2)})
    return engine, listener


def _answer_signals(shared: SharedState) -> None:
    """A signal to the whole process group must not take the engine away from requests that are being drained."""

    def on_terminate(_signal: int, _frame: object) -> None:
        if shared.phase is Phase.DRAINED:
            os._exit(0)  # the listener never ends by itself

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)


def _publish(engine: Engine) -> None:
    """Keep the engine's gauges up to date."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - reads its environment on import

    from kshot_server.metrics import EngineMetrics  # noqa: PLC0415 - as above

    metrics = EngineMetrics(CollectorRegistry())

    def refresh() -> None:
        while True:
            metrics.refresh(engine.stats())
            time.sleep(_STATS_SECONDS)

    threading.Thread(target=refresh, name="engine-stats", daemon=True).start()
