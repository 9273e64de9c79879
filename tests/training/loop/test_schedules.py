"""Schedules are pure functions of the step."""

from __future__ import annotations

import math

import pytest

from kshot_training.schedules import constant, cosine, linear, step_decay, with_warmup


def test_values() -> None:
    assert constant()(123) == 1
    assert [cosine(steps=4)(t) for t in (0, 2, 4, 9)] == pytest.approx([1, 0.5, 0, 0])
    assert cosine(steps=4, final=0.2)(1) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert [linear(steps=4)(t) for t in (0, 1, 4, 5)] == pytest.approx([1, 0.75, 0, 0])
    assert linear(steps=10, final=0.5)(10) == pytest.approx(0.5)
    assert [step_decay(every=2, factor=0.1)(t) for t in (0, 1, 2, 4)] == pytest.approx([1, 1, 0.1, 0.01])


def test_warmup_rises_over_the_first_steps() -> None:
    assert [with_warmup(constant(), steps=4)(t) for t in (0, 1, 3, 4)] == pytest.approx([0.25, 0.5, 1, 1])
    schedule = constant()
    assert with_warmup(schedule, steps=0) is schedule
