"""The engine: requests in, one outcome each; what is between is its own.

submit ── checks ── permit ──▶ scheduler ──▶ executor
   └──────────── Future[Outcome] ◀──────────────┘
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Any

from kshot_server.engine.batch import NO_MODEL, try_model
from kshot_server.engine.cache import WeightCache
from kshot_server.engine.checks import check_request
from kshot_server.engine.executors.base import AdaptedWeights, Executor
from kshot_server.engine.executors.table import executor_for
from kshot_server.engine.isolate import internal_error
from kshot_server.engine.lanes import Lanes
from kshot_server.engine.repository import ModelEntry, ModelNotFound
from kshot_server.engine.requests import Failed, Outcome, Request
from kshot_server.engine.scheduler import DRAINING, Scheduler
from kshot_server.engine.served import ModelSource, ServedModels
from kshot_server.engine.stats import EngineStats
from kshot_server.engine.work import Ticket

__all__ = ["Engine"]


class Engine:
    """Adapts models to support sets, keeps the weights and classifies with them, for many sessions at once.

    Thread-safe. Use as a context manager, or call `close`.

    Args:
        models: where models come from.
        device: `cpu`, `cuda` or `cuda:N`.
        runtime: `torch` or `onnxruntime`.
        cache_bytes: adapted weights that are kept, least recently used first out.
        max_wait_ms: how long work may wait for company when others are at work.
        max_pending: requests taken on and not yet answered; more are answered `overloaded` at once.
        executor: computes in place of the one that `device` names.
    """

    def __init__(
        self,
        models: ModelSource,
        *,
        device: str = "cpu",
        runtime: str = "torch",
        cache_bytes: int = 1 << 30,
        max_wait_ms: float = 2.0,
        max_pending: int = 1024,
        executor: Executor | None = None,
    ) -> None:
        self._models = models
        self._executor = executor_for(device, runtime) if executor is None else executor
        self._served = ServedModels(models, self._executor)
        self._cache: WeightCache[AdaptedWeights] = WeightCache(cache_bytes)
        self._stats = EngineStats()
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = False
        self._lanes = Lanes(self._executor.lanes, self._executor.enter_lane)
        self._scheduler = Scheduler(
            executor=self._executor,
            served=self._served,
            lanes=self._lanes,
            cache=self._cache,
            stats=self._stats,
            max_wait_seconds=max_wait_ms / 1e3,
        )

    def submit(self, request: Request) -> Future[Outcome]:
        """Take on a request. Never raises; the future gets an outcome, never an exception.

        Cancelling the future says that nobody waits any more: work that has not begun is dropped.
        """
        try:
            ticket = self._admit(request)
        except Exception as error:  # noqa: BLE001 - one outcome per request, whatever was handed in
            ticket = internal_error("taking on a request", error)
        if isinstance(ticket, Ticket):
            return ticket.future
        self._stats.count_outcome(ticket)
        answered: Future[Outcome] = Future()
        answered.set_result(ticket)
        return answered

    def together(self) -> AbstractContextManager[None]:
        """Work on what this thread submits within begins at the end of it, in batches of all of it."""
        return self._scheduler.together()

    def warm_up(self) -> dict[str, Failed]:
        """Load the newest version of every model and use it once on each lane.

        Returns:
            The models that do not work, by `name@version`; the others serve.
        """
        trials = [
            (
                f"{entry.name}@{entry.version}",
                self._lanes.submit(partial(try_model, self._executor, self._served, entry.digest)),
            )
            for entry in self._models.list()
            for _ in range(self._executor.lanes)
        ]
        results = [(reference, trial.result()) for reference, trial in trials]
        return {reference: failed for reference, failed in results if failed is not None}

    @property
    def lanes(self) -> int:
        """Batches that may run at once."""
        return self._executor.lanes

    def stats(self) -> dict[str, Any]:
        """What the engine holds and has done, as plain data.

        Keys: `cache` (entries, bytes, capacity_bytes, hits, misses, evictions), `pending` (requests not yet answered),
        `queued` (pieces of work that wait), `running` (batches), `models` (digests that are loaded), `outcomes`
        (answers by name or failure code), `batches` (adapt and predict: batch size -> count), `seconds` (adapt and
        predict: time spent computing), `joined` (requests that waited for an adaptation which another one began).
        """
        return {
            "cache": asdict(self._cache.stats()),
            "pending": self._pending,
            "queued": self._scheduler.queued,
            "running": self._scheduler.running,
            "models": list(self._served.digests()),
            **self._stats.snapshot(),
        }

    def close(self) -> None:
        """Finish what runs, answer the rest and all that comes later `draining`. May be called more than once."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._scheduler.close()
        self._lanes.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _admit(self, request: Request) -> Ticket | Failed:
        entry = self._find(request.model)
        if isinstance(entry, Failed):
            return entry
        if problem := check_request(request, entry.manifest):
            return problem
        ticket = Ticket(request, entry.manifest, self._settle)
        with self._lock:
            if self._closed:
                return DRAINING
            if self._pending >= self._max_pending:
                return Failed(
                    "overloaded",
                    f"{self._max_pending} requests wait here, which is the limit",
                    action="wait and try again",
                )
            self._pending += 1
        self._scheduler.submit(ticket)
        return ticket

    def _find(self, digest: str) -> ModelEntry | Failed:
        try:
            return self._models.at(digest)
        except ModelNotFound:
            return NO_MODEL

    def _settle(self, outcome: Outcome) -> None:
        self._stats.count_outcome(outcome)
        with self._lock:
            self._pending -= 1
