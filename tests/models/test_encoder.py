"""Frozen encoders: an artifact with encoder.onnx, each way of being invalid its own error, answers as by hand."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.func import grad, vmap

from kshot_models import errors
from kshot_models.artifact import load_artifact, save_artifact
from kshot_models.costs import measure_costs
from kshot_models.encoder import Encoder
from kshot_models.learners import FrozenLearner
from kshot_models.load import LoadedLearner, from_artifact, load, normalise
from kshot_models.manifest import InputSpec, LearnerSpec, Limits, Manifest
from kshot_models.onnx_files import ENCODER
from kshot_models.registry import build_learner
from kshot_models.types import Examples, MetaParams, TaskParams

from ..without_torch import run_without_torch

INPUT = InputSpec(height=12, width=12, channels=1, mean=(0.4,), std=(0.3,))
NETWORK: dict[str, Any] = {"type": "encoder", "features": 6}
ANIL: dict[str, Any] = {
    "type": "gradient",
    "head": {"type": "prototype"},
    "inner": [{"type": "sgd", "rate": 0.5}],
    "steps": 3,
    "adapt": ["head.*"],
}
LEARNERS: dict[str, dict[str, Any]] = {
    "prototype": {"type": "prototype", "head": {"type": "prototype"}},
    "ridge": {"type": "ridge", "head": {"type": "ridge", "regularizer": 0.1, "scale": 4.0}},
    "matching": {"type": "matching", "head": {"type": "matching"}},
    "anil": ANIL,
    "anil-shared": {**ANIL, "head": {"type": "shared"}, "inner": [{"type": "sgd", "rate": 20.0}]},
}
MakeEncoder = Callable[..., bytes]


def spec_of(learner: dict[str, Any], **network: Any) -> LearnerSpec:
    return LearnerSpec.model_validate({"norm": "none", "network": {**NETWORK, **network}, **learner})


def write(folder: Path, data: bytes | None, learner: dict[str, Any] | None = None, **network: Any) -> Path:
    """An artifact of the small encoder, or of what is given for it."""
    spec = spec_of(learner or LEARNERS["prototype"], **network)
    manifest = Manifest(name="f", version="1", learner=spec, input=INPUT, limits=Limits(max_way=5, max_support=25))
    save_artifact(folder, manifest, head_arrays(spec), {} if data is None else {ENCODER: data})
    return folder


def head_arrays(spec: LearnerSpec) -> dict[str, np.ndarray]:
    head: dict[str, np.ndarray] = {}
    if spec.head.type == "ridge":
        head = {"log_regularizer": np.log(np.float32(0.1)), "log_scale": np.log(np.float32(4))}
    elif spec.head.type == "matching":
        head = {"log_scale": np.log(np.float32(10))}
    elif spec.head.type == "shared":
        head = {"weight": np.linspace(-0.1, 0.1, 6, dtype=np.float32), "bias": np.float32(0)}
    return {f"init/head.{name}": np.asarray(value, np.float32) for name, value in head.items()}


def episode(way: int = 3, shot: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and targets, by class."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 256, (way, 1, 12, 12, 1))
    pixels = np.clip(classes + random.integers(-60, 60, (way, shot, 12, 12, 1)), 0, 255)
    return pixels.astype(np.uint8).reshape(-1, 12, 12, 1), np.repeat(np.arange(way), shot)


def examples(pixels: np.ndarray, targets: np.ndarray, padding: int = 0) -> Examples:
    pixels = np.concatenate([pixels, np.zeros((padding, 12, 12, 1), np.uint8)])
    weights = torch.cat([torch.ones(len(targets)), torch.zeros(padding)])
    padded = torch.cat([torch.from_numpy(targets), torch.zeros(padding, dtype=torch.int64)])
    return Examples(normalise(torch.from_numpy(pixels), INPUT), padded, weights)


def by_hand(data: bytes, pixels: np.ndarray) -> np.ndarray:
    """Features of length 1, with nothing of ours."""
    images = ((pixels.astype(np.float64) / 255 - 0.4) / 0.3).astype(np.float32).transpose(0, 3, 1, 2)
    (raw,) = onnxruntime.InferenceSession(data).run(["embedding"], {"image": images})
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))


def answer(loaded: LoadedLearner, support: Examples, queries: torch.Tensor, way: int = 3) -> torch.Tensor:
    task = loaded.learner.adapt(loaded.meta_params, support, way=way)
    return loaded.learner.predict(loaded.meta_params, task, queries).softmax(-1)


def test_save_and_load_keep_every_byte(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    folder = write(tmp_path / "f" / "1", make_encoder())
    artifact = load_artifact(folder)
    assert (folder / ENCODER).read_bytes() == make_encoder()
    assert set(artifact.manifest.files) == {ENCODER, "meta_params.safetensors"}
    other = write(tmp_path / "other", make_encoder(seed=1))
    assert load_artifact(other).digest != artifact.digest


def test_prototypes_are_those_of_the_features(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    data = make_encoder()
    pixels, targets = episode()
    queries, labels = episode(seed=0, shot=5)
    features, asked = by_hand(data, pixels), by_hand(data, queries)
    centres = np.stack([features[targets == label].mean(0) for label in range(3)])
    logits = -((asked[:, None] - centres) ** 2).sum(2)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = answer(load(write(tmp_path / "f", data)), examples(pixels, targets), examples(queries, labels).inputs)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    assert (found.argmax(1).numpy() == labels).mean() > 0.6


@pytest.mark.parametrize(("tokens", "kept"), [("first", 0), ("mean", slice(None))])
def test_of_tokens_one_vector_is_kept(tmp_path: Path, make_encoder: MakeEncoder, tokens: str, kept: Any) -> None:
    data = make_encoder(tokens=4)
    artifact = load_artifact(write(tmp_path / "f", data, tokens=tokens, length="raw"))
    pixels = episode()[0]
    images = normalise(torch.from_numpy(pixels), INPUT).numpy()
    (raw,) = onnxruntime.InferenceSession(data).run(None, {"image": images})
    expected = raw[:, kept].mean(1) if tokens == "mean" else raw[:, kept]
    np.testing.assert_allclose(Encoder.read(artifact).of_pixels(pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("images", ["n", 1])
def test_many_images_are_cut_and_answered_as_alone(tmp_path: Path, make_encoder: MakeEncoder, images: Any) -> None:
    encoder = Encoder.read(load_artifact(write(tmp_path / "f", make_encoder(images=images))))
    pixels = episode(way=10, shot=9)[0]
    together, alone = encoder.of_pixels(pixels), np.concatenate([encoder.of_pixels(one[None]) for one in pixels])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_padding_and_company_change_nothing(tmp_path: Path, make_encoder: MakeEncoder, name: str) -> None:
    loaded = load(write(tmp_path / "f", make_encoder(), LEARNERS[name]))
    tasks = [episode(seed=seed) for seed in range(3)]
    queries = torch.stack([examples(*episode(seed=seed, shot=3)).inputs for seed in range(3)])
    alone = torch.stack([answer(loaded, examples(*task), asked) for task, asked in zip(tasks, queries, strict=True)])
    padded = [examples(*task, padding=2) for task in tasks]
    wider = torch.stack([answer(loaded, one, asked, way=4) for one, asked in zip(padded, queries, strict=True)])
    torch.testing.assert_close(wider[..., :3], alone, rtol=0, atol=1e-5)
    batch = Examples(*(torch.stack(parts) for parts in zip(*padded, strict=True)))
    together = vmap(lambda support, asked: answer(loaded, support, asked, way=4))(batch, queries)
    torch.testing.assert_close(together[..., :3], alone, rtol=0, atol=1e-5)
    assert (alone - 1 / 3).abs().max() > 0.01


def test_a_shared_argument_under_vmap_is_embedded_once(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    loaded = load(write(tmp_path / "f", make_encoder()))
    support, queries = examples(*episode()), examples(*episode(shot=4)).inputs
    task = loaded.learner.adapt(loaded.meta_params, support, way=3)
    tasks: TaskParams = {name: leaf.expand(2, *leaf.shape) for name, leaf in task.items()}
    found = vmap(lambda one: loaded.learner.predict(loaded.meta_params, one, queries))(tasks)
    torch.testing.assert_close(found[1], loaded.learner.predict(loaded.meta_params, task, queries))


def test_inner_steps_embed_once_and_the_body_does_not_move(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    loaded = load(write(tmp_path / "f", make_encoder(), ANIL))
    assert isinstance(loaded.learner, FrozenLearner)
    calls: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        assert isinstance(loaded.learner, FrozenLearner)
        return loaded.learner.embed(images)

    learner = dataclasses.replace(loaded.learner, embed=counted)
    support = examples(*episode())
    path = list(learner.trajectory(loaded.meta_params, support, way=3))
    assert calls == [6]
    assert len(path) == 4
    assert set(path[-1]) == {"weights.head.weight", "weights.head.bias", "present"}
    assert not torch.equal(path[0]["weights.head.weight"], path[-1]["weights.head.weight"])


def test_the_head_is_differentiable_and_the_images_are_not(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    loaded = load(write(tmp_path / "f", make_encoder(), LEARNERS["ridge"]))
    support, queries = examples(*episode()), examples(*episode(shot=3)).inputs

    def objective(init: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        task = loaded.learner.adapt(MetaParams(init, {}, {}), support._replace(inputs=inputs), way=3)
        return loaded.learner.predict(MetaParams(init, {}, {}), task, queries).square().sum()

    by_scale, by_pixels = grad(objective, argnums=(0, 1))(loaded.meta_params.init, support.inputs)
    value = objective(loaded.meta_params.init, support.inputs)
    torch.testing.assert_close(by_scale["head.log_scale"], 2 * value)  # logits are exp(log_scale) times something
    assert by_pixels.abs().max() == 0


def test_the_cost_counts_the_encoder(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    costs = [
        measure_costs(load(write(tmp_path / str(flops), make_encoder(), flops=flops)), "cpu") for flops in (0, 1e6)
    ]
    assert costs[0].predict == 144  # reading the image
    assert [costs[1].adapt, costs[1].predict] == pytest.approx([1e6, 1e6], rel=1e-3)


def test_it_has_an_update_rule_where_it_takes_steps(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    load(write(tmp_path / "a", make_encoder(), ANIL)).as_torch_optimizer([weight])
    with pytest.raises(errors.NotAnOptimizer):
        load(write(tmp_path / "p", make_encoder())).as_torch_optimizer([weight])


def external(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return bytes(model.SerializeToString())


def two_inputs(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("make", "network", "error", "message"),
    [
        (lambda make: b"no graph", {}, errors.GraphInvalid, "no ONNX model"),
        (lambda make: b"", {}, errors.GraphInvalid, r"encoder\.onnx"),
        (lambda make: external(make()), {}, errors.ExternalData, "outside of itself"),
        (lambda make: two_inputs(make()), {}, errors.EncoderInputMismatch, "one input.*image, mask"),
        (lambda make: make(channels=3), {}, errors.EncoderInputMismatch, "expected channels 1"),
        (lambda make: make(height=16), {}, errors.EncoderInputMismatch, "expected height 12"),
        (lambda make: make(width=16), {}, errors.EncoderInputMismatch, "expected width 12"),
        (lambda make: make(images=4), {}, errors.EncoderInputMismatch, "open number of images"),
        (lambda make: make(second_output=True), {}, errors.EncoderOutputMismatch, "one of the outputs embedding, flat"),
        (lambda make: make(), {"output": "tokens"}, errors.EncoderOutputMismatch, "got tokens"),
        (lambda make: make(), {"tokens": "all"}, errors.SpecInvalid, "'first' or 'mean'"),
        (lambda make: make(), {"features": 0}, errors.SpecInvalid, "network 'encoder'"),
        (lambda make: None, {}, errors.FileMissing, r"names no encoder\.onnx"),
    ],
)
def test_each_way_of_being_invalid_is_told(
    tmp_path: Path, make_encoder: MakeEncoder, make: Any, network: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder = write(tmp_path / "f", make(make_encoder), **network)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert type(caught.value) is error


def test_another_number_of_features_is_told_when_it_runs(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    loaded = load(write(tmp_path / "f", make_encoder(features=5)))
    with pytest.raises(errors.EncoderOutputMismatch, match=r"expected features \(6, 6\), got \(6, 5\)"):
        answer(loaded, examples(*episode()), examples(*episode()).inputs)


def test_a_flipped_byte_is_refused(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    folder = write(tmp_path / "f", make_encoder())
    artifact = load_artifact(folder)
    data = bytearray((folder / ENCODER).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / ENCODER).write_bytes(data)
    with pytest.raises(errors.DigestMismatch, match=r"encoder\.onnx"):
        load_artifact(folder)
    with pytest.raises(errors.DigestMismatch, match=r"encoder\.onnx"):
        from_artifact(artifact)  # verified anew, as it is read anew


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({**ANIL, "adapt": ["*"]}, r"expected adapt = \['head\.\*'\], got \['\*'\]"),
        ({**ANIL, "adapt": ["head.*", "body.*"]}, "change the head alone"),
        ({**ANIL, "type": "gradient_regression"}, "expected a learner of gradient, matching, prototype, ridge, snail"),
        ({**LEARNERS["prototype"], "norm": "support"}, "expected norm = 'none'"),
        ({**ANIL, "per_step_gains": True, "norm": "group"}, "expected norm = 'none'"),
    ],
)
def test_learners_that_need_more_than_features_are_refused(
    tmp_path: Path, make_encoder: MakeEncoder, learner: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.SpecInvalid, match=message):
        load(write(tmp_path / "f", make_encoder(), learner))


def test_a_specification_alone_makes_no_encoder() -> None:
    with pytest.raises(errors.SpecInvalid, match=r"made of an artifact's encoder\.onnx"):
        build_learner(spec_of(LEARNERS["prototype"]), INPUT)


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "f", make_encoder())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_artifact(folder).manifest.learner.network.type == "encoder"
    with pytest.raises(errors.RuntimeMissing, match=r"pip install 'kshot\[onnx\]'"):
        load(folder)


READS = """
from pathlib import Path
import numpy as np
from kshot_models.artifact import load_artifact
from kshot_models.encoder import Encoder
encoder = Encoder.read(load_artifact(Path(sys.argv[1])))
assert encoder.of_pixels(np.zeros((2, 12, 12, 1), np.uint8)).shape == (2, 6)
"""


def test_reading_it_needs_no_torch(tmp_path: Path, make_encoder: MakeEncoder) -> None:
    run_without_torch(READS, write(tmp_path / "f", make_encoder()))
