"""From an artifact to something that adapts, or that takes steps: needs torch.

load               a learner with its meta-parameters
load_optimizer     a learned update rule
load_any           whichever it is; `from kshot_models import load` is this one
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from kshot_models.artifact import (
    MANIFEST,
    TENSORS,
    Artifact,
    holds_optimizer,
    list_artifacts,
    load_artifact,
    load_optimizer_artifact,
    zoo_folder,
)
from kshot_models.encoder import Encoder
from kshot_models.errors import (
    ArtifactNotFound,
    NotAnOptimizer,
    TensorMissing,
    TensorShapeMismatch,
    TensorUnexpected,
)
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.learners import FrozenLearner, GradientLearner
from kshot_models.manifest import ENCODER_NETWORK, InputSpec, Manifest, OptimizerManifest
from kshot_models.registry import build_inner_optimizer, build_learner
from kshot_models.torch_optimizer import LearnedOptimizer
from kshot_models.tree import prefixed, under
from kshot_models.types import Learner, MetaParams, Params

__all__ = [
    "LoadedLearner",
    "LoadedOptimizer",
    "from_artifact",
    "load",
    "load_any",
    "load_optimizer",
    "meta_from_arrays",
    "meta_to_arrays",
    "normalise",
    "normalise_by",
    "resolve",
    "scale_of",
]

_PARTS = ("init/", "inner/", "stats/")


class LoadedLearner(NamedTuple):
    """A learner with its meta-parameters."""

    learner: Learner
    meta_params: MetaParams
    manifest: Manifest
    digest: str

    def as_torch_optimizer(self, params: ParamsT, *, lr: float = 1.0) -> LearnedOptimizer:
        """The learner's inner optimizer as a torch.optim.Optimizer over `params`; see LearnedOptimizer.

        Raises:
            NotAnOptimizer: it has none, or one that is bound to the weights that it was learned with.
        """
        learner = self.learner.features if isinstance(self.learner, FrozenLearner) else self.learner
        if not isinstance(learner, GradientLearner):
            raise NotAnOptimizer(f"{self.manifest.name} takes no inner steps, so it has no update rule")
        return LearnedOptimizer(learner.inner, self.meta_params.inner, params, lr=lr)


class LoadedOptimizer(NamedTuple):
    """A learned update rule."""

    rule: InnerOptimizer
    phi: Params  # what it learned
    manifest: OptimizerManifest
    digest: str

    def as_torch_optimizer(self, params: ParamsT, *, lr: float = 1.0) -> LearnedOptimizer:
        """A torch.optim.Optimizer over `params`; see LearnedOptimizer."""
        return LearnedOptimizer(self.rule, self.phi, params, lr=lr)


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
        ArtifactError: its subclass says what is wrong with the files; NotALearner where they hold an optimizer.
        SpecInvalid: the manifest names components that do not exist.
    """
    return from_artifact(load_artifact(resolve(name_or_folder)), device=device, dtype=dtype)


def load_optimizer(
    name_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedOptimizer:
    """Load and verify the artifact of a learned optimizer; arguments as those of `load`.

    Raises:
        ArtifactError: its subclass says what is wrong with the files; NotAnOptimizer where they hold a learner.
        SpecInvalid: the manifest names components that do not exist.
    """
    artifact = load_optimizer_artifact(resolve(name_or_folder))
    rule = build_inner_optimizer(artifact.manifest.optimizer)
    fresh = rule.init({"parameter": torch.zeros(1)}, torch.Generator().manual_seed(0))
    meta = meta_from_arrays(
        {name: torch.from_numpy(array).to(device, dtype) for name, array in artifact.arrays.items()},
        like=MetaParams({}, fresh, {}),
        where=str(artifact.folder / TENSORS),
    )
    return LoadedOptimizer(rule, meta.inner, artifact.manifest, artifact.digest)


def load_any(
    name_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedLearner | LoadedOptimizer:
    """Load whatever the artifact is; both kinds have `as_torch_optimizer`."""
    folder = resolve(name_or_folder)
    if holds_optimizer(folder):
        return load_optimizer(folder, device=device, dtype=dtype)
    return load(folder, device=device, dtype=dtype)


def from_artifact(
    artifact: Artifact[Manifest], *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedLearner:
    """Build the learner of an artifact that is in memory; its encoder, if it has one, is read from its folder."""
    spec = artifact.manifest.learner
    encoder = Encoder.read(artifact, str(device)) if spec.network.type == ENCODER_NETWORK else None
    learner = build_learner(spec, artifact.manifest.input, encoder)
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
    return normalise_by(pixels, *scale_of(spec, pixels.device, dtype))


def scale_of(spec: InputSpec, device: str | torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of an input, (channels,), on a device."""
    return torch.tensor(spec.mean, dtype=dtype, device=device), torch.tensor(spec.std, dtype=dtype, device=device)


def normalise_by(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """As `normalise`, by what `scale_of` gave: nothing is copied to the device."""
    return ((pixels.to(mean.dtype) / 255 - mean) / std).movedim(-1, -3)


class _CallableModule(ModuleType):
    """This module, called: once it is imported, it is what the name `load` of the package stands for."""

    def __call__(
        self, name_or_folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> LoadedLearner | LoadedOptimizer:
        return load_any(name_or_folder, device=device, dtype=dtype)


# `from kshot_models import load` must not import torch into processes that read manifests only, so the package cannot
# hold the function itself; what Python finds there is this module.
sys.modules[__name__].__class__ = _CallableModule
