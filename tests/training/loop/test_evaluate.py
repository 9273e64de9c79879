"""Evaluation against learners whose answers are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kshot_models.losses import mean_squared_error
from kshot_models.types import Episode, Examples, MetaParams, TaskParams
from kshot_training.calibration import BINS, fit_temperature, negative_log_likelihood, reliability
from kshot_training.errors import EpisodeError
from kshot_training.evaluate import answer_episodes, evaluate, evaluate_alike
from kshot_training.outer_loop import MetaBatch

WAY, QUERIES, BATCH = 4, 8, 3
META = MetaParams({}, {}, {})


class Knower:
    """Answers right on the first `known` queries of an episode, wrong on the others; sure of itself by `scale`.

    `known` is written into the support set, so that episodes differ; after each of two steps two more are known.
    """

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    def init(self, generator: torch.Generator) -> MetaParams:
        return META

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        *_, last = self.trajectory(meta, support, way=way)
        return last

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        for step in range(3):
            yield {"known": support.inputs[0] - 4 + 2 * step}

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        targets = inputs[:, 0].long()
        right = torch.arange(len(inputs)) < task["known"]
        answers = torch.where(right, targets, (targets + 1) % WAY)
        return torch.nn.functional.one_hot(answers, WAY) * self.scale


def sample(number: int) -> MetaBatch:
    known = torch.tensor([[4.0 + (number * BATCH + i) % 5] for i in range(BATCH)])
    targets = torch.arange(QUERIES).remainder(WAY).expand(BATCH, -1)
    ones = torch.ones(BATCH, QUERIES)
    support = Examples(known, torch.zeros(BATCH, 1, dtype=torch.int64), torch.ones(BATCH, 1))
    return MetaBatch(Episode(support, Examples(targets[..., None].float(), targets, ones)), WAY)


@pytest.mark.parametrize("workers", [1, 3])
def test_mean_interval_and_steps(workers: int) -> None:
    result = evaluate(Knower(), META, sample, episodes=10, per_step=True, workers=workers)
    shares = [(4 + i % 5) / QUERIES for i in range(10)]
    mean = sum(shares) / 10
    deviation = math.sqrt(sum((share - mean) ** 2 for share in shares) / 9)
    assert result.episodes == 10  # of the twelve that four batches hold
    assert result.accuracy == pytest.approx(mean)
    assert result.ci95 == pytest.approx(1.96 * deviation / math.sqrt(10))
    assert result.per_step == pytest.approx((mean - 0.5, mean - 0.25, mean))
    assert result.score == result.accuracy


def test_learners_that_adapt_alike_are_adapted_once_and_measured_as_if_alone() -> None:
    counted = []

    class Counting(Knower):
        def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
            counted.append(self.scale)
            return super().adapt(meta, support, way=way)

    learners = [Counting(2.0), Counting(5.0)]
    together = evaluate_alike(learners, META, sample, episodes=9)
    assert counted == [2.0] * 9
    for found, learner in zip(together, learners, strict=True):
        alone = evaluate(learner, META, sample, episodes=9)
        assert (found.episodes, found.accuracy, found.ci95) == (alone.episodes, alone.accuracy, alone.ci95)
        assert (found.loss, found.loss_ci95, found.ece) == (alone.loss, alone.loss_ci95, alone.ece)
    assert together[0].loss != together[1].loss


def test_likelihood_and_calibration_error() -> None:
    scale, mean = 2.0, 0.75
    result = evaluate(Knower(scale), META, sample, episodes=10)
    confidence = math.exp(scale) / (math.exp(scale) + WAY - 1)
    wrong = 1 / (math.exp(scale) + WAY - 1)
    assert result.loss == pytest.approx(-(mean * math.log(confidence) + (1 - mean) * math.log(wrong)), rel=1e-5)
    assert result.ece == pytest.approx(abs(mean - confidence), abs=1e-6)
    assert result.per_step == ()


def test_the_fitted_temperature_is_the_closed_form() -> None:
    # All answers are one-hot times `scale`: the likelihood is best where the confidence is the share of right answers.
    answers = answer_episodes(Knower(5.0), META, sample, episodes=10)
    logits, targets = [a.logits for a in answers], [a.targets for a in answers]
    temperature = fit_temperature(logits, targets)
    assert temperature == pytest.approx(5.0 / math.log(0.75 * (WAY - 1) / 0.25), rel=2e-3)
    calibrated = evaluate(Knower(5.0), META, sample, episodes=10, temperature=temperature)
    assert calibrated.ece == pytest.approx(0, abs=1e-3)
    assert calibrated.loss == pytest.approx(negative_log_likelihood(logits, targets, temperature=temperature), rel=1e-5)


def test_reliability_bins() -> None:
    logits = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    binned = reliability(logits, torch.tensor([0, 0, 0]))
    assert binned.counts[BINS // 2] == 1  # a confidence of one half
    assert binned.counts[-1] == 2
    assert binned.correct[-1] == 1
    assert binned.expected_error == pytest.approx((0.5 + 1) / 3)


def test_one_episode_has_no_interval() -> None:
    with pytest.raises(EpisodeError, match="at least 2 episodes"):
        evaluate(Knower(), META, sample, episodes=1)


def test_a_regression_has_a_loss_and_no_accuracy() -> None:
    class Zero(Knower):
        def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
            return torch.zeros(len(inputs), 1)

    def waves(number: int) -> MetaBatch:
        episodes, way = sample(number)
        targets = torch.full((BATCH, QUERIES), 2.0 + number)
        return MetaBatch(episodes._replace(query=episodes.query._replace(targets=targets)), way)

    result = evaluate(Zero(), META, waves, episodes=6, loss=mean_squared_error)
    assert math.isnan(result.accuracy)
    assert result.loss == pytest.approx((4 + 9) / 2)
    assert result.reliability is None
    assert result.score == -result.loss
