"""How much memory a computation takes: the most bytes of tensors alive at once, as the allocator counts them.

Not sampled, and not the size of the process, which holds what the allocator has not given back. Everything counts:
graphs, temporaries, and what torch.func keeps, which hooks on saved tensors (saved_bytes.py) do not see.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes"]


def peak_bytes(compute: Callable[[], object]) -> int:
    """The most bytes alive at once while `compute` ran on the CPU, beyond what was alive before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    alive = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        alive += change
        peak = max(peak, alive)
    return peak
