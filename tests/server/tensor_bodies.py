"""Tensor bodies, well formed and not, for the tests of their reader."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from kshot_server.bodies.tensors import TensorBody, parse_tensors
from kshot_server.errors import InputError

__all__ = ["BODY", "LABELS", "QUERIES", "SUPPORT", "TARGETS", "code", "entry", "parse", "raw", "saved"]


LABELS = ["dog", "cat"]


SUPPORT = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


TARGETS = np.array([1, 0, 1], dtype=np.int64)


QUERIES = np.arange(2 * 6 * 7 * 3, dtype=np.uint8).reshape(2, 6, 7, 3)


def saved(labels: Any = LABELS, metadata: dict[str, str] | None = None, **tensors: np.ndarray) -> bytes:
    """A body as a client's safetensors library writes it."""
    extra = {} if labels is None else {"labels": json.dumps(labels)}
    return safetensors.numpy.save(tensors, metadata=extra | (metadata or {}))


BODY = saved(support=SUPPORT, targets=TARGETS, queries=QUERIES)


def raw(header: Any, data: bytes = b"") -> bytes:
    """A body of any header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[Any], begin: Any, end: Any, **extra: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **extra}


def parse(body: bytes, max_pixels: int = 10_000) -> TensorBody:
    return parse_tensors(body, max_pixels=max_pixels)


def code(body: bytes, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        parse(body, **options)
    return caught.value.code
