"""Which runtimes there are, what each needs, and its executors by device, in which N stands for a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kshot_server.engine.executors.base import Executor

__all__ = ["RUNTIMES", "Runtime", "executor_for", "is_device"]

_HERE = __name__.rpartition(".")[0]


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


class Runtime(NamedTuple):
    """A package that computes."""

    extra: str  # of kshot, which installs it
    executors: Mapping[str, Callable[[str], Executor]]  # by device
    preload: tuple[str, ...]  # modules that the engines' template imports
    needs_graphs: bool = False  # serves only models that have ONNX graphs


# By the name of the package. `--runtime auto` takes the first one that is installed.
RUNTIMES: Mapping[str, Runtime] = {
    "torch": Runtime("torch", {"cpu": _cpu, "cuda": _cuda, "cuda:N": _cuda}, (f"{_HERE}.cpu", f"{_HERE}.cuda")),
    "onnxruntime": Runtime(
        "onnx", {"cpu": _onnx, "cuda": _onnx, "cuda:N": _onnx}, (f"{_HERE}.onnx_runtime",), needs_graphs=True
    ),
}


def is_device(device: str, runtime: str) -> bool:
    """Whether a runtime has an executor for a device, such as `cpu` or `cuda:1`. Looks at the name only."""
    return _kind(device) in RUNTIMES[runtime].executors


def executor_for(device: str, runtime: str = "torch") -> Executor:
    """The executor of a runtime for a device.

    Raises:
        ValueError: there is none for that device, or no such runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"expected a runtime of {', '.join(RUNTIMES)}, got {runtime!r}")
    if not is_device(device, runtime):
        raise ValueError(f"expected a device of {', '.join(RUNTIMES[runtime].executors)}, got {device!r}")
    return RUNTIMES[runtime].executors[_kind(device)](device)


def _kind(device: str) -> str:
    return re.sub(r":\d{1,3}\Z", ":N", device)
