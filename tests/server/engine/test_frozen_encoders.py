"""Models of frozen encoders under every executor: one answer, alone or in a batch, padded or not, torch or none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot_models.artifact import load_artifact, save_artifact
from kshot_models.errors import SpecInvalid
from kshot_models.manifest import Limits
from kshot_models.onnx_files import ADAPT, ENCODER, PREDICT
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import AdaptedWeights, Executor, Queries
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.executors.onnx_runtime import OnnxExecutor
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Classified, Failed
from kshot_training.frozen import HEADS, FrozenHead, FrozenRequest, PixelSettings, export_frozen

from ...without_torch import run_without_torch

TOLERANCE = 1e-4  # in a probability
WITH_GRAPHS = {"prototype", "anil"}
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "cpu": lambda: CpuExecutor(threads=1),
    "vmap": lambda: CudaExecutor("cpu"),
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[..., bytes]) -> Path:
    """A repository with a model of each head on one encoder; those that can have graphs have them."""
    root = tmp_path_factory.mktemp("frozen")
    (root / "encoder.onnx").write_bytes(make_encoder(tokens=3))
    for head in HEADS:
        request = FrozenRequest(
            encoder=root / "encoder.onnx",
            name=head,
            version="1",
            head=FrozenHead(head, scale=30.0),
            pixels=PixelSettings(),
            limits=Limits(max_way=12, max_support=40, max_queries=300),
            tokens="mean",
        )
        export_frozen(request, root / "models", graphs=head in WITH_GRAPHS)
    return root / "models"


def answers(executor: Executor, models: ModelRepository, name: str, tasks: list[Any]) -> list[np.ndarray]:
    model = executor.open(models, models.find(name).digest)
    weights = executor.adapt(model, [task.support for task in tasks])
    assert all(isinstance(each, AdaptedWeights) for each in weights)
    results = executor.predict(model, [Queries(w, task.queries) for w, task in zip(weights, tasks, strict=True)])
    assert not any(isinstance(each, Failed) for each in results)
    return results


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_answers_as_each_task_alone(frozen: Path, make_task: Callable[..., Any], name: str) -> None:
    """Under vmap the tasks of the batch are padded to the largest of them, in way, support and queries."""
    models = ModelRepository([frozen])
    sizes = [(2, 1, 1), (5, 3, 4), (12, 2, 9)]
    tasks = [make_task(i, way=way, shot=shot, queries=queries) for i, (way, shot, queries) in enumerate(sizes)]
    expected = [answers(CpuExecutor(threads=1), models, name, [task])[0] for task in tasks]
    for make in EXECUTORS.values():
        adapted = make()
        model = adapted.open(models, models.find(name).digest)
        weights = adapted.adapt(model, [task.support for task in tasks])
        found = [
            adapted.predict(model, [Queries(one, task.queries)] * 3)[1]
            for one, task in zip(weights, tasks, strict=True)
            if isinstance(one, AdaptedWeights)
        ]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert np.abs(expected[1][0] - expected[1][-1]).max() > 100 * TOLERANCE  # they could be told apart


@pytest.mark.parametrize("name", sorted(WITH_GRAPHS))
def test_it_answers_without_torch_as_with_it(frozen: Path, make_task: Callable[..., Any], name: str) -> None:
    models = ModelRepository([frozen], need_graphs=True)
    tasks = [make_task(1, way=2), make_task(2, way=6, shot=3, queries=5)]
    found, expected = (answers(each, models, name, tasks) for each in (OnnxExecutor(threads=1), CpuExecutor(threads=1)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    ours, theirs = (each.open(models, models.find(name).digest) for each in (OnnxExecutor(), CpuExecutor()))
    for op in ("adapt", "predict"):
        assert ours.flops(op) == pytest.approx(theirs.flops(op), abs=1)


def test_heads_without_graphs_are_refused_without_torch(frozen: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = ModelRepository([frozen], need_graphs=True)
    with caplog.at_level(logging.WARNING):
        assert {entry.name for entry in models.list()} == WITH_GRAPHS
    assert {(refused.folder.parent.name, refused.code) for refused in models.refused} == {
        ("matching", "no_graphs"),
        ("ridge", "no_graphs"),
    }
    assert "is not served: it has no ONNX graphs" in caplog.text


def test_it_is_refused_where_onnxruntime_is_missing(frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    models = ModelRepository([frozen])
    assert models.list() == ()
    assert {refused.code for refused in models.refused} == {"no_onnxruntime"}
    assert "pip install 'kshot[onnx]'" in models.refused[0].reason


def test_a_body_that_would_adapt_is_an_outcome_of_warming_up(frozen: Path, tmp_path: Path) -> None:
    artifact = load_artifact(frozen / "anil" / "1")
    spec = artifact.manifest.learner.model_copy(update={"adapt": ("*",)})
    files = {name: (artifact.folder / name).read_bytes() for name in (ENCODER, ADAPT, PREDICT)}
    changed = artifact.manifest.model_copy(update={"learner": spec})
    save_artifact(tmp_path / "anil" / "1", changed, artifact.arrays, files)
    models = ModelRepository([tmp_path])
    with pytest.raises(SpecInvalid, match="change the head alone"):
        CpuExecutor(threads=1).open(models, models.find("anil").digest)
    with Engine(models) as engine:
        assert list(engine.warm_up()) == ["anil@1"]


def test_an_engine_serves_many_at_once(frozen: Path, make_task: Callable[..., Any]) -> None:
    models = ModelRepository([frozen])
    tasks = [make_task(i, way=3 + i % 3) for i in range(12)]
    expected = [answers(CpuExecutor(threads=1), models, "ridge", [task])[0] for task in tasks]
    with Engine(models) as engine:
        assert engine.warm_up() == {}
        digest = models.find("ridge").digest
        futures = [engine.submit(task.classify(digest, with_support=True)) for task in tasks]
        for future, probabilities in zip(futures, expected, strict=True):
            answer = future.result(30)
            assert isinstance(answer, Classified)
            np.testing.assert_allclose(answer.probabilities, probabilities, rtol=0, atol=TOLERANCE)


SERVES = """
from pathlib import Path
import numpy as np
from kshot_server.engine.engine import Engine
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import ClassifyRequest, Support

models = ModelRepository([Path(sys.argv[1])], need_graphs=True)
with Engine(models, runtime="onnxruntime") as engine:
    assert engine.warm_up() == {}
    images = np.random.default_rng(0).integers(256, size=(3, 12, 12, 1), dtype=np.uint8)
    (entry,) = models.list()
    request = ClassifyRequest(entry.digest, "s", images, Support(images, np.arange(3), 3), float("inf"))
    answer = engine.submit(request).result(30)
    assert list(answer.probabilities.argmax(1)) == [0, 1, 2]
"""


def test_it_serves_in_a_process_that_cannot_import_torch(frozen: Path, tmp_path: Path) -> None:
    shutil.copytree(frozen / "prototype" / "1", tmp_path / "prototype" / "1")
    run_without_torch(SERVES, tmp_path)
