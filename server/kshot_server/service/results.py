"""What comes out of the service: plain values, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kshot_server.sessions.record import SessionInfo

__all__ = ["Classification", "Taught"]


@dataclass(frozen=True)
class Taught:
    """A session, and whether it was known before."""

    info: SessionInfo
    known: bool
    batch_size: int


@dataclass(frozen=True, eq=False)
class Classification:
    """The answers for all queries of one request."""

    info: SessionInfo
    probabilities: NDArray[np.float32]  # (q, way), in the order of the session's labels
    unknown_below: float | None  # a query whose largest probability is less belongs to no class
    cache: str
    batch_size: int
