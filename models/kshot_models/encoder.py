"""A frozen encoder: `encoder.onnx` of an artifact, which makes the features that its learner learns on. No torch here.

    normalised images (n, channels, height, width) float32
        ──encoder.onnx──> (n, features), or (n, tokens, features) of which `tokens` keeps one vector
        ──length────────> (n, features) float32

The network component of its manifest is {"type": "encoder", "features": 384, ...}, with the options of EncoderOptions
and norm "none". The learner is one that needs features only: prototype, ridge, matching, snail, or a gradient learner
with adapt = ["head.*"] (ANIL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kshot_models.artifact import Artifact, read_file
from kshot_models.errors import (
    EncoderInputMismatch,
    EncoderOutputMismatch,
    GraphInvalid,
    SpecInvalid,
)
from kshot_models.manifest import InputSpec, Manifest
from kshot_models.onnx_files import ENCODER
from kshot_models.onnx_session import open_session

__all__ = ["Encoder", "EncoderOptions", "ImageInput", "Tokens", "choose_output", "image_input", "pooled"]

_IMAGES_AT_ONCE = 32  # bounds the memory of activations
Array: TypeAlias = NDArray[np.float32]
Tokens = Literal["first", "mean"]


class EncoderOptions(BaseModel):
    """Options of the network component `encoder`.

    `features` is the size of an embedding. `output` names the graph's output; it may be left out where there is one.
    Of an output (n, tokens, features), `tokens` keeps the first (the class token of ViT, DINOv2 and CLIP) or the mean
    of all. `length` "unit" divides each embedding by its length, so that rates, regularizers and scales mean the same
    for any encoder. `flops` is the cost of one image, in floating-point operations; the scheduler fills batches by it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Annotated[int, Field(ge=1, le=1 << 16)]
    output: str | None = None
    tokens: Tokens = "first"
    length: Literal["unit", "raw"] = "unit"
    flops: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0


@dataclass(frozen=True)
class ImageInput:
    """The one input of an encoder; None where any size will do."""

    name: str
    images: int | None
    channels: int | None
    height: int | None
    width: int | None


def image_input(session: Any, where: str) -> ImageInput:
    """The input of an encoder.

    Raises:
        EncoderInputMismatch: it is not one float32 tensor (n, channels, height, width) with n open or 1.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise EncoderInputMismatch(f"{where}: expected one input, the images; got {names}")
    (images,) = inputs
    sizes = [size if isinstance(size, int) else None for size in images.shape]
    if images.type != "tensor(float)" or len(sizes) != 4:
        raise EncoderInputMismatch(
            f"{where}: expected float32 images (n, channels, height, width), got {images.name}: {images.type} "
            f"{images.shape}"
        )
    if sizes[0] not in {None, 1}:
        raise EncoderInputMismatch(
            f"{where}: expected an open number of images, or 1, got {sizes[0]}; export it with a dynamic batch axis"
        )
    return ImageInput(images.name, *sizes)


def choose_output(session: Any, wanted: str | None, where: str) -> str:
    """The name of the output that holds the features.

    Raises:
        EncoderOutputMismatch: there is none of that name, or several and no name.
    """
    names = [each.name for each in session.get_outputs()]
    if wanted is None and len(names) == 1:
        return str(names[0])
    if wanted not in names:
        raise EncoderOutputMismatch(f"{where}: expected one of the outputs {', '.join(names)}, got {wanted}")
    return str(wanted)


def pooled(raw: NDArray[Any], tokens: Tokens, where: str) -> Array:
    """(n, features), from what the graph gave: that, or (n, tokens, features).

    Raises:
        EncoderOutputMismatch: it has another number of axes, or is not float32.
    """
    if raw.dtype != np.float32 or raw.ndim not in {2, 3} or 0 in raw.shape:
        raise EncoderOutputMismatch(
            f"{where}: expected float32 (n, features) or (n, tokens, features), got {raw.dtype} {raw.shape}"
        )
    if raw.ndim == 2:
        return raw
    kept: Array = raw[:, 0] if tokens == "first" else raw.mean(1)
    return kept


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder that is ready to run; may be called from several threads at once."""

    session: Any  # onnxruntime.InferenceSession
    input: ImageInput
    output: str
    options: EncoderOptions
    spec: InputSpec
    where: str

    @classmethod
    def read(cls, artifact: Artifact[Manifest], device: str = "cpu") -> Encoder:
        """Make the encoder of an artifact ready on a device.

        Raises:
            SpecInvalid: the options of the network component are wrong.
            FileMissing, DigestMismatch, ExternalData, GraphInvalid: the file cannot be used.
            EncoderInputMismatch, EncoderOutputMismatch: it takes or gives something else than the manifest says.
            RuntimeMissing: onnxruntime is not installed.
        """
        try:
            options = EncoderOptions.model_validate(artifact.manifest.learner.network.options)
        except ValidationError as error:
            raise SpecInvalid(f"network 'encoder': {error.errors(include_input=False)[0]['msg']}") from error
        where = str(artifact.folder / ENCODER)
        session = open_session(read_file(artifact, ENCODER), where, device)
        return cls.of(session, options, artifact.manifest.input, where)

    @classmethod
    def of(cls, session: Any, options: EncoderOptions, spec: InputSpec, where: str) -> Encoder:
        """Check an open session against the options and the input of a manifest; raises as `read`."""
        images = image_input(session, where)
        for axis in ("channels", "height", "width"):
            if getattr(images, axis) not in {None, getattr(spec, axis)}:
                raise EncoderInputMismatch(
                    f"{where}: expected {axis} {getattr(spec, axis)}, as in the manifest's input, "
                    f"got {getattr(images, axis)}"
                )
        return cls(session, images, choose_output(session, options.output, where), options, spec, where)

    def __call__(self, inputs: Array) -> Array:
        """Normalised images (n, channels, height, width) -> features (n, features).

        Raises:
            GraphInvalid: the graph fails on them.
            EncoderOutputMismatch: it gives another number of features than the manifest says.
        """
        at_once = self.input.images or _IMAGES_AT_ONCE
        parts = [self._embed(inputs[start : start + at_once]) for start in range(0, len(inputs), at_once)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Array:
        """Pixels (n, height, width, channels) -> features (n, features)."""
        mean, std = (np.asarray(values, np.float32) for values in (self.spec.mean, self.spec.std))
        return self(np.moveaxis((pixels.astype(np.float32) / np.float32(255) - mean) / std, -1, -3))

    def run(self, inputs: Array) -> NDArray[Any]:
        """What the graph gives of normalised images, as it is; raises GraphInvalid if it fails on them."""
        try:
            (raw,) = self.session.run([self.output], {self.input.name: np.ascontiguousarray(inputs, np.float32)})
        except Exception as error:  # ONNX Runtime's errors have no class in common
            raise GraphInvalid(f"{self.where}: {error}") from error
        found: NDArray[Any] = np.asarray(raw)
        return found

    def _embed(self, inputs: Array) -> Array:
        features = pooled(self.run(inputs), self.options.tokens, self.where)
        if features.shape != (len(inputs), self.options.features):
            raise EncoderOutputMismatch(
                f"{self.where}: expected features {(len(inputs), self.options.features)}, got {features.shape}"
            )
        if self.options.length == "raw":
            return features
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        unit: Array = features / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit
