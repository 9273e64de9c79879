"""Which devices to run engines on, found out without torch: the main process must not touch CUDA before it forks."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from kshot_server.engine.executors.table import RUNTIMES, is_device
from kshot_server.settings import SettingError

__all__ = ["choose_runtime", "devices_of"]

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


def choose_runtime(setting: str) -> str:
    """The runtime of `--runtime`; its package is installed, before processes are started that need it.

    Args:
        setting: `torch`, `onnxruntime`, or `auto`: torch if it is installed, else onnxruntime.

    Raises:
        SettingError: it is not installed, or none is.
    """
    installed = [runtime for runtime in RUNTIMES if importlib.util.find_spec(runtime) is not None]
    if setting == "auto" and installed:
        return installed[0]
    if setting not in installed:
        wanted = [setting] if setting in RUNTIMES else RUNTIMES
        extras = " or ".join(f"'kshot[{RUNTIMES[name].extra}]'" for name in wanted)
        there = f"{', '.join(installed)} is" if installed else "no runtime is"
        raise SettingError(f"--runtime {setting}: {there} installed here; pip install {extras}")
    return setting


def devices_of(
    setting: str, environment: Mapping[str, str], gpus: Path = _NVIDIA_GPUS, *, runtime: str = "torch"
) -> tuple[str, ...]:
    """The devices of `--device`, one for each engine process.

    Args:
        setting: `auto` (every visible GPU if the runtime can use them, else the CPU) or devices separated by commas.
        environment: normally `os.environ`; CUDA_VISIBLE_DEVICES counts.
        gpus: the folder in which the driver lists its GPUs.
        runtime: `torch` or `onnxruntime`.

    Raises:
        SettingError: not a device, or one of them twice.
    """
    if setting == "auto":
        uses_cuda = _torch_uses_cuda() if runtime == "torch" else _onnxruntime_uses_cuda()
        count = _visible_gpus(environment, gpus) if uses_cuda else 0
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    devices = tuple(part.strip() for part in setting.split(","))
    if not all(is_device(device, runtime) for device in devices) or len(set(devices)) != len(devices):
        raise SettingError(
            f"--device: expected auto, or different ones of {', '.join(RUNTIMES[runtime].executors)}; got {setting!r}"
        )
    return devices


def _visible_gpus(environment: Mapping[str, str], gpus: Path) -> int:
    present = len(os.listdir(gpus)) if gpus.is_dir() else 0  # noqa: PTH208 - a count, no paths
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    # CUDA stops at the first entry that is no device; -1 and the empty string are the usual ways to say "none".
    listed = [part for part in visible.split(",") if part.strip() and not part.strip().startswith("-")]
    return min(present, len(listed))


def _onnxruntime_uses_cuda() -> bool:
    """Whether the installed onnxruntime has the library of its CUDA provider, as the package onnxruntime-gpu does."""
    package = importlib.util.find_spec("onnxruntime")
    if package is None or package.origin is None:
        return False
    return (Path(package.origin).parent / "capi" / "libonnxruntime_providers_cuda.so").is_file()


def _torch_uses_cuda() -> bool:
    """Whether the installed torch was built for CUDA: its version file says so, and reading that file is cheap."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    version = importlib.util.spec_from_file_location("kshot_torch_version", Path(torch.origin).parent / "version.py")
    if version is None or version.loader is None:
        return False
    module = importlib.util.module_from_spec(version)
    version.loader.exec_module(module)
    return getattr(module, "cuda", None) is not None
