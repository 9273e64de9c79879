"""The rule for labels: any script, no control characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot_server.errors import InputError
from kshot_server.sessions.labels import check_label


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256))
def test_any_words_of_any_script_come_back_as_they_were(label: str) -> None:
    assert check_label(label) == label


@given(st.text(max_size=20), st.characters(categories=["Cc", "Cs"]), st.text(max_size=20))
def test_control_characters_and_surrogates_are_refused(before: str, character: str, after: str) -> None:
    with pytest.raises(InputError, match="invalid_label") as caught:
        check_label(before + character + after)
    assert caught.value.received is not None
    assert all(unicodedata.category(c) not in {"Cc", "Cs"} for c in caught.value.received)


@pytest.mark.parametrize("label", ["", "x" * 257, None, 1, b"cat", ["cat"], True])
def test_what_is_no_label_is_refused(label: object) -> None:
    with pytest.raises(InputError) as caught:
        check_label(label)
    assert caught.value.code == "invalid_label"


def test_the_label_is_not_echoed() -> None:
    with pytest.raises(InputError) as caught:
        check_label("secret\x00" * 100)
    assert "secret" not in repr(caught.value)
