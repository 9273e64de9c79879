"""How kernels for a CPU are compiled: by Numba, to the instructions of this machine, once, and kept on disk.

They let go of the interpreter's lock, so that threads compute side by side. What a kernel takes is said by its
annotations: `Array5` is a contiguous array of five axes. Compiled at the first call, or all at once by `compile_all`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "Array2", "Array3", "Array4", "Array5", "Array6", "array", "compile_all", "compiled"]

Array: TypeAlias = NDArray[np.float32]
Array2: TypeAlias = Array
Array3: TypeAlias = Array
Array4: TypeAlias = Array
Array5: TypeAlias = Array
Array6: TypeAlias = Array
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_TYPES: dict[str, Any] = {f"Array{axes}": numba.types.Array(numba.float32, axes, "C") for axes in range(2, 7)}
_TYPES |= {"int": numba.int64, "bool": numba.boolean, "np.float32": numba.float32}
# Sums may run in lanes and products join them. NaN and infinity stay what they are: divergence is told by them.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _ARITHMETIC, "error_model": "numpy"}

_kernels: list[tuple[Any, tuple[Any, ...]]] = []  # Numba's dispatchers, and what they take


def compiled(function: Kernel) -> Kernel:
    """Make a kernel of a function; Numba says which Python it understands."""
    try:
        dispatcher = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder may be written: every process compiles for itself
        dispatcher = numba.njit(**_OPTIONS)(function)
    parameters = inspect.signature(function).parameters.values()
    _kernels.append((dispatcher, tuple(_TYPES[parameter.annotation] for parameter in parameters)))
    made: Kernel = dispatcher
    return made


def compile_all() -> int:
    """Compile all kernels that are not yet, or load what is kept of them; how many there are."""
    for dispatcher, types in _kernels:
        dispatcher.compile(types)
    return len(_kernels)


def array(tensor: Tensor) -> Array:
    """The tensor's own memory; a copy only where it is not contiguous."""
    values: Array = tensor.detach().contiguous().numpy()
    return values
