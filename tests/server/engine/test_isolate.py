from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot_server.engine.isolate import one_result_each
from kshot_server.engine.requests import Failed


@settings(derandomize=True, deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_only_the_culprits_fail_and_results_keep_their_order(bad: list[bool]) -> None:
    def compute(items: Sequence[int]) -> list[int]:
        if any(bad[i] for i in items):
            raise ValueError("one of them")
        return [10 * i for i in items]

    logging.disable()
    try:
        results = one_result_each(range(len(bad)), compute, what="a test")
    finally:
        logging.disable(logging.NOTSET)
    for i, result in enumerate(results):
        if bad[i]:
            assert isinstance(result, Failed)
            assert result.code == "internal_error"
        else:
            assert result == 10 * i


def test_a_batch_too_large_for_the_memory_gets_smaller() -> None:
    sizes = []

    def compute(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 4:
            raise MemoryError
        return [*items]

    assert one_result_each(range(16), compute, what="a test") == [*range(16)]
    assert sizes == [16, 8, 4, 4, 8, 4, 4]


def test_one_bad_item_of_32_is_cornered_in_a_few_steps(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def compute(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if 13 in items:
            raise ValueError("thirteen")
        return [*items]

    results = one_result_each(range(32), compute, what="a test")
    (failed,) = [result for result in results if isinstance(result, Failed)]
    assert results.index(failed) == 13
    assert len(calls) == 11
    (record,) = caplog.records
    assert failed.incident is not None
    assert failed.incident in record.getMessage()
    assert "thirteen" not in failed.detail


def test_a_wrong_number_of_results_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    (result,) = one_result_each([1], lambda items: [], what="a test")
    assert isinstance(result, Failed)
