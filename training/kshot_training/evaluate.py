"""Evaluation: adapt to each episode, answer its queries, and say how sure the mean is.

accuracy     mean over episodes, with 1.96 sd / sqrt(episodes) on either side
per_step     the same before the first inner step and after each: does adapting help, and does it still help later?
nll, ece     are the probabilities worth anything?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.serving import serving
from kshot_models.types import Episode, Examples, Learner, MetaParams
from kshot_training.calibration import Reliability, reliability
from kshot_training.errors import EpisodeError
from kshot_training.meta_gradients.tasks import accuracy, split_tasks
from kshot_training.outer_loop import MetaBatch, Sample

__all__ = ["EpisodeAnswers", "Evaluation", "answer_episodes", "evaluate", "evaluate_alike"]


@dataclass(frozen=True)
class EpisodeAnswers:
    """What one episode gave: logits and targets of its queries, and accuracies along the trajectory."""

    logits: Tensor  # (queries, way)
    targets: Tensor  # (queries,)
    loss: float
    accuracy: float  # NaN for a regression
    per_step: tuple[float, ...]  # empty unless asked for


@dataclass(frozen=True)
class Evaluation:
    """Means over episodes."""

    episodes: int
    accuracy: float  # NaN for a regression
    ci95: float  # half the width of the 95% interval of the accuracy
    loss: float  # negative log-likelihood, or the squared error of a regression
    loss_ci95: float
    ece: float  # NaN for a regression
    per_step: tuple[float, ...]
    reliability: Reliability | None

    @property
    def score(self) -> float:
        """What model selection maximizes: the accuracy, or minus the loss of a regression."""
        return -self.loss if math.isnan(self.accuracy) else self.accuracy


def evaluate(
    learner: Learner,
    meta: MetaParams,
    sample: Sample,
    *,
    episodes: int,
    loss: Loss = weighted_cross_entropy,
    per_step: bool = False,
    workers: int = 1,
    temperature: float = 1.0,
) -> Evaluation:
    """Measure a learner on the first `episodes` episodes of `sample`.

    Args:
        learner: What is measured.
        meta: Its meta-parameters.
        sample: `sample(i)` gives a batch of episodes; batches 0, 1, ... are drawn until there are enough.
        episodes: At least 2, for there to be an interval.
        loss: What `loss` in the result means.
        per_step: Also answer the queries along the trajectory; costs one prediction per step.
        workers: Episodes side by side, each on one thread.
        temperature: Divides the logits, for the loss and the calibration error.
    """

    def tempered(outputs: Tensor, examples: Examples) -> Tensor:
        return loss(outputs / temperature, examples)

    answers = answer_episodes(
        learner, meta, sample, episodes=episodes, loss=tempered, per_step=per_step, workers=workers
    )
    return _summary(answers, temperature)


def evaluate_alike(
    learners: Sequence[Learner], meta: MetaParams, sample: Sample, *, episodes: int, workers: int = 1
) -> list[Evaluation]:
    """Measure learners that adapt alike and predict differently; each episode is adapted to once, by the first.

    A learner in the norm modes support and transductive is such a pair: the queries see other moments, the inner steps
    do not. See `evaluate` for the arguments; each result is what it would give for that learner.
    """
    answers = _answers(learners, meta, sample, episodes=episodes, loss=weighted_cross_entropy, workers=workers)
    return [_summary(of_one, 1.0) for of_one in answers]


def _summary(answers: list[EpisodeAnswers], temperature: float) -> Evaluation:
    accuracies, losses = [a.accuracy for a in answers], [a.loss for a in answers]
    regression = math.isnan(accuracies[0])
    binned = None if regression else _pooled_reliability(answers, temperature)
    return Evaluation(
        episodes=len(answers),
        accuracy=_mean(accuracies),
        ci95=_half_width(accuracies),
        loss=_mean(losses),
        loss_ci95=_half_width(losses),
        ece=math.nan if binned is None else binned.expected_error,
        per_step=tuple(_mean(list(column)) for column in zip(*(a.per_step for a in answers), strict=True)),
        reliability=binned,
    )


def answer_episodes(
    learner: Learner,
    meta: MetaParams,
    sample: Sample,
    *,
    episodes: int,
    loss: Loss = weighted_cross_entropy,
    per_step: bool = False,
    workers: int = 1,
) -> list[EpisodeAnswers]:
    """The answers to the first `episodes` episodes, in order; see `evaluate` for the arguments."""
    [answers] = _answers([learner], meta, sample, episodes=episodes, loss=loss, per_step=per_step, workers=workers)
    return answers


def _answers(
    learners: Sequence[Learner],
    meta: MetaParams,
    sample: Sample,
    *,
    episodes: int,
    loss: Loss,
    per_step: bool = False,
    workers: int = 1,
) -> list[list[EpisodeAnswers]]:
    """For each learner its answers, where the first one adapts for all."""
    if episodes < 2:
        raise EpisodeError(f"expected at least 2 episodes, got {episodes}: one has no confidence interval")

    def batch_answers(index: int) -> list[tuple[EpisodeAnswers, ...]]:
        batch = sample(index)
        if batch.episodes.query.inputs.is_cuda and not per_step:  # where launching kernels is what takes time
            with torch.no_grad():
                together = [_answers_together(learner, meta, batch, loss) for learner in learners]
                return list(zip(*together, strict=True))
        with serving():  # as the server computes them
            return [_answer(learners, meta, e, batch.way, loss, per_step) for e in split_tasks(batch.episodes)]

    first = batch_answers(0)
    rest = range(1, math.ceil(episodes / len(first)))
    all_answers = (first + [a for answers in _mapped(batch_answers, rest, workers) for a in answers])[:episodes]
    return [list(of_one) for of_one in zip(*all_answers, strict=True)]


def _mapped(
    function: Callable[[int], list[tuple[EpisodeAnswers, ...]]], indices: range, workers: int
) -> list[list[tuple[EpisodeAnswers, ...]]]:
    if workers == 1:
        return [function(index) for index in indices]
    with ThreadPoolExecutor(workers, thread_name_prefix="kshot-evaluate") as pool:
        return list(pool.map(function, indices))


def _answers_together(learner: Learner, meta: MetaParams, batch: MetaBatch, loss: Loss) -> list[EpisodeAnswers]:
    """What `_answer` gives for each episode of a batch, as one computation."""

    def one(episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
        support, query = episode
        task = learner.adapt(meta, support, way=batch.way)
        logits = learner.predict(meta, task, query.inputs, query.weights)
        return logits, loss(logits, query), accuracy(logits, query)

    logits, losses, right = (result.cpu() for result in torch.func.vmap(one)(batch.episodes))
    targets = batch.episodes.query.targets.cpu()
    rows = zip(logits, targets, losses.tolist(), right.tolist(), strict=True)
    return [EpisodeAnswers(*row, ()) for row in rows]


def _answer(
    learners: Sequence[Learner],
    meta: MetaParams,
    episode: Episode,
    way: int,
    loss: Loss,
    per_step: bool,  # noqa: FBT001 - private
) -> tuple[EpisodeAnswers, ...]:
    support, query = episode
    if per_step:
        tasks = list(learners[0].trajectory(meta, support, way=way))
    else:
        tasks = [learners[0].adapt(meta, support, way=way)]

    def judged(learner: Learner) -> EpisodeAnswers:
        points = [learner.predict(meta, task, query.inputs, query.weights) for task in tasks]
        right, logits = tuple(float(accuracy(logits, query)) for logits in points), points[-1]
        return EpisodeAnswers(
            logits.cpu(), query.targets.cpu(), float(loss(logits, query)), right[-1], right if per_step else ()
        )

    return tuple(judged(learner) for learner in learners)


def _pooled_reliability(answers: list[EpisodeAnswers], temperature: float) -> Reliability:
    each = [reliability(a.logits, a.targets, temperature=temperature) for a in answers]
    return Reliability(*(torch.stack(parts).sum(0) for parts in zip(*each, strict=True)))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _half_width(values: list[float]) -> float:
    mean = _mean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return 1.96 * math.sqrt(variance / len(values))
