"""The body application/x-safetensors: a support set and queries as raw pixels, for clients that have them as arrays.

    8 bytes   length of the header, little-endian
    header    JSON: {"__metadata__": {"labels": ..., ...}, NAME: {"dtype", "shape", "data_offsets"}, ...}
    data      the tensors, one behind the other

    support   U8  (n, h, w) or (n, h, w, c)      needs targets and labels
    targets   I64 (n,)                           indices into labels
    queries   U8  (q, h, w) or (q, h, w, c)
    labels    in __metadata__: a JSON list of strings (its values are strings); beside it, if wanted,
              "ttl_seconds" (digits) and "durability"

The reader is our own and needs numpy only. It takes less than the format allows: no holes, no overlaps, no other names
and dtypes, and nothing is allocated for what a header claims. The arrays are views of the body.

Reference: the format section of the safetensors README (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot_server.errors import InputError
from kshot_server.sessions.labels import check_label
from kshot_server.strict_json import parse_json

__all__ = ["MAX_HEADER_BYTES", "TensorBody", "parse_tensors"]

MAX_HEADER_BYTES = 1 << 20
_SHORT_HEADER_BYTES = 256
_MAX_SIZE = 1 << 40  # of one axis; no body is that long, and products stay small integers

_DTYPES = {"support": "U8", "targets": "I64", "queries": "U8"}
_NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "I64": np.dtype("<i8")}
_METADATA = {"labels", "ttl_seconds", "durability", "format"}  # some writers add their own name as "format"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


class TensorBody(NamedTuple):
    """What such a body holds. The arrays cannot be written to."""

    labels: tuple[str, ...]  # one for each support example, not sorted
    support: NDArray[np.uint8] | None  # (n, h, w, c)
    queries: NDArray[np.uint8] | None  # (q, h, w, c)
    options: Mapping[str, str]  # the rest of __metadata__: ttl_seconds, durability; not checked


def parse_tensors(body: bytes, *, max_pixels: int) -> TensorBody:
    """Read a body.

    Args:
        body: all of it.
        max_pixels: most pixels (h x w) of one image.

    Raises:
        InputError: `invalid_tensor`: not such a file, or a tensor of another name, dtype or shape; `invalid_targets`:
            not one index of a label for each example; `invalid_label`: labels are missing or cannot be used;
            `class_without_examples`; `image_too_large`.
    """
    entries, metadata, data = _read_header(body)
    tensors = {name: _view(data, name, entry) for name, entry in entries.items()}
    for name in ("support", "queries"):
        if name in tensors:
            tensors[name] = _as_images(name, tensors[name], max_pixels)
    if ("support" in tensors) != ("targets" in tensors):
        raise _invalid("support and targets come together", "both, or none of them")
    options: dict[str, str] = {name: metadata[name] for name in ("ttl_seconds", "durability") if name in metadata}
    if "support" not in tensors:
        if "labels" in metadata:
            raise InputError(
                "invalid_label", "There are labels, but no support set.", "labels beside a support set only"
            )
        return TensorBody((), None, tensors.get("queries"), options)
    labels = _read_labels(metadata.get("labels"))
    targets = _check_targets(tensors["targets"], len(tensors["support"]), labels)
    return TensorBody(tuple(labels[t] for t in targets), tensors["support"], tensors.get("queries"), options)


def _read_header(body: bytes) -> tuple[dict[str, Any], dict[str, str], memoryview]:
    """Entries of the tensors, the metadata, and the data that the entries' offsets count in."""
    if len(body) < 8:
        raise _invalid("the body is too short for a header", "at least 8 bytes", f"{len(body)} bytes")
    length = int.from_bytes(body[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(body) - 8):
        raise _invalid("the header is too long", f"at most {MAX_HEADER_BYTES} bytes, all of them in the body")
    data = memoryview(body)[8 + length :]
    read = _known_header if length <= _SHORT_HEADER_BYTES else _parsed_header
    return *read(body[8 : 8 + length], len(data)), data


def _parsed_header(encoded: bytes, size_bytes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries and metadata of a header before data of that size."""
    try:
        header = parse_json(encoded)
    except ValueError as error:
        raise _invalid(f"the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise _invalid("the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid("__metadata__ is not an object of strings")
    if not metadata.keys() <= _METADATA:
        raise _invalid("__metadata__ has an unknown key", f"only {', '.join(sorted(_METADATA))}")
    if not header or not header.keys() <= _DTYPES.keys():
        raise _invalid("a tensor has another name, or there is none", f"some of {', '.join(_DTYPES)}")
    _check_layout(header, size_bytes)
    return header, metadata


# A client's next queries are of the same shape, and the same few bytes are read again.
_known_header = lru_cache(maxsize=64)(_parsed_header)


def _check_layout(entries: dict[str, Any], size_bytes: int) -> None:
    """Each entry is well formed, and together they cover the data without hole or overlap."""
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
            raise _invalid(f"{name} has not exactly the keys dtype, shape and data_offsets")
        if entry["dtype"] != _DTYPES[name]:
            raise _invalid(
                f"{name} has another dtype", _DTYPES[name], action="Send pixels of 0 to 255, not normalised."
            )
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _is_sizes(shape) or not _is_sizes(offsets) or len(shape) > 4 or len(offsets) != 2:
            raise _invalid(f"{name} has a malformed shape or data_offsets", "up to 4 sizes, and 2 offsets")
        if offsets[1] - offsets[0] != math.prod(shape) * _NUMPY_DTYPES[entry["dtype"]].itemsize:
            raise _invalid(f"the data_offsets of {name} do not fit its shape")
    end = 0
    for offsets in sorted(entry["data_offsets"] for entry in entries.values()):
        if offsets[0] != end:
            raise _invalid("the tensors leave a hole or overlap")
        end = offsets[1]
    if end != size_bytes:
        raise _invalid("the data have another length than the header says", f"{end} bytes", f"{size_bytes} bytes")


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < _MAX_SIZE for size in value)


def _view(data: memoryview, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[begin:end], dtype=_NUMPY_DTYPES[_DTYPES[name]]).reshape(entry["shape"])


def _as_images(name: str, pixels: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in {1, 3, 4} or 0 in pixels.shape[1:]:
        raise _invalid(
            f"{name} has another shape", "(n, h, w) or (n, h, w, c) with 1, 3 or 4 channels", str(pixels.shape)
        )
    height, width = pixels.shape[1:3]
    if height * width > max_pixels:
        expected = f"at most {max_pixels} pixels"
        raise InputError(
            "image_too_large", f"The images of {name} have too many pixels.", expected, f"{width} x {height}"
        )
    return pixels


def _read_labels(text: str | None) -> list[str]:
    expected = '"labels" in __metadata__: a JSON list of strings'
    if text is None:
        raise InputError("invalid_label", "The support set has no labels.", expected)
    try:
        labels = parse_json(text.encode())
    except ValueError:
        raise InputError("invalid_label", "The labels are no JSON.", expected) from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError("invalid_label", "The labels are not a list of strings.", expected)
    return labels


def _check_targets(targets: NDArray[np.int64], examples: int, labels: Sequence[str]) -> list[int]:
    if targets.shape != (examples,):
        raise InputError(
            "invalid_targets", "There is not one target for each example.", f"({examples},)", str(targets.shape)
        )
    if examples and not (targets.min() >= 0 and targets.max() < len(labels)):
        received = f"{targets.min()} to {targets.max()}"
        raise InputError("invalid_targets", "A target is no index of a label.", f"0 to {len(labels) - 1}", received)
    # Counted before they are looked at: a list of 100,000 labels for two images costs nothing.
    missing = len(labels) - len(np.unique(targets))
    if missing:
        raise InputError("class_without_examples", f"{missing} of {len(labels)} labels have no example.")
    if len({check_label(label) for label in labels}) != len(labels):
        raise InputError("invalid_label", "A label is there twice.", "each label once; targets may repeat")
    indices: list[int] = targets.tolist()
    return indices


def _invalid(
    reason: str, expected: str | None = None, received: str | None = None, action: str | None = None
) -> InputError:
    return InputError("invalid_tensor", f"The tensors cannot be used: {reason}.", expected, received, action)
