"""Kernels that an image brings along are found by processes that may write nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kshot_server.kernels import kernels_at_hand

_COMPILED = """
import numba
from kshot_models.native.jit import _kernels
dispatcher, types = next(kernel for kernel in _kernels if kernel[0].__name__ == "update")  # the smallest
dispatcher.compile(types)
print(sum(dispatcher.stats.cache_hits.values()), sum(dispatcher.stats.cache_misses.values()))
"""


def compiled(environ: dict[str, str]) -> list[int]:
    """Hits and misses of a process that wants one kernel."""
    code = "import kshot_models.batched.native\n" + _COMPILED
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_a_copy_is_found_and_what_was_brought_is_not_written_to(tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    assert compiled({**os.environ, "NUMBA_CACHE_DIR": str(brought)}) == [0, 1]
    before = sorted(path.stat().st_mtime_ns for path in brought.rglob("*"))
    environ = {**os.environ, "COMPILED_KERNELS": str(brought)}
    environ.pop("NUMBA_CACHE_DIR", None)
    with kernels_at_hand(environ):
        copy = Path(environ["NUMBA_CACHE_DIR"])
        assert copy != brought
        assert compiled(environ) == [1, 0]
    assert "NUMBA_CACHE_DIR" not in environ
    assert not copy.exists()
    assert sorted(path.stat().st_mtime_ns for path in brought.rglob("*")) == before


@pytest.mark.parametrize("given", [{}, {"COMPILED_KERNELS": "/nowhere"}, {"NUMBA_CACHE_DIR": "/mine"}])
def test_without_a_folder_or_with_ones_own_nothing_changes(given: dict[str, str]) -> None:
    environ = dict(given)
    with kernels_at_hand(environ):
        assert environ == given
