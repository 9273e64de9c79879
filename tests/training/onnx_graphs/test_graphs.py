"""The graphs of learners of every kind that has one: run by ONNX Runtime, they answer as the learner does."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from kshot_models.artifact import load_artifact, save_artifact
from kshot_models.load import LoadedLearner, load, meta_to_arrays, normalise
from kshot_models.manifest import InputSpec, LearnerSpec, Limits, Manifest
from kshot_models.onnx_files import ADAPT, FIXED_WAY, FLOPS, LAYOUT, LAYOUT_KEY, PREDICT
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Examples
from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.writing import export_onnx, make_graphs

TOLERANCE = 3e-5  # of the largest logit: the same float32 arithmetic in another order
SIZE = 12

SGD = [{"type": "sgd", "rate": 0.3}]
MAX_POOL = {"type": "conv4", "channels": (4, 5)}
STRIDE = {"type": "conv4", "channels": (4, 5), "downsample": "stride", "readout": "mean", "norm_groups": 1}
MLP = {"type": "mlp", "hidden": (8, 6), "activation": "tanh"}
# Together: each rule, head, network, norm and kind of learner once.
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"network": MAX_POOL, "head": {"type": "shared"}, "inner": SGD, "steps": 2},
    "lslr": {
        "network": STRIDE,
        "head": {"type": "prototype", "learned_scale": True},
        "inner": [{"type": "lslr", "rate": 0.05, "steps": 1}],
        "steps": 2,
        "norm": "group",
    },
    "meta-sgd": {
        "network": MLP,
        "head": {"type": "shared"},
        "inner": [{"type": "meta_sgd", "rate": 0.2}, {"type": "sgd", "rate": -0.5}],
        "steps": 2,
    },
    "head-only": {"network": MAX_POOL, "head": {"type": "shared"}, "inner": SGD, "steps": 2, "adapt": ["head.*"]},
    "fixed-way": {"network": MAX_POOL, "head": {"type": "linear", "way": 4}, "inner": SGD, "steps": 1, "norm": "none"},
    "prototype": {"type": "prototype", "network": MAX_POOL, "head": {"type": "prototype"}},
    "population": {"type": "prototype", "network": MAX_POOL, "head": {"type": "prototype"}, "norm": "population"},
}


def untrained(name: str) -> LoadedLearner:
    spec = LearnerSpec.model_validate({"type": "gradient", **CASES[name]})
    return learner_of(spec, max_way=4 if name == "fixed-way" else 8)


def learner_of(spec: LearnerSpec, max_way: int = 8) -> LoadedLearner:
    """Random gains and rates, so that nothing hides behind a 0 or a 1."""
    image = InputSpec(height=SIZE, width=SIZE, channels=1, mean=(0.5,), std=(0.5,))
    manifest = Manifest(
        name="m", version="1", learner=spec, input=image, limits=Limits(max_way=max_way, max_support=40)
    )
    generator = torch.Generator().manual_seed(7)
    learner = build_learner(spec, image)
    meta = meta_map(lambda t: t * (1 + 0.2 * torch.rand(t.shape, generator=generator)), learner.init(generator))
    return LoadedLearner(learner, meta, manifest, "digest")


@dataclass(frozen=True)
class Graphs:
    loaded: LoadedLearner
    files: dict[str, bytes]
    adapt: onnxruntime.InferenceSession
    predict: onnxruntime.InferenceSession

    def run(self, session: onnxruntime.InferenceSession, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        meta = {name: values.numpy() for name, values in meta_to_arrays(self.loaded.meta_params).items()}
        feed = {each.name: ({**meta, **given})[each.name] for each in session.get_inputs()}
        return dict(zip([each.name for each in session.get_outputs()], session.run(None, feed), strict=True))


@functools.cache
def graphs(name: str) -> Graphs:
    loaded = untrained(name)
    files = make_graphs(loaded)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(files[file], options, providers=["CPUExecutionProvider"])
        for file in (ADAPT, PREDICT)
    ]
    return Graphs(loaded, files, *sessions)


def images(seed: int, way: int, count: int) -> NDArray[np.uint8]:
    """`count` images, of the classes in turn."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 256, (way, SIZE, SIZE, 1))
    noise = random.integers(-60, 60, (count, SIZE, SIZE, 1))
    return np.clip(classes[np.arange(count) % way] + noise, 0, 255).astype(np.uint8)


def answers(one: Graphs, support: NDArray[np.uint8], queries: NDArray[np.uint8], way: int, padding: int = 0) -> Any:
    """Logits by the graphs; `padding` rows of weight 0 go behind the support set."""
    rows = len(support)
    given = {
        "pixels": np.concatenate([support, support[:padding]]),
        "targets": np.arange(rows + padding) % way,
        "weights": np.r_[np.ones(rows, np.float32), np.zeros(padding, np.float32)],
        "classes": np.arange(way),
    }
    task = one.run(one.adapt, given)
    return one.run(one.predict, {**task, "pixels": queries})["logits"]


