"""`kshot export --encoder`: what it writes, what it measures, and what it refuses."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kshot_models.artifact import load_artifact
from kshot_models.encoder import EncoderOptions
from kshot_models.errors import EncoderOutputMismatch, FeaturesNotFinite
from kshot_models.load import load
from kshot_models.manifest import Component, Limits
from kshot_models.onnx_files import ADAPT, ENCODER, PREDICT
from kshot_training.commands import export
from kshot_training.encoder_flops import count_flops
from kshot_training.errors import EncoderSettingsError
from kshot_training.frozen import HEADS, FrozenHead, FrozenRequest, PixelSettings, export_frozen

# The small encoder: 3 filters of 3 x 3 on 6 x 6 places, and a product of 3 with 6.
FLOPS = 2 * (3 * 6 * 6 * 9 + 3 * 6)


@pytest.fixture
def encoder(tmp_path: Path, make_encoder: Callable[..., bytes]) -> Callable[..., Path]:
    """A function that writes an encoder and says where."""

    def write(**options: Any) -> Path:
        path = tmp_path / "Tiny.onnx"
        path.write_bytes(make_encoder(**options))
        return path

    return write


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    export.configure(parser)
    return export.run(parser.parse_args([str(each) for each in arguments]))


@pytest.mark.parametrize("head", HEADS)
def test_each_head_is_an_artifact_that_loads(encoder: Callable[..., Path], tmp_path: Path, head: str) -> None:
    assert run("--encoder", encoder(), "--head", head, "--out", tmp_path / "models", "--scale", 7) == 0
    loaded = load(tmp_path / "models" / "tiny" / "1")
    manifest = loaded.manifest
    assert manifest.learner.network == Component(
        type="encoder", features=6, output="embedding", tokens="first", length="unit", flops=float(FLOPS)
    )
    assert manifest.limits == Limits(max_way=50, max_support=250, max_queries=256)
    assert (manifest.input.height, manifest.input.width, manifest.input.channels) == (12, 12, 1)
    assert (manifest.input.mean, manifest.input.std) == ((0.0,), (1.0,))
    assert float(loaded.meta_params.init["head.log_scale"]) == pytest.approx(math.log(7))
    assert manifest.provenance.data.startswith("Tiny.onnx, sha256 ")


def test_it_says_what_it_wrote(
    encoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = encoder(channels=3)
    options = ("--name", "mine", "--version", "2", "--description", "Shelves.", "--onnx", "--length", "raw")
    pixels = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2", "--resize", "box")
    assert run("--encoder", path, "--out", tmp_path / "models", *options, *pixels) == 0
    folder = tmp_path / "models" / "mine" / "2"
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        str(folder / name) for name in (ENCODER, ADAPT, PREDICT)
    ]
    manifest = load_artifact(folder).manifest
    assert {ENCODER, ADAPT, PREDICT} < manifest.files.keys()
    assert manifest.description == "Shelves."
    assert (manifest.input.mean, manifest.input.resize) == ((0.5, 0.4, 0.3), "box")
    assert (folder / ENCODER).read_bytes() == path.read_bytes()
    assert float(load(folder).meta_params.init["head.log_scale"]) == 0  # lengths are as they are, so is the scale


def test_an_encoder_of_any_size_is_told_its_size(encoder: Callable[..., Path], tmp_path: Path) -> None:
    path = encoder(height="h", width="w", channels=3)
    assert run("--encoder", path, "--out", tmp_path / "models", "--size", "10x14") == 0
    spec = load_artifact(tmp_path / "models" / "tiny" / "1").manifest.input
    assert (spec.height, spec.width, spec.channels, spec.mean) == (10, 14, 3, (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"height": "h"}, (), "say by --size"),
        ({}, ("--size", "16"), r"takes images of \(channels, height, width\) \(1, 12, 12\), the settings say"),
        ({}, ("--channels", "3"), r"say \(3, 12, 12\)"),
        ({"channels": 4}, (), "channels"),
        ({}, ("--mean", "0.5,0.5"), "mean has 2 values for 1 channels"),
        ({}, ("--name", "Not A Name"), "name"),
        ({}, ("--scale", "0"), "expected a scale above 0"),
        ({}, ("--head", "ridge", "--regularizer", "0"), "must be above 0"),
        ({}, ("--head", "anil", "--steps", "-1"), "steps"),
        ({}, ("--max-way", "1"), "limits: max_way"),
        ({}, ("--output", "logits"), "one of the outputs embedding, got logits"),
        ({"second_output": True}, (), "one of the outputs embedding, flat"),
        ({"images": 8}, (), "open number of images, or 1, got 8"),
        ({"weights": math.nan}, (), "NaN or infinity"),
        ({}, ("--head", "ridge", "--onnx"), "'ridge', which has no ONNX graph"),
        ({}, ("omniglot",), "expected an artifact or --encoder"),
    ],
)
def test_what_does_not_fit_is_one_line_and_2(
    encoder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run("--encoder", encoder(**options), "--out", tmp_path / "models", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.match(rf"kshot export: .*{message}", line), line
    assert not (tmp_path / "models").exists()


def test_no_file_and_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--encoder", tmp_path / "none.onnx", "--out", tmp_path / "models") == 2
    assert "expected an ONNX file as the encoder" in capsys.readouterr().err
    for arguments in ((), ("omniglot",), ("--onnx",)):
        assert run(*arguments) == 2
        assert "expected ARTIFACT --onnx, or --encoder FILE" in capsys.readouterr().err


def request_of(path: Path) -> FrozenRequest:
    return FrozenRequest(
        path, "tiny", "1", FrozenHead("prototype"), PixelSettings(), Limits(max_way=5, max_support=25, max_queries=9)
    )


def test_errors_have_types(encoder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FeaturesNotFinite):
        export_frozen(request_of(encoder(weights=math.inf)), tmp_path)
    with pytest.raises(EncoderSettingsError):
        export_frozen(request_of(tmp_path / "none"), tmp_path)
    maps = onnx.load(encoder())
    del maps.graph.output[:]
    maps.graph.output.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, ["n", 3, 6, 6]))
    onnx.save(maps, tmp_path / "maps.onnx")
    with pytest.raises(EncoderOutputMismatch, match=r"\(n, features\) or \(n, tokens, features\), got float32 \(1, 3"):
        export_frozen(request_of(tmp_path / "maps.onnx"), tmp_path)


def test_features_of_tokens_are_counted_by_running(encoder: Callable[..., Path], tmp_path: Path) -> None:
    assert run("--encoder", encoder(tokens=4), "--tokens", "mean", "--out", tmp_path) == 0
    options = EncoderOptions.model_validate(load_artifact(tmp_path / "tiny" / "1").manifest.learner.network.options)
    assert (options.features, options.tokens) == (6, "mean")


def test_the_cost_of_each_operation() -> None:
    """By the shapes: Gemm turned or not, a transposed convolution, products with axes in front."""
    rows = {
        "Gemm": (["a", "b"], {"transA": 1}, {"a": (4, 2), "b": (4, 3)}, 2 * 2 * 3 * 4),
        "MatMul": (["a", "b"], {}, {"a": (5, 2, 4), "b": (4, 3)}, 2 * 5 * 2 * 3 * 4),
        "Conv": (["a", "b"], {}, {"a": (1, 2, 5, 5), "b": (3, 2, 3, 3)}, 2 * 3 * 9 * 2 * 9),
        "ConvTranspose": (["a", "b"], {}, {"a": (1, 2, 5, 5), "b": (2, 3, 3, 3)}, 2 * 2 * 25 * 3 * 9),
        "Add": (["a", "b"], {}, {"a": (2,), "b": (2,)}, 0),
    }
    for operation, (inputs, attributes, shapes, expected) in rows.items():
        node = helper.make_node(operation, inputs, ["out"], **attributes)
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "one", given, [out])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        feed = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        assert count_flops(model.SerializeToString(), feed, "here") == expected, operation
