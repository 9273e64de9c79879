"""What makes a session the same, and what makes it another."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kshot_server.sessions.codec import encode_record
from kshot_server.sessions.identity import Canonical, canonicalise, new_record, session_id, union
from kshot_server.sessions.record import is_session_id

from .conftest import DIGEST, KEY, NOW

MODEL = ("omniglot", "1", DIGEST)


@st.composite
def support_sets(draw: Any) -> tuple[list[str], np.ndarray]:
    """Labels and pixels: few labels and few grey levels, so that equal examples and equal labels are common."""
    n = draw(st.integers(1, 8))
    labels = draw(st.lists(st.sampled_from(["a", "b", "ab", "é", "日", "😀", " "]), min_size=n, max_size=n))
    shape = (n, draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])))
    return labels, draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))


def name(labels: list[str], pixels: np.ndarray, key: bytes = KEY, tenant: str = "t", digest: str = DIGEST) -> str:
    return session_id(key, tenant, digest, canonicalise(labels, pixels))


@given(support_sets(), st.randoms(use_true_random=False))
def test_any_order_is_the_same_session_in_the_same_bytes(support: tuple[list[str], np.ndarray], random: Any) -> None:
    labels, pixels = support
    order = list(range(len(labels)))
    random.shuffle(order)
    one = canonicalise(labels, pixels)
    other = canonicalise([labels[i] for i in order], pixels[order])
    records = [new_record(KEY, "t", MODEL, canonical, now=NOW, ttl_seconds=60) for canonical in (one, other)]
    assert records[0].info.id == records[1].info.id
    assert encode_record(records[0]) == encode_record(records[1])


@given(support_sets())
def test_the_canonical_form_holds_exactly_what_was_sent(support: tuple[list[str], np.ndarray]) -> None:
    labels, pixels = support
    canonical = canonicalise(labels, pixels)
    assert list(canonical.labels) == sorted(set(labels))
    assert canonical.targets.tolist() == sorted(canonical.targets.tolist())
    sent = sorted((label, one.tobytes()) for label, one in zip(labels, pixels, strict=True))
    kept = sorted(
        (canonical.labels[target], one.tobytes())
        for target, one in zip(canonical.targets, canonical.support, strict=True)
    )
    assert kept == sent


@given(support_sets(), st.data())
def test_one_changed_pixel_is_another_session(support: tuple[list[str], np.ndarray], data: Any) -> None:
    labels, pixels = support
    changed = pixels.copy()
    changed.flat[data.draw(st.integers(0, pixels.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    # As multisets of examples the two differ always: one example has another value and the rest are equal.
    assert name(labels, pixels) != name(labels, changed)


@given(support_sets(), st.data())
def test_one_changed_label_is_another_session(support: tuple[list[str], np.ndarray], data: Any) -> None:
    labels, pixels = support
    changed = list(labels)
    changed[data.draw(st.integers(0, len(labels) - 1))] += "!"
    assert name(labels, pixels) != name(changed, pixels)


@given(support_sets(), st.text(max_size=5), st.text(max_size=5))
def test_another_tenant_or_model_is_another_session(
    support: tuple[list[str], np.ndarray], one: str, other: str
) -> None:
    if one != other:
        assert name(*support, tenant=one) != name(*support, tenant=other)
        assert name(*support, digest=one) != name(*support, digest=other)
    if (one, other) != (other, one):
        assert name(*support, tenant=one, digest=other) != name(*support, tenant=other, digest=one)


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_no_two_lists_of_fields_run_into_one_another(a: str, b: str, c: str, d: str) -> None:
    pixels = np.zeros((1, 1, 1, 1), np.uint8)
    one = session_id(KEY, a, b, Canonical((c,), np.zeros(1, np.int64), pixels))
    other = session_id(KEY, a + b, "", Canonical((c,), np.zeros(1, np.int64), pixels))
    assert (one == other) == (b == "")
    moved = session_id(KEY, a, b, Canonical((c + d,), np.zeros(1, np.int64), pixels))
    assert (moved == one) == (d == "")


def test_the_shape_is_part_of_the_identity() -> None:
    pixels = np.zeros((2, 2, 3, 1), np.uint8)
    assert (
        len({name(["a", "a"], pixels.reshape(2, *shape)) for shape in [(2, 3, 1), (3, 2, 1), (1, 6, 1), (2, 1, 3)]})
        == 4
    )


def test_how_examples_are_shared_out_is_part_of_the_identity() -> None:
    pixels = np.zeros((4, 1, 1, 1), np.uint8)
    assert len({name(list(labels), pixels) for labels in ("aabb", "abbb", "aaab", "aaaa", "abcc")}) == 5


def test_an_example_sent_twice_counts_twice() -> None:
    pixels = np.zeros((3, 1, 1, 1), np.uint8)
    assert name(["a", "b"], pixels[:2]) != name(["a", "a", "b"], pixels)


def test_without_the_key_an_id_cannot_be_computed() -> None:
    labels, pixels = ["a", "b"], np.zeros((2, 1, 1, 1), np.uint8)
    assert len({name(labels, pixels, key=key) for key in (KEY, bytes(32), b"\1" * 32, b"")}) == 4


def test_an_id_is_the_same_for_ever() -> None:
    # Sessions outlive processes and versions of kshot: this id must not change without a new number in _PURPOSE.
    pixels = np.arange(2 * 2 * 2 * 1, dtype=np.uint8).reshape(2, 2, 2, 1)
    assert name(["b", "a"], pixels) == "s_fbad2f54182c1318b59cf4a9af62b62e"


def test_the_documented_hash() -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 1, 2, 1)

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    fields = [b"t", DIGEST.encode(), numbers(2, 1, 2, 1), numbers(2), b"x", b"y", numbers(0, 1), bytes([2, 3, 0, 1])]
    text = b"".join(numbers(len(field)) + field for field in fields)
    expected = hashlib.blake2b(text, digest_size=16, key=KEY, person=b"kshot session 1").hexdigest()
    assert name(["y", "x"], pixels) == "s_" + expected


@given(support_sets(), st.data())
def test_a_union_is_what_sending_all_at_once_would_have_been(support: tuple[list[str], np.ndarray], data: Any) -> None:
    labels, pixels = support
    cut = data.draw(st.integers(1, len(labels)))
    first = new_record(KEY, "t", MODEL, canonicalise(labels[:cut], pixels[:cut]), now=NOW, ttl_seconds=60)
    joined = union(first, labels[cut:], pixels[cut:])
    assert session_id(KEY, "t", DIGEST, joined) == name(labels, pixels)


def test_a_union_needs_examples_of_one_size() -> None:
    first = new_record(KEY, "t", MODEL, canonicalise(["a"], np.zeros((1, 2, 2, 1), np.uint8)), now=NOW, ttl_seconds=60)
    with pytest.raises(ValueError, match="expected examples of shape"):
        union(first, ["a"], np.zeros((1, 2, 3, 1), np.uint8))


@pytest.mark.parametrize(
    ("labels", "pixels"),
    [
        (["a"], np.zeros((1, 2, 2), np.uint8)),
        (["a"], np.zeros((1, 2, 2, 1), np.float32)),
        (["a", "b"], np.zeros((1, 2, 2, 1), np.uint8)),
        ([], np.zeros((1, 2, 2, 1), np.uint8)),
    ],
)
def test_what_is_no_support_set_is_refused(labels: list[str], pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        canonicalise(labels, pixels)


def test_the_callers_pixels_stay_the_callers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1), dtype=np.uint8)
    before = pixels.copy()
    canonical = canonicalise(list("edcba"), pixels)
    np.testing.assert_array_equal(pixels, before)
    assert pixels.flags.writeable
    assert not canonical.support.flags.writeable
    assert not canonical.targets.flags.writeable
    assert not np.shares_memory(pixels, canonical.support)


def test_ids_have_their_form() -> None:
    assert is_session_id(name(["a"], np.zeros((1, 1, 1, 1), np.uint8)))
    for text in ("", "s_", "s_" + "0" * 31, "s_" + "0" * 33, "S_" + "0" * 32, "s_" + "A" * 32, "s_" + "0" * 32 + "\n"):
        assert not is_session_id(text)
