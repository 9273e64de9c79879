"""Errors of kshot_models, one class for each way in which an artifact or a specification can be invalid.

ModelError
├── ArtifactError
│   ├── ArtifactNotFound      no such folder or name
│   ├── ManifestInvalid       manifest.json is missing, no JSON, or not of the schema
│   ├── FormatUnsupported     written by a newer kshot
│   ├── NotALearner           it is a learned optimizer, which adapts to no support set
│   ├── NotAnOptimizer        it has no update rule that fits any parameters
│   ├── FileMissing           the manifest names a file that is not there
│   ├── DigestMismatch        a file's bytes are not those that the manifest vouches for
│   ├── TensorsUnreadable     the tensor file is no valid safetensors
│   ├── TensorMissing         the learner needs a tensor that the file lacks
│   ├── TensorUnexpected      the file holds a tensor that the learner does not know
│   ├── TensorShapeMismatch   a tensor has another shape than the learner's
│   ├── TensorDtypeUnsupported
│   ├── TensorNotFinite       a tensor holds NaN or infinity
│   ├── GraphInvalid          an ONNX graph cannot be run, or is not what onnx_files.py says
│   ├── ExternalData          an ONNX graph stores tensors outside of its file
│   ├── EncoderInputMismatch  an encoder takes something else than the images of the manifest
│   ├── EncoderOutputMismatch an encoder gives something else than the features of the manifest
│   └── FeaturesNotFinite     an encoder's features hold NaN or infinity
├── RuntimeMissing            the artifact needs a package that is not installed
├── SpecInvalid               a learner specification names an unknown component or option
└── WayUnsupported            the head of this learner cannot answer for that many classes
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "ArtifactNotFound",
    "DigestMismatch",
    "EncoderInputMismatch",
    "EncoderOutputMismatch",
    "ExternalData",
    "FeaturesNotFinite",
    "FileMissing",
    "FormatUnsupported",
    "GraphInvalid",
    "ManifestInvalid",
    "ModelError",
    "NotALearner",
    "NotAnOptimizer",
    "RuntimeMissing",
    "SpecInvalid",
    "TensorDtypeUnsupported",
    "TensorMissing",
    "TensorNotFinite",
    "TensorShapeMismatch",
    "TensorUnexpected",
    "TensorsUnreadable",
    "WayUnsupported",
]


class ModelError(Exception):
    """Anything that kshot_models refuses."""


class ArtifactError(ModelError):
    """An artifact cannot be used."""


class ArtifactNotFound(ArtifactError):  # noqa: N818 - reads as the state it names, like the rest of the tree
    """There is no artifact at that place or of that name."""


class ManifestInvalid(ArtifactError):  # noqa: N818 - as above
    """manifest.json is missing, is no JSON, or does not follow the schema."""


class FormatUnsupported(ArtifactError):  # noqa: N818 - as above
    """The artifact was written in a format that this version does not read."""


class NotALearner(ArtifactError):  # noqa: N818 - as above
    """The artifact is a learned optimizer: there is nothing to adapt, to predict or to serve."""


class NotAnOptimizer(ArtifactError):  # noqa: N818 - as above
    """The artifact has no update rule, or one that is bound to the weights that it was learned with."""


class FileMissing(ArtifactError):  # noqa: N818 - as above
    """The manifest names a file that is not in the folder."""


class DigestMismatch(ArtifactError):  # noqa: N818 - as above
    """A file's SHA-256 is not the one in the manifest."""


class TensorsUnreadable(ArtifactError):  # noqa: N818 - as above
    """The tensor file is no valid safetensors file."""


class TensorMissing(ArtifactError):  # noqa: N818 - as above
    """The learner needs a tensor that the artifact does not hold."""


class TensorUnexpected(ArtifactError):  # noqa: N818 - as above
    """The artifact holds a tensor that its learner does not have."""


class TensorShapeMismatch(ArtifactError):  # noqa: N818 - as above
    """A tensor's shape is not the one that the learner needs."""


class TensorDtypeUnsupported(ArtifactError):  # noqa: N818 - as above
    """A tensor is stored in a dtype that artifacts do not use."""


class TensorNotFinite(ArtifactError):  # noqa: N818 - as above
    """A tensor holds NaN or infinity."""


class GraphInvalid(ArtifactError):  # noqa: N818 - as above
    """An ONNX graph cannot be run, or does not take or give what a graph of its name has to."""


class ExternalData(ArtifactError):  # noqa: N818 - as above
    """An ONNX graph names files or addresses outside of itself, for which no digest vouches."""


class EncoderInputMismatch(ArtifactError):  # noqa: N818 - as above
    """An encoder does not take the images of the manifest."""


class EncoderOutputMismatch(ArtifactError):  # noqa: N818 - as above
    """An encoder does not give the features of the manifest."""


class FeaturesNotFinite(ArtifactError):  # noqa: N818 - as above
    """An encoder's features hold NaN or infinity."""


class RuntimeMissing(ModelError):  # noqa: N818 - as above
    """What runs the artifact's graphs is not installed; the message names the extra."""


class SpecInvalid(ModelError):  # noqa: N818 - as above
    """A learner specification names a component or an option that does not exist."""


class WayUnsupported(ModelError):  # noqa: N818 - as above
    """The learner's head cannot answer for that number of classes."""
