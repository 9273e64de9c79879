"""Draws are a function of their number, uniform, and the same in every release of numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kshot_training.data.draws import choose_distinct, uniforms, whole


def chi_square(counts: np.ndarray) -> float:
    """Deviations of the statistic from its mean, in standard deviations, under equal frequencies."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2).sum() / expected)
    freedom = counts.size - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("width", [1, 4, 7])
def test_a_row_depends_on_its_number_alone(width: int) -> None:
    whole_run = uniforms(3, 1, first=0, count=20, width=width)
    assert whole_run.shape == (20, width)
    np.testing.assert_array_equal(uniforms(3, 1, first=11, count=4, width=width), whole_run[11:15])


def test_seeds_streams_and_rows_have_nothing_in_common() -> None:
    runs = [uniforms(seed, stream, first=0, count=50, width=8) for seed in (0, 1) for stream in (0, 1)]
    assert len(np.unique(np.concatenate(runs))) == 4 * 50 * 8


def test_far_away_numbers_work() -> None:
    assert uniforms(0, 1, first=2**60, count=1, width=4).shape == (1, 4)


def test_draws_are_uniform() -> None:
    draws = uniforms(0, 1, first=0, count=10_000, width=10).ravel()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(chi_square(np.bincount((draws * 100).astype(int), minlength=100))) < 4


def test_known_draws() -> None:
    # If these change, every recorded accuracy belongs to other episodes.
    expected = [[0.8824668302545412, 0.3690383346754841], [0.718174498323604, 0.7172490982624806]]
    np.testing.assert_array_equal(uniforms(7, 1, first=0, count=2, width=2), expected)


def test_whole_covers_both_ends_evenly() -> None:
    values = whole(uniforms(1, 1, first=0, count=6000, width=1)[:, 0], 2, 7)
    assert abs(chi_square(np.bincount(values)[2:])) < 4
    assert (whole(np.array([0.0, 1 - 2**-53]), 2, 7) == [2, 7]).all()


def test_every_ordered_choice_is_equally_likely() -> None:
    draws = uniforms(2, 1, first=0, count=24_000, width=6)
    chosen = choose_distinct(draws[:, :3], draws[:, 3:], np.full(24_000, 4))
    orders = list(itertools.permutations(range(4), 3))
    counts = np.array([(chosen == order).all(axis=1).sum() for order in orders])
    assert counts.sum() == 24_000  # nothing else came out: never the same one twice
    assert abs(chi_square(counts)) < 4


def test_each_row_has_its_own_population() -> None:
    population = np.array([[5], [6], [200]])
    draws = uniforms(2, 1, first=0, count=3, width=10).reshape(3, 1, 10)
    chosen = choose_distinct(draws[..., :5], draws[..., 5:], population)
    assert chosen.shape == (3, 1, 5)
    assert sorted(chosen[0, 0]) == [0, 1, 2, 3, 4]
    assert (chosen < population[..., None]).all()
    assert all(len(set(row)) == 5 for row in chosen.reshape(-1, 5))
