"""What goes into the service beside a body, and what comes out: plain values, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kshot_server.sessions.record import SessionInfo

__all__ = ["Call", "Classification", "Prediction", "Taught"]


@dataclass(frozen=True, eq=False)
class Call:
    """Who asks, how long they wait, and where the time goes (filled in on the way, seconds by phase)."""

    tenant: str
    deadline: float  # unix seconds
    phases: dict[str, float] = field(default_factory=dict)

    def spent(self, phase: str, seconds: float) -> None:
        """Add time to a phase."""
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds


@dataclass(frozen=True)
class Taught:
    """A session, and whether it was known before."""

    info: SessionInfo
    known: bool
    batch_size: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one query; `probabilities` are in the order of the session's labels."""

    best: int
    probabilities: NDArray[np.float32]
    unknown: bool


@dataclass(frozen=True, eq=False)
class Classification:
    """The answers for all queries of one request."""

    info: SessionInfo
    predictions: list[Prediction]
    cache: str
    batch_size: int
