"""python -m kshot_models.batched.native: compile all kernels for this machine now, so that no first call has to wait.

What is compiled is kept beside the package, or in the user's cache where that may not be written, or in the folder that
the environment variable NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import sys

from kshot_models.batched import native
from kshot_models.native.__main__ import main

__all__ = ["main", "native"]  # which has all kernels behind it

if __name__ == "__main__":
    sys.exit(main())
