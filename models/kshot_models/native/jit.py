"""How kernels for a CPU are compiled: by Numba, to the instructions of this machine, once, and kept on disk.

They let go of the interpreter's lock, so that threads compute side by side. What a kernel takes is said by its
annotations: `Array5` is a contiguous array of five axes. Compiled at the first call, or all at once by `compile_all`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Array1",
    "Array2",
    "Array3",
    "Array4",
    "Array5",
    "Indices",
    "Memory",
    "Sums",
    "Table",
    "address_of",
    "all_kept",
    "carray",
    "compile_all",
    "compile_one",
    "compiled",
    "count_kernels",
    "entry",
    "inlined",
    "memory_for",
]

Array: TypeAlias = NDArray[np.float32]
Array1: TypeAlias = Array
Array2: TypeAlias = Array
Array3: TypeAlias = Array
Array4: TypeAlias = Array
Array5: TypeAlias = Array
Indices: TypeAlias = NDArray[np.int64]  # of one axis
Table: TypeAlias = NDArray[np.int64]  # of two
Memory: TypeAlias = Callable[[int], Array1]
"""Gives so many numbers, of any value."""
Sums: TypeAlias = NDArray[np.float64]  # of any; parts of kernels take them, kernels do not
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

carray: Callable[[Any, tuple[int, ...]], Array] = numba.carray  # type: ignore[attr-defined] # numba's __all__ forgets it
"""An array at a pointer, of that shape."""

_TYPES: dict[str, Any] = {f"Array{axes}": numba.types.Array(numba.float32, axes, "C") for axes in range(1, 6)}
_TYPES |= {"Indices": numba.types.Array(numba.int64, 1, "C"), "Table": numba.types.Array(numba.int64, 2, "C")}
_TYPES |= {"int": numba.int64, "bool": numba.boolean, "np.float32": numba.float32}
# Sums may run in lanes and products join them. NaN and infinity stay what they are: divergence is told by them.
_ARITHMETIC = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _ARITHMETIC, "error_model": "numpy"}


# Numba tells by a kernel's own file whether what it keeps is up to date; but kernels have parts from other files.
@lru_cache(maxsize=8)
def _sources(file: str) -> str:
    """A digest of all that a kernel in this file may have parts from: its folder, and this one."""
    folders = sorted({Path(file).parent, Path(__file__).parent})
    sources = b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()


_BYTES = 4
_LINE = 16  # numbers of a line of a cache

_parts: set[str] = set()
_kernels: list[tuple[Any, tuple[Any, ...]]] = []  # Numba's dispatchers, and what they take


def compiled(function: Kernel) -> Kernel:
    """Make a kernel of a function; Numba says which Python it understands."""
    try:
        dispatcher = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder may be written: every process compiles for itself
        dispatcher = numba.njit(**_OPTIONS)(function)
    kept = getattr(dispatcher._cache, "_cache_file", None)  # noqa: SLF001 - Numba has no other way to say so
    if kept is not None:
        kept._source_stamp = (*kept._source_stamp, _sources(inspect.getfile(function)))  # noqa: SLF001
    parameters = inspect.signature(function).parameters.values()
    _kernels.append((dispatcher, tuple(_TYPES[parameter.annotation] for parameter in parameters)))
    made: Kernel = dispatcher
    return made


def inlined(function: Kernel) -> Kernel:
    """Make a part of kernels of a function; it is compiled with each kernel that calls it.

    Raises:
        ValueError: another part has its name. Kernels that were kept by several processes find their parts by name when
            one process loads them, and one of two would be taken for the other.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    if name in _parts:
        raise ValueError(f"two parts of kernels are called {name}; give one of them another __qualname__")
    _parts.add(name)
    made: Kernel = numba.njit(**_OPTIONS)(function)
    return made


def count_kernels() -> int:
    """How many there are."""
    return len(_kernels)


def compile_one(number: int) -> None:
    """Compile the kernel of that number, if it is not yet, or load what is kept of it."""
    dispatcher, types = _kernels[number]
    dispatcher.compile(types)


def compile_all() -> int:
    """Compile all kernels that are not yet, or load what is kept of them; how many there are."""
    for number in range(count_kernels()):
        compile_one(number)
    return count_kernels()


def all_kept() -> bool:
    """Whether all kernels are compiled, or kept by a process that has compiled them for this machine."""
    return all(types in dispatcher.overloads or _is_kept(dispatcher, types) for dispatcher, types in _kernels)


def _is_kept(dispatcher: Any, types: tuple[Any, ...]) -> bool:
    cache = dispatcher._cache  # noqa: SLF001 - Numba has no other way to ask; it tells by loading or compiling
    file = getattr(cache, "_cache_file", None)
    if file is None:
        return False
    return cache._index_key(types, dispatcher.targetctx.codegen()) in file._load_index()  # noqa: SLF001


def entry(kernel: Callable[..., None]) -> int:
    """The address of a kernel's code, for kernels that call it (calls.py); compiles it, if it is not yet."""
    [number] = [number for number, (dispatcher, _) in enumerate(_kernels) if dispatcher is kernel]
    compile_one(number)
    dispatcher, kinds = _kernels[number]
    made = dispatcher.overloads[kinds]
    address: int = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)
    return address


def address_of(values: Array) -> int:
    """Where the numbers of a contiguous array are.

    Raises:
        TypeError: they are not of single precision, of which kernels are made.
    """
    if values.dtype != np.float32:
        raise TypeError(f"kernels for CPUs take float32, not {values.dtype}; convert all arrays of a task alike")
    address: int = values.ctypes.data
    return address


def memory_for(count: int) -> Array1:
    """So many numbers of any value, from the beginning of a line of the cache on."""
    memory = np.empty(count + _LINE, np.float32)
    first = -(memory.ctypes.data // _BYTES) % _LINE
    return memory[first : first + count]
