"""No session ever sees another's weights: threads interleave sessions over a cache that evicts at each step."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Adapted, Classified, NeedsSupport

TOLERANCE = 1e-4  # in a probability: in another batch, float32 sums are made in another order
SESSIONS, THREADS, ROUNDS = 8, 6, 12
Answers: TypeAlias = dict[tuple[str, int], np.ndarray[Any, Any]]  # by model digest and session
EXECUTORS: dict[str, Callable[[], Any]] = {"cpu": lambda: CpuExecutor(threads=2), "vmap": lambda: CudaExecutor("cpu")}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_interleaved_sessions_answer_as_each_does_alone(
    models: ModelRepository, make_task: Callable[..., Any], kind: str
) -> None:
    digests = [models.find(name).digest for name in ("gradient", "prototype")]
    # The sizes cross the padding's steps, and a third of the sessions share their shape.
    tasks = [make_task(i, way=(5, 5, 9)[i % 3], shot=1 + i % 2, queries=4) for i in range(SESSIONS)]
    solo: Answers = {}
    for digest in digests:
        for i, task in enumerate(tasks):
            with Engine(models, executor=EXECUTORS[kind]()) as engine:
                answer = engine.submit(task.classify(digest, with_support=True)).result(60)
                assert isinstance(answer, Classified)
                solo[digest, i] = answer.probabilities
    _assert_all_differ(solo)

    wrong: list[str] = []
    one_session = 6000  # bytes: below two sessions of the gradient learner, so that nearly every step evicts
    with Engine(models, executor=EXECUTORS[kind](), cache_bytes=one_session) as engine:
        clients = [
            threading.Thread(target=_visit, args=(engine, tasks, solo, random.Random(seed), wrong))
            for seed in range(THREADS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        stats = engine.stats()
    assert wrong == []
    assert stats["cache"]["evictions"] > ROUNDS
    assert stats["cache"]["entries"] <= 4


def _visit(engine: Engine, tasks: list[Any], solo: Answers, choose: random.Random, wrong: list[str]) -> None:
    """Use sessions at random, as the HTTP side does, and note each answer that is not the solo answer."""
    for _ in range(ROUNDS):
        digest, i = choose.choice(list(solo))
        if choose.random() < 0.3 and not isinstance(engine.submit(tasks[i].adapt(digest)).result(60), Adapted):
            wrong.append(f"session {i} was not adapted")
        outcome = engine.submit(tasks[i].classify(digest)).result(60)
        if isinstance(outcome, NeedsSupport):
            outcome = engine.submit(tasks[i].classify(digest, with_support=True)).result(60)
        if not isinstance(outcome, Classified):
            wrong.append(f"session {i} got {outcome}")
        elif np.abs(outcome.probabilities - solo[digest, i]).max() > TOLERANCE:
            wrong.append(f"session {i} got another answer than alone")


def _assert_all_differ(solo: Answers) -> None:
    """A mix-up could be seen: no two sessions have answers within ten times the tolerance."""
    answers = list(solo.values())
    for k, one in enumerate(answers):
        for other in answers[k + 1 :]:
            assert one.shape != other.shape or np.abs(one - other).max() > 10 * TOLERANCE
