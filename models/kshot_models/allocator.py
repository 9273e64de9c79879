"""How glibc's malloc keeps the memory of a process that adapts or trains: freed activations stay for the next step.

By default what is freed at the end of the heap goes back to the system, and large blocks are mapped one by one, so each
step of each adaptation is given fresh pages, which the system has to clear: a tenth to a fifth of its time. Here
256 MiB may stay, blocks up to 32 MiB come from the heap, and all threads share one, as what lies free in another
thread's heap serves nobody. What lives long should lie elsewhere, as a server's cached weights do. It is a setting of
a process: engines, `kshot train` and benchmarks make it when they start, an import never does.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# From malloc.h: parameter, value.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = (-3, 32 << 20)  # the most that glibc takes
_ARENA_MAX = (-8, 1)


def keep_freed_memory(most_bytes: int = 256 << 20) -> bool:
    """Set it for this process. Environment variables such as MALLOC_ARENA_MAX are overruled.

    Args:
        most_bytes: how much may stay, below 2 GiB.

    Returns:
        whether the process's C library took it; another one than glibc knows none of this, and loses only time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(*option) for option in ((_TRIM_THRESHOLD, most_bytes), _MMAP_THRESHOLD, _ARENA_MAX)]
    return set(taken) == {1}
