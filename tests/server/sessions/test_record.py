"""Records: what they may hold, and their bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot_server.sessions.codec import (
    MAX_HEADER_BYTES,
    PREFIX_BYTES,
    check_owner,
    decode_info,
    decode_record,
    encode_record,
    header_end,
)
from kshot_server.sessions.errors import InvalidRecord
from kshot_server.sessions.record import SessionRecord, merge

from .conftest import NOW, make_record

RECORD = make_record()
DATA = encode_record(RECORD)


def forge(change: Any = None, *, header: bytes | None = None, pixels: bytes | None = None) -> bytes:
    """A record with right digests and a changed header: damage that no digest shows."""
    end = header_end(DATA)
    pixels = DATA[end:] if pixels is None else pixels
    if header is None:
        fields = json.loads(DATA[PREFIX_BYTES:end])
        fields["pixels_sha256"] = hashlib.sha256(pixels).hexdigest()
        fields = change(fields) or fields if change else fields
        header = json.dumps(fields).encode()
    return struct.pack("<8sII32s", b"kshotrec", 1, len(header), hashlib.sha256(header).digest()) + header + pixels


def setting(**values: Any) -> Any:
    return lambda fields: fields.update(values)


def test_bytes_and_back() -> None:
    back = decode_record(DATA)
    assert back.info == dataclasses.replace(RECORD.info, expires_at=NOW + 3600)
    np.testing.assert_array_equal(back.support, RECORD.support)
    assert encode_record(back) == DATA
    assert decode_record(forge()).info == back.info


def test_the_description_can_be_read_without_the_pixels() -> None:
    end = header_end(DATA[:PREFIX_BYTES])
    assert decode_info(DATA[:end]) == decode_record(DATA).info
    assert end < len(DATA) - RECORD.support.nbytes + 1


def test_the_expiry_is_not_in_the_bytes() -> None:
    assert encode_record(RECORD.expiring(NOW + 99)) == DATA


def test_the_bytes_are_no_pickle() -> None:
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(DATA)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[position] ^= flip
    with pytest.raises(InvalidRecord):
        decode_record(bytes(damaged))


@given(st.integers(0, len(DATA) - 1))
def test_any_cut_is_found(length: int) -> None:
    with pytest.raises(InvalidRecord):
        decode_record(DATA[:length])
    if length < header_end(DATA):
        with pytest.raises(InvalidRecord):
            decode_info(DATA[:length])


@given(st.binary(max_size=300))
def test_garbage_is_an_invalid_record_and_nothing_else(data: bytes) -> None:
    for garbage in (data, DATA + data + b"\0", DATA[:PREFIX_BYTES] + data, b"kshotrec" + data, forge(header=data)):
        with pytest.raises(InvalidRecord):
            decode_record(garbage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(DATA[PREFIX_BYTES : header_end(DATA)]))), JSON)
def test_a_forged_field_is_right_or_an_invalid_record(field: str, value: Any) -> None:
    try:
        record = decode_record(forge(setting(**{field: value})))
    except InvalidRecord:
        return
    assert decode_record(encode_record(record)).info == record.info


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting(extra=1), "exactly"),
        (lambda fields: fields.pop("id") and None, "exactly"),
        (lambda fields: [1], "exactly"),
        (lambda fields: 7, "exactly"),
        (setting(id="s_" + "0" * 31), "id must be"),
        (setting(id="../../etc"), "id must be"),
        (setting(model_digest="x"), "model_digest"),
        (setting(tenant=""), "tenant"),
        (setting(labels=["dog", "cat"]), "sorted"),
        (setting(labels=["cat", "cat"]), "sorted"),
        (setting(labels=["cat", "d\x00g"]), "label"),
        (setting(labels=["cat", 1]), "label"),
        (setting(labels=["cat", []]), "label"),
        (setting(labels=[], counts=[]), "sorted"),
        (setting(labels="cat"), "labels is of the wrong type"),
        (setting(counts=[2, 2]), "expected 4 examples"),
        (setting(counts=[3, 0]), "count"),
        (setting(counts=[4, -1]), "count"),
        (setting(counts=[2, True]), "count"),
        (setting(counts=[2.0, 1.0]), "count"),
        (setting(counts=[3]), "count"),
        (setting(counts=[10**30, 1]), "expected"),
        (setting(created_at=-1), "unix seconds"),
        (setting(created_at=10**400), "header"),
        (setting(created_at="now"), "created_at is of the wrong type"),
        (setting(created_at=True), "created_at is of the wrong type"),
        (setting(ttl_seconds=0), "ttl_seconds"),
        (setting(ttl_seconds=10**300), "header"),
        (setting(ttl_seconds=1.5), "ttl_seconds is of the wrong type"),
        (setting(durability="eternal"), "durability"),
        (setting(shape=[3, 4, 5]), "four sizes"),
        (setting(shape=[3, 4, 5, 3, 1]), "four sizes"),
        (setting(shape=[3, 4, 5, -3]), "four sizes"),
        (setting(shape=[3, 4, 5, 0]), "four sizes"),
        (setting(shape=[3, 4, 5, 4]), "do not fit"),
        (setting(shape=[1 << 40, 1 << 40, 1 << 40, 1 << 40]), "do not fit"),
        (setting(shape=[180, 1, 1, 1]), "expected 3 examples"),
        (setting(pixels_sha256="0" * 64), "SHA-256"),
    ],
)
def test_each_way_of_being_wrong_behind_right_digests(change: Any, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        decode_record(forge(change))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "header"),
        (b"{", "header"),
        (b"\xff", "UTF-8"),
        (b"[" * 200_000, "deep"),
        (b'{"id": NaN}', "NaN"),
        (b'{"id": 1, "id": 2}', "repeated"),
        (b'{"id": ' + b"9" * 5000 + b"}", "header"),
    ],
)
def test_headers_that_are_no_json(header: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        decode_record(forge(header=header))


def test_each_way_of_being_wrong_before_the_header() -> None:
    digest = bytes(32)
    for data, reason in [
        (b"", "too few"),
        (DATA[: PREFIX_BYTES - 1], "too few"),
        (struct.pack("<8sII32s", b"KSHOTREC", 1, 0, digest), "begin"),
        (struct.pack("<8sII32s", b"kshotrec", 2, 0, digest), "version 2"),
        (struct.pack("<8sII32s", b"kshotrec", 1, MAX_HEADER_BYTES + 1, digest), "claims"),
        (struct.pack("<8sII32s", b"kshotrec", 1, 5, digest), "ends within"),
    ]:
        with pytest.raises(InvalidRecord, match=reason):
            decode_record(data)


def test_a_record_of_another_owner_is_found() -> None:
    check_owner(RECORD.info, "acme", RECORD.info.id)
    for tenant, session in (("other", RECORD.info.id), ("acme", "s_" + "0" * 32)):
        with pytest.raises(InvalidRecord, match="another"):
            check_owner(RECORD.info, tenant, session)


@pytest.mark.parametrize(
    "support",
    [
        np.zeros((3, 4, 5, 3), np.int8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((2, 4, 5, 3), np.uint8),
        np.zeros((3, 0, 5, 3), np.uint8),
    ],
)
def test_a_support_set_of_another_shape_is_refused(support: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        SessionRecord(RECORD.info, support)


def test_targets_follow_from_the_counts() -> None:
    assert RECORD.info.labels == ("cat", "dog")
    assert RECORD.info.counts == (2, 1)
    assert RECORD.targets.tolist() == [0, 0, 1]
    assert RECORD.targets.dtype == np.int64
    assert RECORD.info.support_size == 3


def test_merging_lengthens_and_strengthens() -> None:
    weak, strong = make_record(ttl_seconds=10, durability="volatile"), make_record(ttl_seconds=5, created_at=NOW + 9)
    merged = merge(weak, strong)
    assert merged.info == dataclasses.replace(weak.info, ttl_seconds=10, durability="durable", expires_at=NOW + 14)
    assert merged.support is weak.support


@given(st.integers(0, 2**40))
def test_creation_in_milliseconds_is_stable_over_the_bytes(milliseconds: int) -> None:
    record = make_record(created_at=milliseconds / 1000)
    assert decode_record(encode_record(record)).info.created_ms == record.info.created_ms
