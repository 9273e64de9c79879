"""python -m kshot_models.native: compile what a server without torch needs for this machine.

`python -m kshot_models.batched.native`, with torch, compiles all kernels; then no first call has to wait.

What is compiled is kept beside the package, or in the user's cache where that may not be written, or in the folder that
the environment variable NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from kshot_models.native import classifier, denormals, descent
from kshot_models.native.jit import compile_all, compile_one, count_kernels

__all__ = ["classifier", "denormals", "descent", "main"]  # these have all kernels behind them


def main() -> int:
    """Compile them, as many at once as there are cores; 0."""
    begun = time.perf_counter()
    # A system without semaphores, as in some builds, has no such processes: one by one then.
    with contextlib.suppress(OSError, ImportError), ProcessPoolExecutor() as processes:
        # Backwards: what is made of all the others stands late, and takes longest.
        list(processes.map(compile_one, reversed(range(count_kernels()))))
    count = compile_all()
    print(f"{count} kernels are ready, after {time.perf_counter() - begun:.1f} s")  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
