"""Schedules are pure functions of the step."""

from __future__ import annotations

import math

import pytest

from kshot_training.schedules import constant, cosine, linear, multi_step_weights, step_decay, with_warmup


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


def test_multi_step_weights_are_the_published_ones() -> None:
    # By the formula with n = 5, E = 10 epochs of 500 steps: equal at first, then 1/5 - e/50, but never below 0.03/5.
    weights = multi_step_weights(inner_steps=5, until=5000, epoch=500)
    assert weights(0) == weights(499) == pytest.approx((0.2,) * 5)
    assert weights(500) == pytest.approx((0.18, 0.18, 0.18, 0.18, 0.28))
    assert weights(4999) == pytest.approx((0.02, 0.02, 0.02, 0.02, 0.92))
    assert weights(5000) is None
    fine = multi_step_weights(inner_steps=5, until=1000)
    assert fine(999) == pytest.approx((0.006, 0.006, 0.006, 0.006, 0.976))
    for step in range(0, 1000, 7):
        assert sum(fine(step) or ()) == pytest.approx(1)


def test_one_inner_step_has_all_the_weight() -> None:
    assert multi_step_weights(inner_steps=1, until=10)(3) == pytest.approx((1.0,))


def test_no_multi_step_loss_is_none_from_the_start() -> None:
    assert multi_step_weights(inner_steps=5, until=0)(0) is None
