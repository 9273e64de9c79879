"""From an artifact to something that adapts: needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.artifact import MANIFEST, TENSORS, Artifact, list_artifacts, load_artifact, zoo_folder
from kshot_models.errors import ArtifactNotFound, TensorMissing, TensorShapeMismatch, TensorUnexpected
from kshot_models.manifest import InputSpec, Manifest
from kshot_models.registry import build_learner
from kshot_models.tree import prefixed, under
from kshot_models.types import Learner, MetaParams, Params

__all__ = ["LoadedLearner", "from_artifact", "load", "meta_from_arrays", "meta_to_arrays", "normalise", "resolve"]

_PARTS = ("init/", "inner/", "stats/")


class LoadedLearner(NamedTuple):
    """A learner with its meta-parameters."""

    learner: Learner
    meta_params: MetaParams
    manifest: Manifest
    digest: str


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of an artifact, given that folder or a name in the zoo (`omniglot`: the newest; `omniglot@1`).

    Raises:
        ArtifactNotFound: neither is there; the message lists the zoo.
    """
    folder = Path(name_or_folder)
    if (folder / MANIFEST).is_file() or (folder.is_dir() and len(folder.parts) > 1):
        return folder  # a path without a manifest is a broken artifact, not a name
    name, _, version = str(name_or_folder).partition("@")
    shipped = list_artifacts(zoo_folder())
    found = [p for p in shipped if p.parent.name == name and version in {"", p.name}]
    if not found:
        names = ", ".join(sorted({p.parent.name for p in shipped})) or "nothing"
        raise ArtifactNotFound(
            f"expected an artifact folder or a name in the zoo ({names}), got {str(name_or_folder)!r}"
        )
    return found[-1]


def load(
    name_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedLearner:
    """Load and verify an artifact.

    Args:
        name_or_folder: an artifact folder, or a name in the zoo.
        device: where the meta-parameters go.
        dtype: of the meta-parameters.

    Raises:
        ArtifactError: its subclass says what is wrong with the files.
        SpecInvalid: the manifest names components that do not exist.
    """
    return from_artifact(load_artifact(resolve(name_or_folder)), device=device, dtype=dtype)


def from_artifact(
    artifact: Artifact, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedLearner:
    """Build the learner of an artifact that is in memory."""
    learner = build_learner(artifact.manifest.learner, artifact.manifest.input)
    meta = meta_from_arrays(
        {name: torch.from_numpy(array).to(device, dtype) for name, array in artifact.arrays.items()},
        like=learner.init(torch.Generator().manual_seed(0)),
        where=str(artifact.folder / TENSORS),
    )
    return LoadedLearner(learner, meta, artifact.manifest, artifact.digest)


def meta_to_arrays(meta: MetaParams) -> Params:
    """Flat tensors as an artifact names them: `init/...`, `inner/...`, `stats/...`."""
    return {name: leaf for part, tree in zip(_PARTS, meta, strict=True) for name, leaf in prefixed(part, tree).items()}


def meta_from_arrays(arrays: Params, *, like: MetaParams, where: str) -> MetaParams:
    """The inverse of meta_to_arrays, checked against the names and shapes of `like`.

    Raises:
        TensorMissing, TensorUnexpected, TensorShapeMismatch: naming the tensor and `where` it stands.
    """
    expected = meta_to_arrays(like)
    if missing := sorted(expected.keys() - arrays.keys()):
        raise TensorMissing(f"{where}: the learner needs {', '.join(missing)}")
    if unexpected := sorted(arrays.keys() - expected.keys()):
        raise TensorUnexpected(f"{where}: the learner has no {', '.join(unexpected)}")
    for name, leaf in expected.items():
        if arrays[name].shape != leaf.shape:
            raise TensorShapeMismatch(f"{where}: {name}: expected {tuple(leaf.shape)}, got {tuple(arrays[name].shape)}")
    return MetaParams(*(under(part, arrays) for part in _PARTS))


def normalise(pixels: Tensor, spec: InputSpec, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (..., height, width, channels) -> (value / 255 - mean) / std, (..., channels, height, width)."""
    mean = torch.tensor(spec.mean, dtype=dtype, device=pixels.device)
    std = torch.tensor(spec.std, dtype=dtype, device=pixels.device)
    return ((pixels.to(dtype) / 255 - mean) / std).movedim(-1, -3)
