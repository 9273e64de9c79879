"""Is the machine quiet enough to tell? Judged by what others computed meanwhile and by how far repetitions spread.

    load of others    busy time of the cores that is not this process's tree, as a share of all cores
    spread            interquartile range over median, the worst of the figures that are compared

Above a limit there is no report (exit code 3), or one that says that it is noisy (`--allow-noise`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import psutil
from pydantic import BaseModel, ConfigDict

from kshot_bench.errors import TooNoisy
from kshot_bench.statistics import spread

__all__ = ["LOAD_LIMIT", "SPREAD_LIMIT", "LoadMeter", "Noise", "judge", "look_around", "tree_seconds"]

SPREAD_LIMIT = 0.15
LOAD_LIMIT = 0.10


class Noise(BaseModel):
    """The verdict; `reasons` is empty where the machine was quiet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spread: float  # the worst
    spread_limit: float
    other_load: float
    other_load_limit: float
    reasons: tuple[str, ...]

    @property
    def noisy(self) -> bool:
        """Whether anything was above its limit."""
        return bool(self.reasons)


def tree_seconds() -> float:
    """Processor time that this process, its threads and all its children have used.

    That of this process is exact; that of living children has the kernel's resolution, about 10 ms.
    """
    total = time.process_time()
    own = psutil.Process()
    mine = own.cpu_times()
    total += mine.children_user + mine.children_system
    for process in own.children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # has ended: its parent has its times among those of its children
        total += times.user + times.system + times.children_user + times.children_system
    return total


class LoadMeter:
    """Measures what share of the cores others used since it was made; time stolen by a hypervisor counts as theirs."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._own = tree_seconds()

    def others(self) -> float:
        """The share, 0 to 1; 0 where the process tree used all that was used."""
        elapsed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (tree_seconds() - self._own)
        return max(others, 0.0) / elapsed if elapsed > 0 else 0.0


def look_around(*, allow_noise: bool, seconds: float = 1.0) -> None:
    """Refuse at once on a machine that is plainly busy, before minutes are spent on it.

    Raises:
        TooNoisy: others use more than the limit, and that is not allowed.
    """
    if not allow_noise:
        meter = LoadMeter()
        time.sleep(seconds)
        judge({}, meter.others(), allow_noise=False)


def judge(
    figures: Mapping[str, Sequence[float]],
    other_load: float,
    *,
    allow_noise: bool,
    spread_limit: float = SPREAD_LIMIT,
    load_limit: float = LOAD_LIMIT,
) -> Noise:
    """Weigh the repetitions of what is compared.

    Args:
        figures: what was measured, by name; each with its repetitions.
        other_load: of a LoadMeter over the same time.
        allow_noise: give a noisy verdict instead of raising.
        spread_limit: largest interquartile range over median.
        load_limit: largest share of the cores for others.

    Raises:
        TooNoisy: something is above its limit and that is not allowed.
    """
    spreads = {name: spread(values) for name, values in figures.items()}
    worst = max(spreads, key=lambda name: spreads[name], default="")
    reasons = []
    if worst and spreads[worst] > spread_limit:
        reasons.append(
            f"the repetitions of {worst} spread by {spreads[worst]:.0%} of their median (limit {spread_limit:.0%})"
        )
    if other_load > load_limit:
        reasons.append(f"other processes used {other_load:.0%} of the cores (limit {load_limit:.0%})")
    if reasons and not allow_noise:
        raise TooNoisy(
            f"the machine is too noisy to tell: {'; '.join(reasons)}. Stop what else runs and try again, give it more "
            "--repetitions or a longer --window, or mark the result as noisy with --allow-noise"
        )
    return Noise(
        spread=spreads.get(worst, 0.0),
        spread_limit=spread_limit,
        other_load=other_load,
        other_load_limit=load_limit,
        reasons=tuple(reasons),
    )


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guests inside user and nice.
    return sum(times) - waiting - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
