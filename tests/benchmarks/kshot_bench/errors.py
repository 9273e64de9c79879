"""Errors of kshot_bench.

BenchError
├── PeerMissing    a library to compare with is not installed
├── TooNoisy       the machine was too busy or too unsteady to tell
├── Disagreement   two sides of a comparison do not compute the same thing
└── WorkerFailed   a process of the benchmark ended or raised
"""

from __future__ import annotations

__all__ = ["BenchError", "Disagreement", "PeerMissing", "TooNoisy", "WorkerFailed"]


class BenchError(Exception):
    """A benchmark cannot be run or reported; the message says what was expected, what came and what to do."""


class PeerMissing(BenchError):  # noqa: N818 - reads as the state it names, like the tree of kshot_models
    """A library to compare with is not installed."""


class TooNoisy(BenchError):  # noqa: N818 - see above
    """Other load or unsteady times: the numbers would not tell anything."""


class Disagreement(BenchError):  # noqa: N818 - see above
    """Two sides that should compute the same thing do not, so their times cannot be compared."""


class WorkerFailed(BenchError):  # noqa: N818 - see above
    """A worker process ended or raised; the message holds what it said."""
