"""Writing files that are on the disk when the call returns, for what is renamed into place afterwards."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_synced"]


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file and wait until the disk has it; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
