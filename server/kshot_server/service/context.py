"""Who asks, and how long they wait."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RequestContext"]


@dataclass(frozen=True, eq=False)
class RequestContext:
    """What belongs to one request on its way: its tenant, its deadline, and where its time goes (filled in)."""

    tenant: str
    deadline: float  # unix seconds
    phases: dict[str, float] = field(default_factory=dict)  # seconds by phase

    def spent(self, phase: str, seconds: float) -> None:
        """Add time to a phase."""
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
