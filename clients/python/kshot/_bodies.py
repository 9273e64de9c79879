"""Request bodies, one encoding for each kind of content.

    pixels of one shape            application/x-safetensors   raw uint8: nothing to encode, nothing to decode
    image files                    multipart/form-data         the files as they are
    the same with unusual labels   application/json            base64, a third larger, but any label fits

A multipart field name cannot carry each label (quotes, brackets and line breaks have no agreed spelling there), and
servers limit the number of parts: such requests go as JSON.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._images import Picture, as_files, uniform
from ._support import Example

__all__ = ["MAX_PARTS", "AdaptOptions", "Body", "encode", "split"]

MAX_PARTS = 1000

_PART_BYTES = 160  # head and boundary of one part


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a request and their content type."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """What a caller may say about a new session; None leaves it to the server."""

    ttl_seconds: int | None = None
    durability: str | None = None

    def items(self) -> dict[str, int | str]:
        """Those that are set, by their name on the wire."""
        values = {"ttl_seconds": self.ttl_seconds, "durability": self.durability}
        return {name: value for name, value in values.items() if value is not None}


def encode(
    support: Sequence[Example] = (), queries: Sequence[Picture] = (), *, options: AdaptOptions | None = None
) -> Body:
    """One request body with a support set, queries, or both."""
    set_options = (options or AdaptOptions()).items()
    pictures = [example.picture for example in support]
    if all(uniform(group) for group in (pictures, queries) if group):
        return _tensors(support, queries, set_options)
    if len(support) + len(queries) <= MAX_PARTS and all(_fits_a_field_name(example.label) for example in support):
        return _multipart(support, queries, set_options)
    return _json(support, queries, set_options)


def split(queries: Sequence[Picture], *, most: int, max_bytes: int) -> Iterator[Sequence[Picture]]:
    """Queries in order, in batches of at most `most` and about `max_bytes`; an image above that travels alone."""
    if not uniform(queries):
        queries = as_files(queries)
        most = min(most, MAX_PARTS)
    start, size = 0, 0
    for index, query in enumerate(queries):
        cost = query.nbytes if isinstance(query, np.ndarray) else len(query) + _PART_BYTES
        if index > start and (index - start >= most or size + cost > max_bytes):
            yield queries[start:index]
            start, size = index, 0
        size += cost
    if start < len(queries):
        yield queries[start:]


def _fits_a_field_name(label: str) -> bool:
    return bool(label) and label.isprintable() and label == label.strip() and not set(label) & set('"\\[]%')


def _json(support: Sequence[Example], queries: Sequence[Picture], options: dict[str, int | str]) -> Body:
    files = as_files(example.picture for example in support)
    document: dict[str, Any] = dict(options)
    if support:
        document["support"] = [
            {"label": example.label, "image": _base64(file)} for example, file in zip(support, files, strict=True)
        ]
    if queries:
        document["queries"] = [{"image": _base64(file)} for file in as_files(queries)]
    return Body(json.dumps(document).encode(), "application/json")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _multipart(support: Sequence[Example], queries: Sequence[Picture], options: dict[str, int | str]) -> Body:
    # 128 random bits: no image contains the boundary, by accident or by design.
    boundary = f"kshot-{secrets.token_hex(16)}"
    files = [(f"support[{example.label}]", file) for example, file in zip(support, _files_of(support), strict=True)]
    files += [("queries", file) for file in as_files(queries)]
    chunks: list[bytes] = []
    for name, value in options.items():
        chunks += [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()]
    for index, (name, file) in enumerate(files):
        # A file name marks the part as a file; the local one is nobody's business.
        head = f'Content-Disposition: form-data; name="{name}"; filename="{index}"'
        chunks += [f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(), file, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode())
    return Body(b"".join(chunks), f"multipart/form-data; boundary={boundary}")


def _files_of(support: Sequence[Example]) -> list[bytes]:
    return as_files(example.picture for example in support)


def _tensors(support: Sequence[Example], queries: Sequence[Picture], options: dict[str, int | str]) -> Body:
    tensors: dict[str, NDArray[Any]] = {}
    metadata = {name: str(value) for name, value in options.items()}
    if support:
        labels = sorted({example.label for example in support})
        position = {label: index for index, label in enumerate(labels)}
        metadata["labels"] = json.dumps(labels)
        # int64 first: each tensor then starts at a multiple of its item size, as readers may demand.
        tensors["targets"] = np.array([position[example.label] for example in support], dtype="<i8")
        tensors["support"] = np.stack([np.asarray(example.picture) for example in support])
    if queries:
        tensors["queries"] = np.stack([np.asarray(query) for query in queries])
    return Body(_safetensors(tensors, metadata), "application/x-safetensors")


def _safetensors(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """The container: 8 bytes little-endian length of the header, the JSON header, then the tensors without gaps."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        dtype = {"uint8": "U8", "int64": "I64"}[tensor.dtype.name]
        end = offset + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensor.tobytes() for tensor in tensors.values())])
