"""What waits in the engine: tickets (accepted requests) and the work that they wait for.

    Ticket 1 ─┐
    Ticket 2 ─┴─ Adaptation of a session ─▶ weights ─▶ Prediction for ticket 2
    Ticket 3 ─── Prediction with weights from the cache

An adaptation has as many tickets as wait for that session; a prediction has one. Work whose tickets have all gone is
not done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from kshot_models.manifest import Manifest
from kshot_server.engine.executors.base import Place, Queries
from kshot_server.engine.requests import Failed, Outcome, Request, Support, Timings

__all__ = ["Adaptation", "Prediction", "Ticket", "Work", "bucket_of"]

_TOO_LATE = Failed(
    "deadline_exceeded",
    "the deadline passed before the work began",
    action="allow more time, or try again when there is less load",
)
# For the counts only: who would read it has gone, so the code is no row of PROBLEMS.
_GONE = Failed("cancelled", "nobody waits for this answer any more")


@dataclass(eq=False)
class Ticket:
    """An accepted request. The first answer is the one that counts."""

    request: Request
    manifest: Manifest
    settle: Callable[[Outcome], None]  # counts the answer and gives the place in the queue back
    future: Future[Outcome] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    adapt_ms: float = 0.0
    predict_ms: float = 0.0
    batch_size: int = 0
    answered: bool = False

    def answer(self, outcome: Outcome) -> None:
        """Give the outcome to who waits for it, if anybody still does."""
        if self.answered:
            return
        self.answered = True
        self.settle(outcome)
        with suppress(InvalidStateError):  # cancelled: the client has gone
            self.future.set_result(outcome)

    def still_wanted(self) -> bool:
        """False if the client has gone or the deadline has passed; the ticket is answered then."""
        if self.future.cancelled():
            self.answer(_GONE)
        elif time.time() > self.request.deadline:
            self.answer(_TOO_LATE)
        else:
            return True
        return False

    def timings(self) -> Timings:
        """Where the time went until now."""
        total_ms = (time.monotonic() - self.arrived) * 1e3
        queue_ms = max(total_ms - self.adapt_ms - self.predict_ms, 0.0)
        return Timings(queue_ms, self.adapt_ms, self.predict_ms, self.batch_size)


@dataclass(eq=False)
class Adaptation:
    """Weights to be made for a session, once, for all tickets that wait for them."""

    model: str
    session: str
    support: Support
    place: Place
    ripe_at: float  # monotonic seconds: until then it may wait for company
    tickets: list[Ticket]
    op = "adapt"

    def still_wanted(self) -> bool:
        """Drop tickets that need no answer any more; False if none is left."""
        self.tickets = [ticket for ticket in self.tickets if ticket.still_wanted()]
        return bool(self.tickets)


@dataclass(eq=False)
class Prediction:
    """Queries to be classified for one ticket, with the weights in hand: eviction cannot take them away any more."""

    model: str
    queries: Queries
    place: Place
    ripe_at: float
    ticket: Ticket
    recomputed: bool  # the weights were made for this request, not found in the cache
    op = "predict"

    @property
    def tickets(self) -> list[Ticket]:
        """The one ticket, as a list."""
        return [self.ticket]

    def still_wanted(self) -> bool:
        """See Adaptation."""
        return self.ticket.still_wanted()


Work: TypeAlias = Adaptation | Prediction


def bucket_of(work: Work) -> Hashable:
    """Work of one bucket can be one batch."""
    return work.op, work.model, work.place.bucket
