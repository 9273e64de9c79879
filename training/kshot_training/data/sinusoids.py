"""Sine waves to regress from a few points.

    task    amplitude A ~ U[0.1, 5], frequency w ~ U[range], phase p ~ U[0, pi]
    point   x ~ U[-5, 5], target A sin(w x - p)

References: Finn et al., "Model-agnostic meta-learning for fast adaptation of deep networks", 2017, arXiv:1703.03400,
section 5.1, where all waves have the frequency 1; the sign of the phase is that of the authors' code. Li et al.,
"Meta-SGD", 2017, arXiv:1707.09835, draw the frequency from [0.8, 1.2].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kshot_models.types import Episode, Examples
from kshot_training.data.draws import uniforms
from kshot_training.data.errors import EpisodeImpossible, OptionInvalid

__all__ = ["SinusoidSampler", "sinusoid_frequency"]

_EPISODES = 1  # the stream of draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinusoidSampler:
    """Draws waves and points on them; a `Sampler` without state.

    Args:
        shot: support points.
        queries: query points.
        seed: from 0; other seeds give unrelated tasks.
        frequency: lowest and highest angular frequency, radians per unit of x.
        dtype: of inputs, targets and weights.
        device: where they go.

    Raises:
        EpisodeImpossible: shot or queries below 1, or a negative seed.
    """

    shot: int
    queries: int
    seed: int = 0
    frequency: tuple[float, float] = (1.0, 1.0)
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if self.shot < 1 or self.queries < 1 or self.seed < 0:
            raise EpisodeImpossible(
                "expected shot and queries of at least 1 and a seed from 0, "
                f"got shot {self.shot}, queries {self.queries}, seed {self.seed}"
            )

    @property
    def steady(self) -> bool:
        """See Sampler."""
        return True

    def sample(self, step: int, tasks: int) -> Episode:
        """The episodes step * tasks .. (step + 1) * tasks - 1.

        Returns:
            inputs (tasks, n, 1), targets (tasks, n) float, weights (tasks, n) of ones.
        """
        draws = uniforms(self.seed, _EPISODES, first=step * tasks, count=tasks, width=3 + self.shot + self.queries)
        low, high = self.frequency
        amplitude, phase = 0.1 + 4.9 * draws[:, :1], math.pi * draws[:, 1:2]
        frequency = low + (high - low) * draws[:, 2:3]
        points = -5.0 + 10.0 * draws[:, 3:]
        targets = amplitude * np.sin(frequency * points - phase)
        return Episode(
            self._examples(points[:, : self.shot], targets[:, : self.shot]),
            self._examples(points[:, self.shot :], targets[:, self.shot :]),
        )

    def way_at(self, step: int) -> int:  # noqa: ARG002 - the same at every step
        """One: a regression has one output."""
        return 1

    def _examples(self, points: NDArray[np.float64], targets: NDArray[np.float64]) -> Examples:
        inputs, values = (torch.from_numpy(part).to(self.device, self.dtype) for part in (points, targets))
        return Examples(inputs[..., None], values, torch.ones_like(values))


def sinusoid_frequency(options: Mapping[str, object]) -> tuple[float, float]:
    """The range of frequencies that a recipe's `data.options` ask for; without any, 1 for all waves.

    Raises:
        OptionInvalid: another option than `frequency`, or no pair of numbers 0 < low <= high.
    """
    unknown = sorted(set(options) - {"frequency"})
    if unknown:
        raise OptionInvalid(f"expected an option of sinusoids (frequency), got {', '.join(unknown)}")
    given = options.get("frequency", (1.0, 1.0))
    pair = tuple(given) if isinstance(given, list | tuple) else ()
    numbers = [float(value) for value in pair if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise OptionInvalid(f"expected frequency = [low, high] with 0 < low <= high, got {given!r}")
    return numbers[0], numbers[1]
