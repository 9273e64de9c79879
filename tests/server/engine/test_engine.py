from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.executors.table import executor_for
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Adapted, Classified, ClassifyRequest, Failed, NeedsSupport

MakeTask = Callable[..., Any]


@pytest.fixture
def engine(models: ModelRepository) -> Iterator[Engine]:
    with Engine(models, executor=CpuExecutor(threads=2)) as engine:
        yield engine


@pytest.fixture
def digest(models: ModelRepository) -> str:
    return models.find("gradient").digest


def test_adapt_then_classify(engine: Engine, digest: str, make_task: MakeTask) -> None:
    task = make_task(0)
    first = engine.submit(task.adapt(digest)).result(30)
    assert isinstance(first, Adapted)
    assert first.timings.adapt_ms > 0
    assert first.timings.batch_size == 1
    again = engine.submit(task.adapt(digest)).result(30)
    assert isinstance(again, Adapted)
    assert (again.timings.adapt_ms, again.timings.batch_size) == (0, 0)
    answer = engine.submit(task.classify(digest)).result(30)
    assert isinstance(answer, Classified)
    assert answer.cache == "device"
    assert answer.probabilities.shape == (3, 5)
    assert answer.timings.adapt_ms == 0 < answer.timings.predict_ms
    stats = engine.stats()
    assert stats["outcomes"] == {"adapted": 2, "classified": 1}
    assert stats["batches"] == {"adapt": {1: 1}, "predict": {1: 1}}
    assert stats["seconds"]["adapt"] > 0
    assert stats["models"] == [digest]
    assert (stats["pending"], stats["queued"], stats["running"]) == (0, 0, 0)
    assert (stats["cache"]["entries"], stats["cache"]["hits"], stats["cache"]["misses"]) == (1, 2, 1)
    assert stats["cache"]["bytes"] > 0


def test_a_classification_that_brings_its_support_set_needs_no_session(
    engine: Engine, digest: str, make_task: MakeTask
) -> None:
    task = make_task(1)
    assert engine.submit(task.classify(digest)).result(30) == NeedsSupport()
    answer = engine.submit(task.classify(digest, with_support=True)).result(30)
    assert isinstance(answer, Classified)
    assert answer.cache == "recomputed"
    assert answer.timings.adapt_ms > 0 < answer.timings.predict_ms
    cached = engine.submit(task.classify(digest)).result(30)
    assert isinstance(cached, Classified)
    assert cached.cache == "device"
    np.testing.assert_allclose(cached.probabilities, answer.probabilities, rtol=0, atol=1e-4)


def test_an_event_loop_can_wait_for_it(engine: Engine, digest: str, make_task: MakeTask) -> None:
    async def ask() -> list[Any]:
        tasks = [make_task(i) for i in range(4)]
        futures = [engine.submit(task.classify(digest, with_support=True)) for task in tasks]
        return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))

    assert all(isinstance(outcome, Classified) for outcome in asyncio.run(ask()))


def test_what_does_not_fit_is_answered_at_once(engine: Engine, digest: str, make_task: MakeTask) -> None:
    unknown = engine.submit(make_task(0).adapt("0" * 64))
    assert unknown.done()
    wrong = engine.submit(make_task(0, size=9).adapt(digest))
    assert wrong.done()
    codes = [outcome.code for outcome in (unknown.result(), wrong.result()) if isinstance(outcome, Failed)]
    assert codes == ["model_not_found", "invalid_tensor"]
    assert engine.stats()["outcomes"] == {"model_not_found": 1, "invalid_tensor": 1}


