"""What the engine counts. One lock, held for a few additions, so that any thread may count or look."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from kshot_server.engine.requests import Adapted, Classified, Failed, NeedsSupport, Outcome

__all__ = ["EngineStats"]

_NAMES: dict[type[Outcome], str] = {Adapted: "adapted", Classified: "classified", NeedsSupport: "needs_support"}


class EngineStats:
    """Counts since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._batches: dict[str, Counter[int]] = {"adapt": Counter(), "predict": Counter()}
        self._seconds = {"adapt": 0.0, "predict": 0.0}
        self._joined = 0

    def count_outcome(self, outcome: Outcome) -> None:
        """Count an answer: `adapted`, `classified`, `needs_support`, or a failure under its code."""
        name = outcome.code if isinstance(outcome, Failed) else _NAMES[type(outcome)]
        with self._lock:
            self._outcomes[name] += 1

    def count_batch(self, op: str, size: int, seconds: float) -> None:
        """Count a batch of `adapt` or `predict` that has run."""
        with self._lock:
            self._batches[op][size] += 1
            self._seconds[op] += seconds

    def count_joined(self) -> None:
        """Count a request that waits for an adaptation which another one began."""
        with self._lock:
            self._joined += 1

    def snapshot(self) -> dict[str, Any]:
        """All counts as plain dicts: `outcomes`, `batches` (op -> size -> count), `seconds` (op -> sum), `joined`."""
        with self._lock:
            return {
                "outcomes": dict(self._outcomes),
                "batches": {op: dict(sizes) for op, sizes in self._batches.items()},
                "seconds": dict(self._seconds),
                "joined": self._joined,
            }
