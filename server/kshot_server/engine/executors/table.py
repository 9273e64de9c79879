"""Which executors there are: by runtime, then by device, in which N stands for a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kshot_server.engine.executors.base import Executor

__all__ = ["EXECUTORS", "executor_for", "is_device"]


def _cpu(device: str) -> Executor:
    from kshot_server.engine.executors.cpu import CpuExecutor  # noqa: PLC0415 - brings in torch

    del device
    return CpuExecutor()


def _cuda(device: str) -> Executor:
    from kshot_server.engine.executors.cuda import CudaExecutor  # noqa: PLC0415 - brings in torch

    return CudaExecutor(device)


def _onnx(device: str) -> Executor:
    from kshot_server.engine.executors.onnx_runtime import OnnxExecutor  # noqa: PLC0415 - brings in onnxruntime

    return OnnxExecutor(device)


EXECUTORS: Mapping[str, Mapping[str, Callable[[str], Executor]]] = {
    "torch": {"cpu": _cpu, "cuda": _cuda, "cuda:N": _cuda},
    "onnxruntime": {"cpu": _onnx, "cuda": _onnx, "cuda:N": _onnx},
}


def is_device(device: str, runtime: str) -> bool:
    """Whether a runtime has an executor for a device, such as `cpu` or `cuda:1`. Looks at the name only."""
    return _kind(device) in EXECUTORS[runtime]


def executor_for(device: str, runtime: str = "torch") -> Executor:
    """The executor of a runtime for a device.

    Raises:
        ValueError: there is none for that device, or no such runtime.
    """
    if runtime not in EXECUTORS:
        raise ValueError(f"expected a runtime of {', '.join(EXECUTORS)}, got {runtime!r}")
    if not is_device(device, runtime):
        raise ValueError(f"expected a device of {', '.join(EXECUTORS[runtime])}, got {device!r}")
    return EXECUTORS[runtime][_kind(device)](device)


def _kind(device: str) -> str:
    return re.sub(r":\d{1,3}\Z", ":N", device)
