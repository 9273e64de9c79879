"""ONNX Runtime on bytes that an artifact vouches for, and on nothing that stands outside of them. No torch."""

from __future__ import annotations

from typing import Any

from kshot_models.errors import ExternalData, GraphInvalid, RuntimeMissing
from kshot_models.onnx_external import MalformedModel, has_external_data

__all__ = ["check_self_contained", "open_session"]


def check_self_contained(data: bytes, where: str) -> None:
    """Refuse a model that stores tensors elsewhere.

    Raises:
        GraphInvalid: the bytes are no protobuf message.
        ExternalData: a tensor names a file or an address.
    """
    try:
        external = has_external_data(data)
    except MalformedModel as error:
        raise GraphInvalid(f"{where} is no ONNX model: {error}") from error
    if external:
        raise ExternalData(
            f"{where} stores tensors outside of itself, for which no digest vouches; "
            "save it as one file (onnx.save with save_as_external_data=False)"
        )


def open_session(data: bytes, where: str, device: str) -> Any:
    """An onnxruntime.InferenceSession, which may be run from several threads at once, each run on one core.

    Args:
        data: the model.
        where: its place, for messages.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        RuntimeMissing: onnxruntime, or its build for that device, is not installed.
        ExternalData: a tensor is stored elsewhere.
        GraphInvalid: it is no model that ONNX Runtime can run.
    """
    check_self_contained(data, where)
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, which models without graphs do without
    except ImportError as error:
        raise RuntimeMissing(f"{where} needs onnxruntime; pip install 'kshot[onnx]'") from error
    providers = _providers(onnxruntime, where, device)
    try:
        return onnxruntime.InferenceSession(data, _options(onnxruntime), providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise GraphInvalid(f"{where}: {error}") from error


def _options(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a task has one core: tasks run side by side
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures come as exceptions, and are logged once
    # Its own format, which it would tell by the bytes, has another way to name files than the one that was looked for.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _providers(onnxruntime: Any, where: str, device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2] or 0)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeMissing(
            f"{where}: expected onnxruntime-gpu for the device {device}; pip install 'kshot[onnx-gpu]'"
        )
    return [("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0}), "CPUExecutionProvider"]
