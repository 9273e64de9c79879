"""The executor of ONNX Runtime: it answers as torch does, and never needs it."""

from __future__ import annotations

import math
import platform
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from kshot_models.artifact import load_artifact, save_artifact
from kshot_models.errors import DigestMismatch, FileMissing, FormatUnsupported, GraphInvalid, RuntimeMissing
from kshot_models.manifest import Component, LearnerSpec
from kshot_models.native import jit
from kshot_models.native.jit import compile_all
from kshot_models.native_learner import NativeTask
from kshot_models.onnx_files import ADAPT, FLOPS, LAYOUT_KEY, PREDICT
from kshot_server.devices import choose_runtime, devices_of
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import AdaptedWeights, Queries
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.onnx_runtime import OnnxExecutor
from kshot_server.engine.executors.table import executor_for
from kshot_server.engine.repository import ModelNotFound, ModelRepository
from kshot_server.engine.requests import Adapted, Classified, Failed
from kshot_server.settings import SettingError
from kshot_training.onnx_graphs.writing import export_onnx

from ...without_torch import run_without_torch

TOLERANCE = 1e-4  # in a probability, between the runtimes
NAMES = ["gradient", "prototype", "fixed-way"]  # tests/training/onnx_graphs has every kind of graph


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Any]) -> ModelRepository:
    """A repository with the graphs of one artifact of each kind that has some."""
    plain, root = (tmp_path_factory.mktemp(name) for name in ("plain", "exported"))
    for name in NAMES:
        write_model(plain, name)
        export_onnx(plain / name / "1", root)
    return ModelRepository([root], need_graphs=True)


def digest(models: ModelRepository, name: str) -> str:
    return models.find(name).digest


def answers(executor: Any, models: ModelRepository, name: str, tasks: list[Any]) -> list[Any]:
    model = executor.open(models, digest(models, name))
    weights = executor.adapt(model, [task.support for task in tasks])
    assert all(isinstance(each, AdaptedWeights) for each in weights)
    return list(executor.predict(model, [Queries(w, task.queries) for w, task in zip(weights, tasks, strict=True)]))


@pytest.fixture(params=[False, True], ids=["graphs", "kernels"])
def kernels(request: pytest.FixtureRequest) -> bool:
    """Whether kernels take the place of graphs; then they are compiled."""
    if request.param:
        compile_all()
    return bool(request.param)


def wait_for(executor: OnnxExecutor, *, there: bool) -> None:
    """Until it has its kernels, if it is to have some."""
    assert (executor.kernels is not None and executor.kernels.there()) == there


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_torch(
    exported: ModelRepository, make_task: Callable[..., Any], name: str, *, kernels: bool
) -> None:
    ways = [(2, 1, 1), (5, 3, 4), (6, 2, 9)]
    tasks = [make_task(i, way=way, shot=shot, queries=queries) for i, (way, shot, queries) in enumerate(ways)]
    executor = OnnxExecutor(threads=1, kernels=kernels)
    wait_for(executor, there=kernels)
    found, expected = (answers(each, exported, name, tasks) for each in (executor, CpuExecutor()))
    model = executor.open(exported, digest(exported, name))
    (weights,) = executor.adapt(model, [tasks[0].support])
    assert isinstance(weights, AdaptedWeights)
    assert isinstance(weights.values, NativeTask) == (kernels and name != "fixed-way")  # which has no norms
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert np.abs(found[1][0] - found[1][-1]).max() > 100 * TOLERANCE  # they could be told apart


def test_costs_and_ways_are_those_that_torch_measures(exported: ModelRepository, *, kernels: bool) -> None:
    for name in NAMES:
        both = OnnxExecutor(kernels=kernels), CpuExecutor()
        ours, theirs = (each.open(exported, digest(exported, name)) for each in both)
        assert ours.fixed_way == theirs.fixed_way
        for op in ("adapt", "predict"):
            # Kernels are told what convolutions cost alone.
            assert ours.flops(op) == pytest.approx(theirs.flops(op), abs=1, rel=0.05 if kernels else None)


def test_sessions_are_the_same_on_both_sides(exported: ModelRepository, make_task: Callable[..., Any]) -> None:
    """One digest, so one session id; either engine answers it from the support set."""
    task = make_task(0)
    model = digest(exported, "gradient")
    results = []
    for runtime in ("torch", "onnxruntime"):
        with Engine(exported, runtime=runtime) as engine:
            assert engine.warm_up() == {}
            adapted = engine.submit(task.adapt(model)).result(30)
            answer = engine.submit(task.classify(model)).result(30)
            assert isinstance(adapted, Adapted)
            assert isinstance(answer, Classified)
            assert answer.cache == "device"
            results.append(answer.probabilities)
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=TOLERANCE)


