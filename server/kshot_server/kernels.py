"""Kernels that were compiled when an image was built, put where Numba may write.

Numba keeps compiled kernels on disk, and takes a folder only if it may write to it. In a container the file system is
read-only but for /tmp, so what the image brings along is copied there; else each start would compile for a minute.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["kernels_at_hand"]

_BROUGHT = "COMPILED_KERNELS"
_WRITABLE = "NUMBA_CACHE_DIR"  # Numba reads it when it is imported


@contextmanager
def kernels_at_hand(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Within, processes that start with `environ` find the kernels of the folder COMPILED_KERNELS, if it names one."""
    brought = environ.get(_BROUGHT)
    if not brought or not Path(brought).is_dir() or environ.get(_WRITABLE):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="kshot-kernels-") as folder:
        shutil.copytree(brought, folder, dirs_exist_ok=True)
        environ[_WRITABLE] = folder
        try:
            yield
        finally:
            del environ[_WRITABLE]
