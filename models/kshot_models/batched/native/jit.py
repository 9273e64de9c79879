"""How kernels for a CPU are compiled: by Numba, to the instructions of this machine, once, and kept on disk.

They let go of the interpreter's lock, so that threads compute side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "array", "compiled", "inlined"]

Array = NDArray[np.float32]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Sums may run in lanes and products join them. NaN and infinity stay what they are: divergence is told by them.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function: Kernel) -> Kernel:
    """Compile at the first call."""
    made: Kernel = numba.njit(nogil=True, cache=True, fastmath=_ARITHMETIC, error_model="numpy")(function)
    return made


def inlined(function: Kernel) -> Kernel:
    """The same, for a part of kernels."""
    made: Kernel = numba.njit(nogil=True, fastmath=_ARITHMETIC, error_model="numpy", inline="always")(function)
    return made


def array(tensor: Tensor) -> Array:
    """The tensor's own memory; a copy only where it is not contiguous."""
    values: Array = tensor.detach().contiguous().numpy()
    return values
