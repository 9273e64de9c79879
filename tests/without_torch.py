"""Processes that cannot import torch."""

from __future__ import annotations

import subprocess
import sys

_PREAMBLE = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

sys.meta_path.insert(0, NoTorch())
"""
_AT_THE_END = """
assert "torch" not in sys.modules
"""


def run_without_torch(program: str, *arguments: object) -> None:
    """Run a program in such a process, and fail if it fails; `sys` is imported, `sys.argv[1:]` are the arguments."""
    command = [sys.executable, "-c", _PREAMBLE + program + _AT_THE_END, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