def test_many_queries_are_cut_and_do_not_feel_each_other(
    exported: ModelRepository, make_task: Callable[..., Any], *, kernels: bool
) -> None:
    executor, task = OnnxExecutor(threads=1, kernels=kernels), make_task(3, queries=15)
    wait_for(executor, there=kernels)
    model = executor.open(exported, digest(exported, "gradient"))
    (weights,) = executor.adapt(model, [task.support])
    assert isinstance(weights, AdaptedWeights)
    (crowd,) = executor.predict(model, [Queries(weights, np.concatenate([task.queries] * 18))])
    (one,) = executor.predict(model, [Queries(weights, task.queries[4:5])])
    assert not isinstance(crowd, Failed)
    assert not isinstance(one, Failed)
    np.testing.assert_allclose(crowd[4::15], np.repeat(one, 18, 0), rtol=0, atol=TOLERANCE)
    # conv 8x1x3x3 and 8x8x3x3, norms 4x8, head 5x(72+1), moments 4x8, present 5
    numbers = 72 + 576 + 32 + 365 + 32 + (0 if kernels else 5)
    assert weights.size_bytes == 4 * numbers == (weights.values if kernels else weights.values.values).nbytes


def test_kernels_that_are_not_compiled_are_left_out(
    exported: ModelRepository, make_task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling takes minutes, and a server is to be ready within two seconds."""
    monkeypatch.setattr(jit, "all_kept", lambda: False)
    executor = OnnxExecutor(threads=1)
    wait_for(executor, there=False)
    model = executor.open(exported, digest(exported, "gradient"))
    (weights,) = executor.adapt(model, [make_task(0).support])
    assert isinstance(weights, AdaptedWeights)
    assert not isinstance(weights.values, NativeTask)


def test_a_lane_that_computes_by_kernels_counts_denormals_as_zero(
    exported: ModelRepository, make_task: Callable[..., Any], *, kernels: bool
) -> None:
    seen: list[bool] = []

    def lane() -> None:
        executor = OnnxExecutor(threads=1, kernels=kernels)
        executor.enter_lane(lambda works: None)
        wait_for(executor, there=kernels)
        executor.adapt(executor.open(exported, digest(exported, "gradient")), [make_task(0).support])
        seen.append(bool((np.full(8, 1e-20, np.float32) * np.float32(1e-20)).sum() == 0))

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    flushes = kernels and platform.machine() in {"x86_64", "AMD64"}
    assert seen == [flushes]


def test_a_divergence_is_answered_to_the_one_that_diverged(
    tmp_path: Path, write_model: Callable[..., Any], make_task: Callable[..., Any]
) -> None:
    spec = LearnerSpec(
        type="gradient",
        network=Component(type="mlp", hidden=(4,)),
        head=Component(type="shared"),
        inner=(Component(type="sgd", rate=1e30),),
        steps=4,
        norm="none",
    )
    write_model(tmp_path / "plain", "explosive", spec=spec)
    export_onnx(tmp_path / "plain" / "explosive" / "1", tmp_path / "exported")
    models = ModelRepository([tmp_path / "exported"])
    fine, bad = make_task(0), make_task(1)
    fine.support.inputs[:] = 127.5  # the input is 0 but for rounding, and so is its gradient
    with Engine(models, runtime="onnxruntime") as engine:
        outcomes = [engine.submit(task.adapt(digest(models, "explosive"))) for task in (bad, bad)]
        for outcome in outcomes:
            failed = outcome.result(30)
            assert isinstance(failed, Failed)
            assert failed.code == "adaptation_diverged"


def test_models_without_graphs_are_not_served(tmp_path: Path, write_model: Callable[..., Any]) -> None:
    write_model(tmp_path, "prototype")
    models = ModelRepository([tmp_path], need_graphs=True)
    assert models.list() == ()
    assert [refused.code for refused in models.refused] == ["no_graphs"]
    assert "kshot export" in models.refused[0].reason
    plain = ModelRepository([tmp_path])
    with pytest.raises(FileMissing, match=r"names no onnx/adapt\.onnx"):
        OnnxExecutor(kernels=False).open(plain, digest(plain, "prototype"))


def rewritten(exported: ModelRepository, root: Path, **files: bytes) -> ModelRepository:
    """The prototype artifact with other graphs, which its manifest vouches for."""
    artifact = load_artifact(exported.find("prototype").folder)
    contents = {name: (artifact.folder / name).read_bytes() for name in (ADAPT, PREDICT)}
    contents |= {f"onnx/{name}.onnx": data for name, data in files.items()}
    save_artifact(root / "prototype" / "1", artifact.manifest, artifact.arrays, contents)
    return ModelRepository([root], need_graphs=True)


def about(data: bytes, key: str, value: str) -> bytes:
    model = onnx.load_from_string(data)
    next(each for each in model.metadata_props if each.key == key).value = value
    return bytes(model.SerializeToString())


def test_graphs_that_cannot_be_used_are_refused_by_what_is_wrong(exported: ModelRepository, tmp_path: Path) -> None:
    adapt, predict = ((exported.find("prototype").folder / name).read_bytes() for name in (ADAPT, PREDICT))
    wrong: list[tuple[dict[str, bytes], type[Exception], str]] = [
        ({"adapt": b"no graph"}, GraphInvalid, "adapt.onnx"),
        ({"predict": adapt}, GraphInvalid, "expected the output logits"),
        ({"adapt": about(adapt, LAYOUT_KEY, "2")}, FormatUnsupported, "layout '2'"),
        ({"predict": about(predict, FLOPS, "0")}, GraphInvalid, "cost per example"),
    ]
    for i, (files, error, message) in enumerate(wrong):
        models = rewritten(exported, tmp_path / str(i), **files)
        with pytest.raises(error, match=message):
            OnnxExecutor(kernels=False).open(models, digest(models, "prototype"))


def test_files_that_changed_since_are_refused(exported: ModelRepository, tmp_path: Path) -> None:
    shutil.copytree(exported.find("prototype").folder, tmp_path / "prototype" / "1")
    models = ModelRepository([tmp_path], rescan_seconds=math.inf)
    known = digest(models, "prototype")
    (tmp_path / "prototype" / "1" / ADAPT).write_bytes(b"other")
    with pytest.raises(DigestMismatch):
        OnnxExecutor(kernels=False).open(models, known)
    (tmp_path / "prototype" / "1" / ADAPT).write_bytes((exported.find("prototype").folder / ADAPT).read_bytes())
    manifest = tmp_path / "prototype" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"temperature": 40.0', '"temperature": 41.0'))
    with pytest.raises(ModelNotFound):
        OnnxExecutor(kernels=False).open(models, known)


def test_the_runtime_is_chosen_by_name() -> None:
    assert isinstance(executor_for("cpu", "onnxruntime"), OnnxExecutor)
    assert executor_for("cuda:1", "onnxruntime").device == "cuda:1"
    with pytest.raises(ValueError, match="expected a runtime of torch, onnxruntime, got 'tensorflow'"):
        executor_for("cpu", "tensorflow")


def test_auto_is_torch_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_runtime(setting) for setting in ("auto", "torch", "onnxruntime")] == [
        "torch",
        "torch",
        "onnxruntime",
    ]
    there = {"onnxruntime"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in there else None)
    assert choose_runtime("auto") == "onnxruntime"
    with pytest.raises(
        SettingError, match=r"--runtime torch: onnxruntime is installed here; pip install 'kshot\[torch\]'"
    ):
        choose_runtime("torch")
    there.clear()
    with pytest.raises(
        SettingError, match=r"no runtime is installed here; pip install 'kshot\[torch\]' or 'kshot\[onnx\]'"
    ):
        choose_runtime("auto")


def test_a_gpu_needs_the_package_for_it(exported: ModelRepository, tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    assert devices_of("auto", {}, tmp_path, runtime="onnxruntime") == ("cpu",)
    with pytest.raises(RuntimeMissing, match="onnxruntime-gpu"):
        executor_for("cuda", "onnxruntime").open(exported, digest(exported, "prototype"))


SERVES = """
from pathlib import Path
import numpy as np
import kshot_server.app, kshot_server.worker, kshot_server.commands.serve
from kshot_server.engine.engine import Engine
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import ClassifyRequest, Support

models = ModelRepository([Path(sys.argv[1])], need_graphs=True)
with Engine(models, runtime="onnxruntime") as engine:
    assert engine.warm_up() == {}
    images = np.random.default_rng(0).integers(256, size=(3, 12, 12, 1), dtype=np.uint8)
    support = Support(images, np.arange(3), 3)
    for entry in models.list():
        answer = engine.submit(ClassifyRequest(entry.digest, "s", images, support, float("inf"))).result(30)
        assert np.abs(answer.probabilities.sum(1) - 1).max() < 1e-5, entry.name
"""


def test_it_adapts_in_a_process_that_cannot_import_torch(exported: ModelRepository, tmp_path: Path) -> None:
    for name in ("gradient", "prototype"):
        shutil.copytree(exported.find(name).folder, tmp_path / name / "1")
    run_without_torch(SERVES, tmp_path)
