"""What every route is given."""

from __future__ import annotations

from typing import NamedTuple

from kshot_server.gate import Gate
from kshot_server.metrics import HttpMetrics
from kshot_server.service.service import Service

__all__ = ["Wiring"]


class Wiring(NamedTuple):
    """The work, what stands before it, and what counts it."""

    service: Service
    gate: Gate
    metrics: HttpMetrics