def expected(one: Graphs, support: NDArray[np.uint8], queries: NDArray[np.uint8], way: int) -> Any:
    loaded, rows = one.loaded, len(support)
    pixels, asked = (normalise(torch.from_numpy(each), loaded.manifest.input) for each in (support, queries))
    with torch.no_grad():
        examples = Examples(pixels, torch.arange(rows) % way, torch.ones(rows))
        task = loaded.learner.adapt(loaded.meta_params, examples, way=way)
        return loaded.learner.predict(loaded.meta_params, task, asked).numpy()


def assert_alike(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Logits, not probabilities: those of an untrained model are often 0 and 1, which hides differences."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_a_graph_answers_as_its_learner_for_every_size(name: str) -> None:
    one = graphs(name)
    sizes = [(4, 4, 1), (4, 9, 7)] if name == "fixed-way" else [(2, 2, 1), (5, 5, 3), (3, 17, 2), (8, 24, 9)]
    for seed, (way, rows, count) in enumerate(sizes):
        support, queries = images(seed, way, rows), images(seed + 100, way, count)
        found = answers(one, support, queries, way)
        assert found.shape == (count, way)
        assert_alike(found, expected(one, support, queries, way))


@pytest.mark.parametrize("name", ["sgd", "prototype"])
def test_rows_of_weight_0_change_nothing(name: str) -> None:
    support, queries = images(0, 4, 8), images(1, 4, 5)
    padded = answers(graphs(name), support, queries, 4, padding=3)
    assert_alike(padded, answers(graphs(name), support, queries, 4))


def test_blank_images_take_the_same_way_through_the_pooling() -> None:
    """Where all of a window is alike, the gradient goes to the first of it in torch, and must do so here."""
    one, support = graphs("sgd"), np.full((4, SIZE, SIZE, 1), 255, np.uint8)
    for row, image in enumerate(support):
        image[2 * row : 2 * row + 2, 3:7] = 0
    queries = np.ascontiguousarray(support[:, ::-1])
    assert_alike(answers(one, support, queries, 4), expected(one, support, queries, 4))


def test_a_graph_holds_no_weights_and_tells_what_it_costs() -> None:
    for file in (ADAPT, PREDICT):
        model = onnx.load_from_string(graphs("sgd").files[file])
        assert max(onnx.numpy_helper.to_array(each).size for each in model.graph.initializer) < 10
        about = {each.key: each.value for each in model.metadata_props}
        assert about[LAYOUT_KEY] == LAYOUT
        assert float(about[FLOPS]) > 1000
        assert about[FIXED_WAY] == ""
    fixed = onnx.load_from_string(graphs("fixed-way").files[ADAPT])
    assert {each.key: each.value for each in fixed.metadata_props}[FIXED_WAY] == "4"


def test_the_same_artifact_gives_the_same_bytes() -> None:
    assert make_graphs(untrained("prototype")) == graphs("prototype").files


def test_the_copy_is_the_artifact_with_graphs(tmp_path: Path) -> None:
    loaded = untrained("prototype")
    arrays = {name: values.numpy() for name, values in meta_to_arrays(loaded.meta_params).items()}
    manifest = save_artifact(tmp_path / "m" / "1", loaded.manifest, arrays, {"notes.txt": b"kept"})
    copy = load_artifact(export_onnx(tmp_path / "m" / "1", tmp_path / "copies"))
    assert copy.folder == tmp_path / "copies" / "m" / "1"
    assert manifest.files.items() < copy.manifest.files.items()
    assert copy.manifest.files.keys() - manifest.files.keys() == {ADAPT, PREDICT}
    assert copy.manifest.model_copy(update={"files": manifest.files}).digest == manifest.digest
    assert load(copy.folder).digest == copy.digest != manifest.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": [{"type": "adam", "rate": 0.1}]}, "sgd, lslr, meta_sgd, got adam"),
        ({"inner": [{"type": "proximal", "strength": 1.0}, *SGD]}, "got proximal"),
        ({"type": "gradient_regression", "head": {"type": "linear", "way": 1}}, "gradient or prototype learner"),
        ({"steps": 51}, "at most 50 inner steps, got 51"),
    ],
)
def test_what_has_no_graph_is_refused(changes: dict[str, Any], message: str) -> None:
    spec = LearnerSpec.model_validate({"type": "gradient", **CASES["sgd"], **changes})
    with pytest.raises(OnnxNotSupported, match=message):
        make_graphs(learner_of(spec))