def test_whatever_is_handed_in_gets_one_outcome(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    nonsense: Any = object()
    outcome = engine.submit(nonsense).result(1)
    assert isinstance(outcome, Failed)
    assert outcome.code == "internal_error"
    assert outcome.incident is not None
    assert outcome.incident in caplog.text


def test_warm_up_loads_all_and_names_what_does_not_work(
    models: ModelRepository, specs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class OneIsLost(ModelRepository):
        def load(self, digest: str, *, device: str | torch.device = "cpu") -> Any:
            if digest == self.find("prototype").digest:
                raise OSError("the disk is gone")
            return super().load(digest, device=device)

    source = OneIsLost(models._folders)
    with Engine(source, executor=CpuExecutor(threads=1)) as engine:
        failed = engine.warm_up()
        assert {reference: failure.code for reference, failure in failed.items()} == {"prototype@1": "internal_error"}
        assert len(engine.stats()["models"]) == len(specs) - 1


def test_warm_up_names_a_model_that_diverges(gated: Any) -> None:
    gated.learner.diverges = True
    with Engine(gated, executor=CpuExecutor(threads=1)) as engine:
        assert engine.warm_up()["gated@1"].code == "adaptation_diverged"


def test_a_model_whose_loading_fails_costs_its_requests_alone(
    models: ModelRepository, digest: str, make_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(ModelRepository):
        broken = True

        def load(self, digest: str, *, device: str | torch.device = "cpu") -> Any:
            if self.broken:
                raise OSError("not now")
            return super().load(digest, device=device)

    source = Flaky(models._folders)
    with Engine(source, executor=CpuExecutor(threads=1)) as engine:
        outcome = engine.submit(make_task(0).adapt(digest)).result(30)
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.detail) == ("internal_error", "the model cannot be loaded")
        source.broken = False
        assert isinstance(engine.submit(make_task(0).adapt(digest)).result(30), Adapted)


def test_a_model_that_went_from_disk_before_it_was_loaded_is_not_found(
    tmp_path: Any, write_model: Callable[..., Any], make_task: MakeTask
) -> None:
    manifest = write_model(tmp_path, "gradient")
    source = ModelRepository([tmp_path])
    assert source.at(manifest.digest).name == "gradient"
    write_model(tmp_path, "gradient", description="other bytes under that name")
    with Engine(source, executor=CpuExecutor(threads=1)) as engine:
        outcome = engine.submit(make_task(0).adapt(manifest.digest)).result(30)
        assert isinstance(outcome, Failed)
        assert outcome.code == "model_not_found"


def test_after_close_requests_are_answered_draining(models: ModelRepository, digest: str, make_task: MakeTask) -> None:
    engine = Engine(models, executor=CpuExecutor(threads=1))
    engine.close()
    engine.close()
    outcome = engine.submit(make_task(0).adapt(digest)).result(1)
    assert isinstance(outcome, Failed)
    assert outcome.code == "draining"


def test_an_answer_is_for_the_sessions_own_classes(models: ModelRepository, make_task: MakeTask) -> None:
    with Engine(models, executor=CudaExecutor("cpu")) as engine:
        for name in ("gradient", "fixed-way"):
            for way in (2, 5, 6):
                task = make_task(way, way=way)
                request = task.classify(models.find(name).digest, with_support=True)
                outcome = engine.submit(request).result(30)
                assert isinstance(outcome, Classified)
                assert outcome.probabilities.shape == (3, way)
                np.testing.assert_allclose(outcome.probabilities.sum(1), 1, atol=1e-5)


def test_a_device_has_an_executor() -> None:
    assert isinstance(executor_for("cpu"), CpuExecutor)
    cuda = executor_for("cuda:1")
    assert isinstance(cuda, CudaExecutor)
    assert cuda.device == "cuda:1"
    with pytest.raises(ValueError, match="abacus"):
        executor_for("abacus:3")


def test_the_default_engine_is_one_on_the_cpu(models: ModelRepository, digest: str, make_task: MakeTask) -> None:
    with Engine(models) as engine:
        task = make_task(0)
        request = ClassifyRequest(digest, task.session, task.queries, task.support, math.inf)
        assert isinstance(engine.submit(request).result(30), Classified)
