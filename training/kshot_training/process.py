"""Settings of the process that a command runs in: threads and the allocator. Called by commands, never on import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from kshot_models.allocator import keep_freed_memory

__all__ = ["default_cache", "default_threads", "job_device", "job_size", "prepare_process", "stop_signals"]

_KEPT_BYTES = (2 << 30) - 1  # what a meta-batch frees at once is more than what an inner step does


def prepare_process() -> None:
    """One torch thread a task (two tasks on a thread each beat one task on two), and freed memory is kept."""
    torch.set_num_threads(1)
    keep_freed_memory(_KEPT_BYTES)


def default_threads() -> int:
    """The cores that this process may use; under torchrun, its share of them."""
    # Affinity is known on Linux; elsewhere a process may use all cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def job_size() -> int:
    """How many processes torchrun started for this job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def job_device(device: str) -> str:
    """The device of this process: under torchrun each has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if device != "cuda" or local is None:
        return device
    torch.cuda.set_device(int(local))
    return f"cuda:{local}"


def default_cache() -> Path:
    """The user's cache folder for decoded images, by the XDG rule."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kshot"


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a wish that the block can ask for; a second one acts as usual."""
    wished: list[int] = []

    def wish(number: int, frame: FrameType | None) -> None:
        del frame
        wished.append(number)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(wished)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
