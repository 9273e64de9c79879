"""What the figures were measured on: processor, cores, memory, GPU, versions and settings that matter."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from pydantic import BaseModel, ConfigDict

from kshot_bench.errors import BenchError

__all__ = ["Machine", "check_device", "cores", "describe"]

_PACKAGES = ("torch", "higher", "torchopt", "scikit-learn", "numpy", "kshot")


class Machine(BaseModel):
    """One line of each thing that a figure depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    cores: int
    instructions: str  # the widest that torch uses
    memory_gib: float
    gpu: str | None
    system: str
    python: str
    versions: dict[str, str]
    measured_at: str  # RFC 3339


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Make sure that torch can compute there.

    Raises:
        BenchError: it cannot.
    """
    if device.partition(":")[0] not in {"cpu", "cuda"}:
        raise BenchError(f"--device: expected cpu, cuda or cuda:N, got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise BenchError(f"--device {device}: torch sees no GPU here; leave the flag out for the CPU")


def describe(device: str) -> Machine:
    """This machine, with its GPU if that is what computes."""
    return Machine(
        processor=_processor(),
        cores=cores(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: found for name in _PACKAGES if (found := _version(name)) is not None},
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if named:
            return named[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
