"""`kshot bench memory`: what a second-order meta-gradient needs at its peak, and how that grows with the inner steps.

Every figure comes from a process of its own. Memory does not depend on how busy the machine is, so nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from kshot_bench.contest import Options
from kshot_bench.crew import Crew
from kshot_bench.jobs import PeakMemory
from kshot_bench.memory import SUBJECTS
from kshot_bench.peers.table import ADAPTING, require
from kshot_bench.report import Row
from kshot_bench.work import Work

__all__ = ["FEW_STEPS", "MANY_STEPS", "memory", "peaks"]

FEW_STEPS, MANY_STEPS = 10, 100


def memory(work: Work, options: Options) -> tuple[list[Row], dict[str, float]]:
    """Measure.

    Returns:
        a row for kshot (and for steps that are recomputed instead of kept), each peer, and each of kshot's ways at few
        and at many inner steps; and by how much the latter grow, as `growth of NAME`.

    Raises:
        PeerMissing, BenchError: see errors.py.
    """
    require(ADAPTING)
    subjects = ("kshot", "kshot recomputed", *ADAPTING)
    rows = [Row(name=name, peak_bytes=peak) for name, peak in peaks(work, subjects, options.device).items()]
    growth = {}
    for name in SUBJECTS:
        few, many = (
            peaks(work.model_copy(update={"steps": steps}), (name,), options.device)[name]
            for steps in (FEW_STEPS, MANY_STEPS)
        )
        rows += [
            Row(name=f"{name}, {FEW_STEPS} steps", peak_bytes=few),
            Row(name=f"{name}, {MANY_STEPS} steps", peak_bytes=many),
        ]
        growth[f"growth of {name} from {FEW_STEPS} to {MANY_STEPS} steps"] = many / few
    return rows, growth


def peaks(work: Work, subjects: Sequence[str], device: str) -> dict[str, float]:
    """Peak bytes of each subject, each in a fresh process of one thread."""
    found = {}
    for name in subjects:
        with Crew(1) as crew:
            (found[name],) = crew.perform(PeakMemory(subject=name, work=work, device=device))
    return found
