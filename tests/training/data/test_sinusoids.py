"""Sine tasks against their definition: points of one wave, whose amplitude and phase are drawn uniformly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kshot_training.data import Sampler, SinusoidSampler, sinusoid_frequency
from kshot_training.data.errors import EpisodeImpossible, OptionInvalid


def fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Amplitude and phase of y = A sin(x - p): linear in (A cos p, -A sin p)."""
    (a, b), *_ = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], axis=1), y, rcond=None)
    return math.hypot(a, b), math.atan2(-b, a)


def test_points_lie_on_waves_of_the_stated_ranges() -> None:
    support, query = SinusoidSampler(shot=10, queries=7, dtype=torch.float64).sample(0, 300)
    assert support.inputs.shape == (300, 10, 1)
    assert support.targets.shape == support.weights.shape == (300, 10)
    assert query.inputs.shape == (300, 7, 1)
    assert support.inputs.abs().max() <= 5
    waves = []
    for task in range(300):
        amplitude, phase = fit(support.inputs[task, :, 0].numpy(), support.targets[task].numpy())
        waves.append((amplitude, phase))
        predicted = amplitude * np.sin(query.inputs[task, :, 0].numpy() - phase)
        np.testing.assert_allclose(predicted, query.targets[task].numpy(), atol=1e-9)
    amplitudes, phases = np.array(waves).T
    for values, low, high in ((amplitudes, 0.1, 5.0), (phases, 0.0, math.pi), (support.inputs.numpy(), -5.0, 5.0)):
        assert low <= values.min()
        assert values.max() <= high
        spread = (high - low) / math.sqrt(12)
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * spread / math.sqrt(values.size))
        assert values.std() == pytest.approx(spread, rel=0.1)


def test_a_step_is_a_function_of_seed_and_number() -> None:
    sampler: Sampler = SinusoidSampler(shot=5, queries=5, seed=3)
    again = SinusoidSampler(shot=5, queries=5, seed=3)
    assert torch.equal(sampler.sample(9, 4).support.targets, again.sample(9, 4).support.targets)
    halves = [again.sample(18, 2), again.sample(19, 2)]
    assert torch.equal(sampler.sample(9, 4).query.targets, torch.cat([half.query.targets for half in halves]))
    other = SinusoidSampler(shot=5, queries=5, seed=4)
    assert not torch.equal(sampler.sample(9, 4).support.targets, other.sample(9, 4).support.targets)
    assert sampler.way_at(0) == 1
    assert sampler.sample(0, 1).support.inputs.dtype == torch.float32


def test_impossible_sizes() -> None:
    with pytest.raises(EpisodeImpossible, match="shot 0"):
        SinusoidSampler(shot=0, queries=1)


def test_frequencies_are_drawn_from_their_range() -> None:
    support, _ = SinusoidSampler(shot=12, queries=1, frequency=(0.8, 1.2), dtype=torch.float64).sample(0, 200)
    grid = np.linspace(0.7, 1.3, 601)
    found = []
    for task in range(200):
        x, y = support.inputs[task, :, 0].numpy(), support.targets[task].numpy()
        # Of the right frequency, sine and cosine leave nothing of the points.
        waves = np.stack([np.sin(grid[:, None] * x), np.cos(grid[:, None] * x)], axis=2)  # (grid, points, 2)
        rest = y - (waves @ (np.linalg.pinv(waves) @ y[:, None]))[..., 0]
        found.append(grid[np.square(rest).sum(1).argmin()])
        assert np.square(rest).sum(1).min() < 1e-3 * np.square(y).sum()
    assert min(found) >= 0.799
    assert max(found) <= 1.201
    assert np.mean(found) == pytest.approx(1.0, abs=4 * 0.4 / math.sqrt(12 * 200))
    assert np.std(found) == pytest.approx(0.4 / math.sqrt(12), rel=0.15)


def test_options() -> None:
    assert sinusoid_frequency({}) == (1.0, 1.0)
    assert sinusoid_frequency({"frequency": [1, 1.5]}) == (1.0, 1.5)
    with pytest.raises(OptionInvalid, match="got amplitude"):
        sinusoid_frequency({"amplitude": [1.0, 2.0]})
    for wrong in (1.0, [1.0], [1.2, 0.8], [0.0, 1.0], [True, 2.0], ["1", 2.0], [1.0, math.inf]):
        with pytest.raises(OptionInvalid, match="0 < low <= high"):
            sinusoid_frequency({"frequency": wrong})
