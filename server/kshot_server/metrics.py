"""What Prometheus sees. Names begin with kshot_; no label holds a tenant, a session or what else a client may choose.

    API processes ──┐
                    ├─ files in PROMETHEUS_MULTIPROC_DIR ── /metrics of any API process adds them up
    engines ────────┘

Without that directory (local mode, tests) the numbers of the one process are shown. prometheus_client looks for the
variable when it is imported, so it is imported here on use, after the entry point has set the variable.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kshot_server.tallies import CounterTally, HistogramTally

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["CONTENT_TYPE", "DIRECTORY_VARIABLE", "EngineMetrics", "HttpMetrics", "forget_process"]

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TELL_SECONDS = 0.25


class HttpMetrics:
    """The numbers of one API process. What is counted is told by `tell`, which is to be called some times a second."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415 - see the module's docstring

        def counter(name: str, text: str, labels: list[str]) -> CounterTally:
            return CounterTally(Counter(name, text, labels, registry=registry))

        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> HistogramTally:
            return HistogramTally(Histogram(name, text, labels, buckets=buckets, registry=registry), buckets)

        self._registry = registry
        self._requests = counter(
            "kshot_requests", "Answers by route, method and status.", ["route", "method", "status"]
        )
        self._seconds = histogram(
            "kshot_request_seconds", "Time from a request's head to its answer.", ["route"], _SECONDS
        )
        self._phases = histogram("kshot_phase_seconds", "Where requests spend their time.", ["phase"], _SECONDS)
        self._rejected = counter("kshot_rejected", "Requests that were refused before any work.", ["reason"])
        self._problems = counter("kshot_problems", "Problems by code.", ["code"])
        self._sessions = counter(
            "kshot_sessions_adapted", "Answers that made a session, or knew it.", ["model", "known"]
        )
        self._queries = counter("kshot_queries", "Images classified.", ["model", "cache"])
        self._batches = histogram(
            "kshot_batch_size", "Requests in the batch that an answer rode in.", ["operation"], _BATCH
        )
        self._tallies = (
            self._requests, self._seconds, self._phases, self._rejected, self._problems, self._sessions, self._queries,
            self._batches,
        )  # fmt: skip
        self._in_flight = Gauge(
            "kshot_in_flight", "Requests being worked on.", registry=registry, multiprocess_mode="livesum"
        )
        self._now_in_flight = 0
        self._store = Gauge(
            "kshot_store_events",
            "What happened in the session store since it was opened.",
            ["event"],
            registry=registry,
            multiprocess_mode="sum",
        )
        self._deaths = Counter("kshot_engine_deaths", "Engine processes that died.", registry=registry)
        info = Gauge("kshot_build_info", "Always 1.", ["version"], registry=registry, multiprocess_mode="max")
        info.labels(version).set(1)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.add((route, method, str(status)))
        self._seconds.observe((route,), seconds)

    def phase(self, name: str, seconds: float) -> None:
        """Record one phase of a request."""
        self._phases.observe((name,), seconds)

    def problem(self, code: str) -> None:
        """Count a problem by its code."""
        self._problems.add((code,))

    def rejected(self, reason: str) -> None:
        """Count a request that was refused before any work."""
        self._rejected.add((reason,))

    def adapted(self, model: str, *, known: bool, batch_size: int) -> None:
        """Count a session that was made, or was known."""
        self._sessions.add((model, str(known).lower()))
        if batch_size:
            self._batches.observe(("adapt",), batch_size)

    def classified(self, model: str, cache: str, queries: int, batch_size: int) -> None:
        """Count classified images."""
        self._queries.add((model, cache), queries)
        if batch_size:
            self._batches.observe(("predict",), batch_size)

    def in_flight(self, count: int) -> None:
        """Tell how many requests are being worked on."""
        self._now_in_flight = count

    def store_events(self, events: Mapping[str, int]) -> None:
        """Tell what happened in the store so far."""
        for event, count in events.items():
            self._store.labels(event).set(count)

    def engine_died(self) -> None:
        """Count the death of an engine process."""
        self._deaths.inc()

    def tell(self) -> None:
        """Make what was counted so far visible to whoever asks for the numbers, here or in another process."""
        for tally in self._tallies:
            tally.tell()
        self._in_flight.set(self._now_in_flight)

    async def keep_telling(self) -> None:
        """Tell again and again, until cancelled."""
        while True:
            self.tell()
            await asyncio.sleep(_TELL_SECONDS)

    def render(self) -> bytes:
        """The text that Prometheus reads: of all processes if they share a directory, of this one otherwise."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - see the module's docstring
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - as above

        self.tell()
        registry = self._registry
        if DIRECTORY_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        return generate_latest(registry)


class EngineMetrics:
    """The numbers of one engine process, from `Engine.stats()`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Gauge, Histogram  # noqa: PLC0415 - see the module's docstring

        # Gauges set to running totals: the engine counts itself, and an engine that died takes its own away.
        self._cache = Gauge(
            "kshot_cache", "Adapted weights on the device: what is held, and what happened.", ["what"],
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._work = Gauge(
            "kshot_engine_requests", "Requests in the engine: pending, queued, running.", ["state"],
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._outcomes = Gauge(
            "kshot_engine_outcomes",
            "Answers of the engine by kind.",
            ["outcome"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._seconds = Gauge(
            "kshot_engine_busy_seconds",
            "Time spent computing.",
            ["operation"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._joined = Gauge(
            "kshot_engine_joined", "Requests that waited for an adaptation which another one began.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._models = Gauge(
            "kshot_engine_models", "Models that are loaded.", registry=registry, multiprocess_mode="livemax"
        )
        batches = Histogram(
            "kshot_engine_batch_size", "Requests in a batch, one entry for each batch.", ["operation"],
            buckets=_BATCH, registry=registry,
        )  # fmt: skip
        self._batches = HistogramTally(batches, _BATCH)
        self._observed: dict[tuple[str, int], int] = {}  # batches by operation and size, as far as the histogram knows

    def refresh(self, stats: Mapping[str, Any]) -> None:
        """Take the values of now."""
        for what, value in stats["cache"].items():
            self._cache.labels(what).set(value)
        for state in ("pending", "queued", "running"):
            self._work.labels(state).set(stats[state])
        for outcome, count in stats["outcomes"].items():
            self._outcomes.labels(outcome).set(count)
        for operation, seconds in stats["seconds"].items():
            self._seconds.labels(operation).set(seconds)
        self._joined.set(stats["joined"])
        self._models.set(len(stats["models"]))
        for operation, sizes in stats["batches"].items():
            for size, count in sizes.items():
                if new := count - self._observed.get((operation, size), 0):
                    self._batches.observe((operation,), size, new)
                self._observed[operation, size] = count
        self._batches.tell()


def forget_process(pid: int) -> None:
    """Drop the live gauges of a process that died; its counters stay in the sums."""
    if DIRECTORY_VARIABLE in os.environ:
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - see the module's docstring

        mark_process_dead(pid)  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
