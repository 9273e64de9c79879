"""From a user's encoder to an artifact: nothing is trained, the head has what its options say.

encoder.onnx ──checked, run once──> features, cost ──head──> manifest, meta-parameters ──> DIR/NAME/VERSION
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import ValidationError

from kshot_models.artifact import save_artifact
from kshot_models.encoder import Encoder, EncoderOptions, ImageInput, Tokens, choose_output, image_input, pooled
from kshot_models.errors import FeaturesNotFinite
from kshot_models.load import LoadedLearner, meta_to_arrays
from kshot_models.manifest import ENCODER_NETWORK, InputSpec, LearnerSpec, Limits, Manifest, Provenance, ResizeFilter
from kshot_models.onnx_files import ENCODER
from kshot_models.onnx_session import open_session
from kshot_models.registry import build_learner
from kshot_training.encoder_flops import count_flops
from kshot_training.errors import EncoderSettingsError
from kshot_training.onnx_graphs.writing import make_graphs

__all__ = ["HEADS", "FrozenHead", "FrozenRequest", "HeadName", "PixelSettings", "export_frozen"]

HeadName = Literal["prototype", "ridge", "matching", "anil"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)

# What images are normalised by where nothing is said: ImageNet's figures, by which DINOv2 and most of torchvision were
# trained; grey images as they are.
_MEANS = {1: (0.0,), 3: (0.485, 0.456, 0.406)}
_STDS = {1: (1.0,), 3: (0.229, 0.224, 0.225)}
_SCALES = {"unit": 10.0, "raw": 1.0}
_PROBES = 2


@dataclass(frozen=True)
class FrozenHead:
    """What learns on the features.

    Args:
        name: `anil` takes inner steps from the prototypes on.
        scale: factor on the logits; None: 10 for features of length 1, else 1.
        regularizer: of `ridge`, in units of squared features.
        steps: inner steps of `anil`.
        rate: of these steps, on the mean loss.
    """

    name: HeadName
    scale: float | None = None
    regularizer: float = 1.0
    steps: int = 5
    rate: float = 1.0


@dataclass(frozen=True)
class PixelSettings:
    """How images become inputs, where the graph leaves it open.

    Args:
        size: height and width.
        channels: 1 or 3.
        mean: of each channel, of values from 0 to 1; None: ImageNet's, or 0 for one channel.
        std: likewise; None: ImageNet's, or 1 for one channel.
        resize: the filter.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: ResizeFilter = "bicubic"


@dataclass(frozen=True)
class FrozenRequest:
    """What to make of an encoder.

    Args:
        encoder: an ONNX file.
        name: of the artifact.
        version: of the artifact.
        head: what learns.
        pixels: how images become inputs.
        limits: the largest episode.
        output: the graph's output that holds the features; None where it has one.
        tokens: which vector of an output (n, tokens, features).
        length: see EncoderOptions.
        description: a sentence for those who choose a model.
    """

    encoder: Path
    name: str
    version: str
    head: FrozenHead
    pixels: PixelSettings
    limits: Limits
    output: str | None = None
    tokens: Tokens = "first"
    length: Literal["unit", "raw"] = "unit"
    description: str = ""


def export_frozen(request: FrozenRequest, repository: Path, *, graphs: bool = False) -> Path:
    """Write the artifact to `repository`/NAME/VERSION.

    Args:
        request: what to make.
        repository: a model repository.
        graphs: also the ONNX graphs of adapt and predict, by which a server without torch serves it.

    Returns:
        The artifact's folder.

    Raises:
        EncoderSettingsError: the request does not fit the encoder, or is no valid manifest.
        ModelError: the encoder cannot be used; its subclass says why.
        OnnxNotSupported: `graphs` of a head that has none.
    """
    data, where = _read(request.encoder), str(request.encoder)
    session = open_session(data, where, "cpu")
    spec = _input_spec(request.pixels, image_input(session, where))
    encoder = _measured(session, data, request, spec)
    manifest = _manifest(request, encoder, data)
    learner = build_learner(manifest.learner, spec, encoder)
    meta = learner.init(torch.Generator().manual_seed(0))
    meta.init["head.log_scale"] = torch.tensor(math.log(_scale(request)))
    files = {ENCODER: data}
    if graphs:
        files |= make_graphs(LoadedLearner(learner, meta, manifest, ""))
    target = repository / manifest.name / manifest.version
    save_artifact(target, manifest, {name: leaf.numpy() for name, leaf in meta_to_arrays(meta).items()}, files)
    return target


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EncoderSettingsError(f"expected an ONNX file as the encoder: {error}") from error


