"""The error of bad input: what it carries, and that it crosses a process border."""

from __future__ import annotations

import pickle

import pytest

from kshot_server.errors import InputError


def test_an_error_survives_another_process() -> None:
    error = InputError("invalid_image", "Wrong.", "this", "that", "do it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is InputError
    assert vars(back) == vars(error)
    assert str(back) == "invalid_image: Wrong."


def test_only_the_code_and_the_detail_are_needed() -> None:
    with pytest.raises(InputError) as caught:
        raise InputError("invalid_label", "Wrong.")
    assert (caught.value.expected, caught.value.received, caught.value.action) == (None, None, None)
