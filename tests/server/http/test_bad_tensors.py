"""Safetensors that a stranger may send, through HTTP: the right 4xx, soon, without an echo."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from .refused import refused

TEACH = "/v1/models/tiny/sessions"


TENSORS = {"Content-Type": "application/x-safetensors"}


def tensors(**changes: Any) -> bytes:
    parts: dict[str, Any] = {
        "support": np.zeros((4, 12, 12), np.uint8),
        "targets": np.array([0, 1, 0, 1]),
        "labels": ["a", "b"],
    }
    parts |= changes
    labels = parts.pop("labels")
    metadata = {} if labels is None else {"labels": labels if isinstance(labels, str) else json.dumps(labels)}
    return save({name: tensor for name, tensor in parts.items() if tensor is not None}, metadata=metadata)


def lying_header() -> bytes:
    header = b'{"support": {"dtype": "U8", "shape": [1099511627776, 1, 1], "data_offsets": [0, 1099511627776]}}'
    return struct.pack("<Q", len(header)) + header


TENSOR_BODIES = {
    "empty": (b"", "invalid_tensor"),
    "no header": (bytes(8), "invalid_tensor"),
    "header of 2^63": (struct.pack("<Q", 1 << 63) + b"{}", "invalid_tensor"),
    "shape that is a lie": (lying_header(), "invalid_tensor"),
    "cut": (tensors()[:-1], "invalid_tensor"),
    "too long": (tensors() + b"x", "invalid_tensor"),
    "NaN": (tensors(support=np.full((4, 12, 12), np.nan, np.float32)), "invalid_tensor"),
    "int8": (tensors(support=np.zeros((4, 12, 12), np.int8)), "invalid_tensor"),
    "2 axes": (tensors(support=np.zeros((4, 12), np.uint8)), "invalid_tensor"),
    "5 channels": (tensors(support=np.zeros((4, 12, 12, 5), np.uint8)), "invalid_tensor"),
    "no pixels": (tensors(support=np.zeros((4, 0, 12), np.uint8)), "invalid_tensor"),
    "no support": (tensors(support=None), "invalid_tensor"),
    "queries": (tensors(queries=np.zeros((1, 12, 12), np.uint8)), "invalid_tensor"),
    "another name": (tensors(weights=np.zeros(3, np.float32)), "invalid_tensor"),
    "targets of another length": (tensors(targets=np.array([0, 1])), "invalid_targets"),
    "targets below zero": (tensors(targets=np.array([0, 1, 0, -1])), "invalid_targets"),
    "targets above": (tensors(targets=np.array([0, 1, 0, 2**62])), "invalid_targets"),
    "class without examples": (tensors(labels=["a", "b", "c"]), "class_without_examples"),
    "10^4 labels": (tensors(labels=[str(i) for i in range(10_000)]), "class_without_examples"),
    "10^5 labels": (tensors(labels=[str(i) for i in range(100_000)]), "invalid_tensor"),
    "no labels": (tensors(labels=None), "invalid_label"),
    "labels no JSON": (tensors(labels="a,b"), "invalid_label"),
    "a label twice": (tensors(labels=["a", "a"]), "invalid_label"),
    "empty label": (tensors(labels=["", "b"]), "invalid_label"),
    "nothing to learn from": (
        tensors(support=np.zeros((0, 12, 12), np.uint8), targets=np.zeros(0, np.int64), labels=[]),
        "empty_support",
    ),
    "images too large": (tensors(support=np.zeros((4, 4_000_001, 1), np.uint8)), "image_too_large"),
}


@pytest.mark.parametrize("name", TENSOR_BODIES)
def test_tensors(client: httpx.Client, name: str) -> None:
    content, code = TENSOR_BODIES[name]
    refused(client.post(TEACH, content=content, headers=TENSORS), 422, code)


def test_options_in_tensors(client: httpx.Client) -> None:
    parts = {"queries": np.zeros((1, 12, 12), np.uint8)}
    content = save(parts, metadata={"ttl_seconds": "5"})
    session = client.post(TEACH, content=tensors(), headers=TENSORS).json()["id"]
    refused(client.post(f"/v1/sessions/{session}/classify", content=content, headers=TENSORS), 422, "invalid_tensor")
    both = save(
        {"support": np.zeros((2, 12, 12), np.uint8), "targets": np.array([0, 1])},
        metadata={"labels": '["a", "b"]', "ttl_seconds": "soon"},
    )
    refused(client.post(TEACH, content=both, headers=TENSORS), 422, "invalid_body")
