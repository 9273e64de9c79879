"""The scheduler: what waits, what is under way, and who works on it next. One lock guards all of it.

    submit ─ ticket ──▶ cache? under way? else backlog ──▶ lane: take a batch, compute it (no lock), answer, again
                                                  ▲                                            │
                                                  └──── predictions that waited for weights ───┘

A ticket finds weights in the cache, or joins an adaptation of its session that waits or runs already, or begins one.
A lane is a thread that works as long as there is work: it starts at once on an idle engine, else after a short wait for
company where the executor says that this pays. There is no thread between those who submit and the lanes: waking one
takes as long as classifying an image.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from kshot_server.engine.backlog import Backlog
from kshot_server.engine.batch import Computed, compute_batch
from kshot_server.engine.cache import WeightCache
from kshot_server.engine.executors.base import AdaptedWeights, Executor, Queries
from kshot_server.engine.isolate import internal_error
from kshot_server.engine.lanes import Lanes
from kshot_server.engine.requests import Adapted, AdaptRequest, Classified, Failed, NeedsSupport, Support
from kshot_server.engine.served import ServedModels
from kshot_server.engine.stats import EngineStats
from kshot_server.engine.work import Adaptation, Prediction, Ticket, Work

__all__ = ["DRAINING", "Scheduler"]

DRAINING = Failed("draining", "this engine is shutting down", action="try again: another replica will answer")


class Scheduler:
    """Runs until it is closed.

    Args:
        executor: computes batches.
        served: the models on its device.
        lanes: threads that batches run on; `executor.lanes` of them.
        cache: of adapted weights; from now on the scheduler's own.
        stats: where batches and joins are counted.
        max_wait_seconds: how long work may wait for company.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        served: ServedModels,
        lanes: Lanes,
        cache: WeightCache[AdaptedWeights],
        stats: EngineStats,
        max_wait_seconds: float,
    ) -> None:
        self._executor = executor
        self._served = served
        self._lanes = lanes
        self._cache = cache
        self._stats = stats
        self._max_wait_seconds = max_wait_seconds if executor.waits_pay else 0.0
        self._backlog = Backlog(
            limits={"adapt": executor.adapting, "predict": executor.predicting},
            lanes=executor.lanes,
            example_flops=served.example_flops,
            keep=self._keep,
        )
        self._under_way: dict[tuple[str, str], Adaptation] = {}  # by model and session; waiting or running
        self._at_work = 0  # lanes
        self._running = 0  # batches: a lane without one waits for work to be ripe
        self._gathering = 0
        self._closing = False
        # May be entered again: who is answered may submit more before it returns.
        self._changed = threading.Condition(threading.RLock())

    @property
    def queued(self) -> int:
        """Pieces of work that wait, about."""
        return len(self._backlog)

    @property
    def running(self) -> int:
        """Batches that run."""
        return self._running

    def submit(self, ticket: Ticket) -> None:
        """Take on a ticket; it will be answered."""
        with self._changed:
            if self._closing:
                ticket.answer(DRAINING)
            else:
                self._hear(ticket)
                self._put_to_work()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let lanes begin with what the calling thread submits within only at the end of it."""
        with self._changed:
            self._gathering += 1
            try:
                yield
            finally:
                self._gathering -= 1
                self._put_to_work()

    def close(self) -> None:
        """Finish what runs and the predictions that follow from it, answer the rest `draining`, and end."""
        with self._changed:
            self._closing = True
            self._refuse_what_waits(DRAINING)
            self._changed.notify_all()
            while self._at_work:
                self._changed.wait()

    def _put_to_work(self) -> None:
        """Have one lane more at work if there is work for it; it does the same in its turn."""
        if self._gathering or not len(self._backlog):
            return
        if self._at_work == self._executor.lanes:
            self._changed.notify_all()  # those that wait for company; there may be enough of it now
            return
        self._at_work += 1
        try:
            self._lanes.submit(self._work)
        except RuntimeError as error:  # the machine gives no more threads
            self._at_work -= 1
            if not self._at_work:
                self._refuse_what_waits(internal_error("starting a batch", error))

    def _work(self) -> None:
        """What a lane does: batch after batch, until there are no more."""
        while works := self._next():
            computed = compute_batch(self._executor, self._served, works)
            with self._changed:
                self._running -= 1
                self._hear(computed)

    def _next(self) -> list[Work]:
        """The next batch, once one is ripe; empty if no work is left, and then the lane is at work no more."""
        with self._changed:
            while len(self._backlog):
                if works := self._backlog.take(time.monotonic()):
                    self._running += 1
                    self._put_to_work()
                    return works
                if len(self._backlog):
                    self._changed.wait(max(self._backlog.ripe_at() - time.monotonic(), 0.0))
            self._at_work -= 1
            self._changed.notify_all()
            return []

    def _hear(self, event: Ticket | Computed) -> None:
        try:
            if isinstance(event, Ticket):
                self._accept(event)
            else:
                self._finish(event)
        except Exception as error:  # noqa: BLE001 - lanes must live: everybody's answers depend on them
            self._give_up(event, internal_error("scheduling", error))

    def _give_up(self, event: Ticket | Computed, failed: Failed) -> None:
        """Answer whoever waits for what `event` was about and has no answer yet."""
        tickets = [event] if isinstance(event, Ticket) else []
        for work in [] if isinstance(event, Ticket) else event.works:
            tickets += work.tickets
            self._forget(work)
        for ticket in tickets:
            ticket.answer(failed)

    def _accept(self, ticket: Ticket) -> None:
        request = ticket.request
        weights = self._cache.get(request.model, request.session)
        if weights is not None:
            self._use(ticket, weights, recomputed=False)
        elif (adaptation := self._under_way.get((request.model, request.session))) is not None:
            adaptation.tickets.append(ticket)
            self._stats.count_joined()
        elif request.support is None:
            ticket.answer(NeedsSupport())
        else:
            self._adapt(ticket, request.support)

    def _adapt(self, ticket: Ticket, support: Support) -> None:
        request = ticket.request
        place = self._executor.place_support(support, ticket.manifest.limits)
        adaptation = Adaptation(request.model, request.session, support, place, self._ripe_at(), [ticket])
        self._under_way[request.model, request.session] = adaptation
        self._backlog.add(adaptation)

    def _use(self, ticket: Ticket, weights: AdaptedWeights, *, recomputed: bool) -> None:
        """Weights are there: answer, or let the queries wait for a batch."""
        request = ticket.request
        if isinstance(request, AdaptRequest):
            ticket.answer(Adapted(ticket.timings()))
            return
        queries = Queries(weights, request.queries)
        place = self._executor.place_queries(queries, ticket.manifest.limits)
        self._backlog.add(Prediction(request.model, queries, place, self._ripe_at(), ticket, recomputed))

    def _ripe_at(self) -> float:
        idle = self._running == 0 and len(self._backlog) == 0
        return 0.0 if idle else time.monotonic() + self._max_wait_seconds

    def _keep(self, work: Work) -> bool:
        """Whether work goes into the batch that is being formed."""
        wanted = work.still_wanted()
        if not wanted:
            self._forget(work)
        return wanted

    def _forget(self, work: Work) -> None:
        """The next request for the session of an adaptation will begin a new one."""
        if isinstance(work, Adaptation):
            self._under_way.pop((work.model, work.session), None)

    def _finish(self, computed: Computed) -> None:
        works = computed.works
        self._stats.count_batch(works[0].op, len(works), computed.seconds)
        for ticket in (ticket for work in works for ticket in work.tickets):
            ticket.batch_size = len(works)
        for adaptation, weights in computed.adaptations:
            self._finish_adaptation(adaptation, weights, computed.seconds * 1e3)
        for prediction, answer in computed.predictions:
            self._finish_prediction(prediction, answer, computed.seconds * 1e3)

    def _finish_adaptation(self, work: Adaptation, weights: AdaptedWeights | Failed, elapsed_ms: float) -> None:
        self._forget(work)
        if isinstance(weights, AdaptedWeights):
            self._cache.put(work.model, work.session, weights)
        for ticket in work.tickets:
            ticket.adapt_ms = elapsed_ms
            if isinstance(weights, Failed):
                ticket.answer(weights)
            else:
                # In hand, not looked up again: the cache may be too small to hold them until the queries are computed.
                self._use(ticket, weights, recomputed=True)

    def _finish_prediction(self, work: Prediction, answer: NDArray[np.float32] | Failed, elapsed_ms: float) -> None:
        ticket = work.ticket
        ticket.predict_ms = elapsed_ms
        if isinstance(answer, Failed):
            ticket.answer(answer)
        else:
            ticket.answer(Classified(answer, ticket.timings(), "recomputed" if work.recomputed else "device"))

    def _refuse_what_waits(self, failed: Failed) -> None:
        for work in self._backlog.drain():
            self._forget(work)
            for ticket in work.tickets:
                ticket.answer(failed)
