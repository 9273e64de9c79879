"""A session record as bytes, for stores that keep bytes.

    8   magic "kshotrec"
    4   version, little-endian
    4   length of the header in bytes, little-endian
    32  SHA-256 of the header
    .   header: JSON with the fields of SessionInfo, the shape of the support set and the SHA-256 of the pixels
    .   pixels: uint8, in C order

The two digests form a chain, so the header can be trusted (and a list of sessions made) from the first few kilobytes
alone. A digest guards against damage, not against malice, so every field is checked again after it. Never pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from typing import Any

import numpy as np

from kshot_server.sessions.errors import InvalidRecord
from kshot_server.sessions.record import SessionInfo, SessionRecord
from kshot_server.strict_json import parse_json

__all__ = [
    "MAX_HEADER_BYTES",
    "PREFIX_BYTES",
    "check_owner",
    "decode_info",
    "decode_record",
    "encode_record",
    "header_end",
]

VERSION = 1
MAX_HEADER_BYTES = 4 * 1024 * 1024  # 1,000 labels of 256 four-byte characters are 1 MB
MAX_PIXEL_BYTES = 1 << 31

_MAGIC = b"kshotrec"
_PREFIX = struct.Struct("<8sII32s")
PREFIX_BYTES = _PREFIX.size

_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "tenant": str,
    "model": str,
    "version": str,
    "model_digest": str,
    "labels": list,
    "counts": list,
    "created_at": (int, float),
    "ttl_seconds": int,
    "durability": str,
    "shape": list,
    "pixels_sha256": str,
}


def encode_record(record: SessionRecord) -> bytes:
    """The record as bytes. `expires_at` is left out: it is the store's to know."""
    pixels = record.support.tobytes()
    fields = dataclasses.asdict(record.info)
    del fields["expires_at"]
    fields |= {"shape": record.support.shape, "pixels_sha256": hashlib.sha256(pixels).hexdigest()}
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, VERSION, len(header), hashlib.sha256(header).digest()) + header + pixels


def decode_record(data: bytes) -> SessionRecord:
    """Read a record back. It expires `ttl_seconds` after its creation until the store says otherwise.

    Raises:
        InvalidRecord: the bytes are not exactly one record, whatever they are.
    """
    info, fields, end = _decode_header(data)
    shape = tuple(fields["shape"])
    if len(shape) != 4 or not all(type(size) is int and size > 0 for size in shape):
        raise InvalidRecord("the shape is not four sizes above 0")
    pixels = memoryview(data)[end:]
    if math.prod(shape) != len(pixels) or len(pixels) > MAX_PIXEL_BYTES:
        raise InvalidRecord(f"{len(pixels)} bytes of pixels do not fit the shape")
    if hashlib.sha256(pixels).hexdigest() != fields["pixels_sha256"]:
        raise InvalidRecord("the pixels do not have the SHA-256 that the header gives")
    try:
        return SessionRecord(info, np.frombuffer(pixels, dtype=np.uint8).reshape(shape))
    except ValueError as error:
        raise InvalidRecord(str(error)) from None


def decode_info(start: bytes) -> SessionInfo:
    """Read the description of a record from its first bytes, at least `header_end(start)` of them.

    Raises:
        InvalidRecord: they are not the start of a record.
    """
    return _decode_header(start)[0]


def header_end(start: bytes) -> int:
    """How many bytes of a record, from its beginning, hold all but the pixels.

    Raises:
        InvalidRecord: these are not the first bytes of a record, at least `PREFIX_BYTES` of them.
    """
    if len(start) < PREFIX_BYTES:
        raise InvalidRecord(f"{len(start)} bytes are too few for a record")
    magic, version, length, _ = _PREFIX.unpack_from(start)
    if magic != _MAGIC:
        raise InvalidRecord("it does not begin as a record does")
    if version != VERSION:
        raise InvalidRecord(f"it is of version {version}; this kshot reads {VERSION}")
    if length > MAX_HEADER_BYTES:
        raise InvalidRecord(f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
    return PREFIX_BYTES + int(length)


def check_owner(info: SessionInfo, tenant: str, session: str) -> None:
    """Make sure that what was found under a key is what the key promises.

    Raises:
        InvalidRecord: it is the record of another session or tenant.
    """
    if (info.tenant, info.id) != (tenant, session):
        raise InvalidRecord("it is the record of another session")


def _decode_header(data: bytes) -> tuple[SessionInfo, dict[str, Any], int]:
    end = header_end(data)
    if len(data) < end:
        raise InvalidRecord("it ends within its header")
    header = data[PREFIX_BYTES:end]
    if hashlib.sha256(header).digest() != _PREFIX.unpack_from(data)[3]:
        raise InvalidRecord("the header does not have its SHA-256")
    try:
        fields = _check_types(parse_json(header))
        return _info(fields), fields, end
    except (ValueError, OverflowError) as error:
        raise InvalidRecord(f"header: {error}") from None


def _check_types(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict) or fields.keys() != _TYPES.keys():
        raise InvalidRecord(f"header: expected an object with exactly {sorted(_TYPES)}")
    for name, kind in _TYPES.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise InvalidRecord(f"header: {name} is of the wrong type")
    # A bool is an int to isinstance, and True would pass for a count of 1.
    if not all(type(count) is int for count in fields["counts"]):
        raise InvalidRecord("header: a count is no integer")
    return fields


def _info(fields: dict[str, Any]) -> SessionInfo:
    values = {name: fields[name] for name in _TYPES if name not in {"shape", "pixels_sha256"}}
    values |= {"labels": tuple(fields["labels"]), "counts": tuple(fields["counts"])}
    return SessionInfo(**values, expires_at=fields["created_at"] + fields["ttl_seconds"])