def _input_spec(wanted: PixelSettings, graph: ImageInput) -> InputSpec:
    channels = wanted.channels or graph.channels or 3
    height, width = wanted.size or (graph.height, graph.width)
    if height is None or width is None:
        raise EncoderSettingsError("the encoder takes images of any size: say by --size which it was trained for")
    found = (graph.channels or channels, graph.height or height, graph.width or width)
    if found != (channels, height, width):
        raise EncoderSettingsError(
            f"the encoder takes images of (channels, height, width) {found}, the settings say "
            f"{(channels, height, width)}"
        )
    fields = {
        "height": height,
        "width": width,
        "channels": channels,
        "mean": wanted.mean or _MEANS.get(channels, ()),
        "std": wanted.std or _STDS.get(channels, ()),
        "resize": wanted.resize,
    }
    try:
        return InputSpec.model_validate(fields)
    except ValidationError as error:
        raise EncoderSettingsError(f"input: {_first(error)}") from error


def _measured(session: Any, data: bytes, request: FrozenRequest, spec: InputSpec) -> Encoder:
    """The encoder with its number of features and its cost, found by running it on noise."""
    where = str(request.encoder)
    images, output = image_input(session, where), choose_output(session, request.output, where)
    noise = np.random.default_rng(0).standard_normal((1, spec.channels, spec.height, spec.width), np.float32)
    options = EncoderOptions(features=1, output=output, tokens=request.tokens, length=request.length)
    trial = Encoder.of(session, options, spec, where)
    features = pooled(trial.run(noise), request.tokens, where).shape[1]
    flops = count_flops(data, {images.name: noise}, where)
    options = options.model_copy(update={"features": features, "flops": flops})
    encoder = Encoder.of(session, options, spec, where)
    pixels = np.random.default_rng(0).integers(256, size=(_PROBES, spec.height, spec.width, spec.channels))
    if not np.isfinite(encoder.of_pixels(pixels.astype(np.uint8))).all():
        raise FeaturesNotFinite(f"{where}: its features of noise hold NaN or infinity")
    return encoder


def _manifest(request: FrozenRequest, encoder: Encoder, data: bytes) -> Manifest:
    network = {"type": ENCODER_NETWORK, **encoder.options.model_dump()}
    digest = hashlib.sha256(data).hexdigest()
    fields = {
        "name": request.name,
        "version": request.version,
        "description": request.description,
        "learner": _learner(request, network),
        "input": encoder.spec,
        "limits": request.limits,
        "provenance": Provenance(
            data=f"{request.encoder.name}, sha256 {digest}",
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    }
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise EncoderSettingsError(_first(error)) from error


def _learner(request: FrozenRequest, network: dict[str, Any]) -> LearnerSpec:
    head = request.head
    fields: dict[str, Any] = {"type": head.name, "network": network, "norm": "none"}
    if head.name == "anil":
        fields |= {
            "type": "gradient",
            "head": {"type": "prototype", "learned_scale": True},
            "inner": [{"type": "sgd", "rate": head.rate}],
            "steps": head.steps,
            "adapt": ["head.*"],
        }
    else:
        options: dict[HeadName, dict[str, Any]] = {
            "prototype": {"learned_scale": True},
            "ridge": {"regularizer": head.regularizer, "scale": _scale(request)},
            "matching": {"scale": _scale(request)},
        }
        fields["head"] = {"type": head.name, **options[head.name]}
    try:
        return LearnerSpec.model_validate(fields)
    except ValidationError as error:
        raise EncoderSettingsError(f"head: {_first(error)}") from error


def _scale(request: FrozenRequest) -> float:
    scale = _SCALES[request.length] if request.head.scale is None else request.head.scale
    if not 0 < scale < math.inf:
        raise EncoderSettingsError(f"expected a scale above 0, got {scale}")
    return scale


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'the whole'}: {found['msg']}"
