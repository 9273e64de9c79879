"""Artifacts on disk: a folder of manifest.json and meta_params.safetensors. Read and written with numpy alone.

    save_artifact    arrays -> sibling temporary folder -> rename      never half an artifact under its name
    load_artifact    manifest -> format -> digests -> tensors -> dtypes -> finiteness      before anything is built

A model repository is DIR/<name>/<version>/; the zoo that ships inside this package is one.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from kshot_models.errors import (
    ArtifactNotFound,
    DigestMismatch,
    FileMissing,
    FormatUnsupported,
    ManifestInvalid,
    NotALearner,
    NotAnOptimizer,
    TensorDtypeUnsupported,
    TensorNotFinite,
    TensorsUnreadable,
)
from kshot_models.manifest import ENCODER_NETWORK, FORMAT, Manifest, OptimizerManifest
from kshot_models.onnx_files import ENCODER
from kshot_models.onnx_session import check_self_contained
from kshot_models.synced_files import write_synced

__all__ = [
    "MANIFEST",
    "TENSORS",
    "AnyManifest",
    "Artifact",
    "holds_optimizer",
    "list_artifacts",
    "load_artifact",
    "load_optimizer_artifact",
    "read_file",
    "read_manifest",
    "read_optimizer_manifest",
    "save_artifact",
    "version_order",
    "zoo_folder",
]

MANIFEST = "manifest.json"
TENSORS = "meta_params.safetensors"
MAX_MANIFEST_BYTES = 1 << 20
AnyManifest = TypeVar("AnyManifest", Manifest, OptimizerManifest)
_DTYPES = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Artifact(Generic[AnyManifest]):
    """A verified artifact: `arrays` are keyed `init/NAME`, `inner/NAME` and `stats/NAME`, float32 (or float64)."""

    manifest: AnyManifest
    arrays: dict[str, NDArray[Any]]
    digest: str
    folder: Path


def zoo_folder() -> Path:
    """The model repository that ships with kshot."""
    return Path(__file__).parent / "zoo"


def save_artifact(
    folder: Path, manifest: AnyManifest, arrays: Mapping[str, NDArray[Any]], files: Mapping[str, bytes] | None = None
) -> AnyManifest:
    """Write an artifact so that it appears whole or not at all.

    Args:
        folder: where it will stand, e.g. DIR/<name>/<version>. An artifact that is there already is replaced.
        manifest: all but `files`, which is filled in here.
        arrays: tensors keyed `init/...`, `inner/...`, `stats/...`.
        files: further files by relative name, e.g. `onnx/adapt.onnx`.

    Returns:
        The manifest as written.
    """
    contents = {
        TENSORS: save_tensors({k: np.asarray(v, order="C") for k, v in sorted(arrays.items())}),
        **(files or {}),
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    written = manifest.model_copy(update={"files": digests})
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.tmp"
    try:
        for name, data in {**contents, MANIFEST: written.to_json().encode()}.items():
            write_synced(temporary / name, data)
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def _replace_folder(new: Path, folder: Path) -> None:
    old = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.old"
    if folder.exists():
        # A folder cannot be renamed over a filled one; a reader between the two renames finds nothing.
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest.json of a learner alone, not the files that it names.

    Raises:
        ArtifactNotFound: there is no such folder.
        ManifestInvalid: missing, too large, no JSON, or not of the schema.
        FormatUnsupported: of a newer format.
        NotALearner: it is the manifest of a learned optimizer.
    """
    raw = _read_json(folder)
    if _is_optimizer(raw):
        raise NotALearner(
            f"{folder / MANIFEST} is that of a learned optimizer, which gives no classes to answer with: "
            "load(...).as_torch_optimizer(params) trains a model of yours with it"
        )
    return _validated(folder, raw, Manifest)


def read_optimizer_manifest(folder: Path) -> OptimizerManifest:
    """The same of a learned optimizer.

    Raises:
        NotAnOptimizer: it is the manifest of a learner; else as `read_manifest`.
    """
    raw = _read_json(folder)
    if not _is_optimizer(raw):
        raise NotAnOptimizer(f"{folder / MANIFEST} is that of a learner: load(...) gives its adapt and predict")
    return _validated(folder, raw, OptimizerManifest)


def holds_optimizer(folder: Path) -> bool:
    """Whether an artifact says that it is an optimizer; raises as `read_manifest` where it says nothing."""
    return _is_optimizer(_read_json(folder))


def _is_optimizer(raw: Any) -> bool:
    return isinstance(raw, dict) and raw.get("kind") == "optimizer"


def _read_json(folder: Path) -> Any:
    if not folder.is_dir():
        raise ArtifactNotFound(f"expected an artifact folder at {folder}, found none; check the path or the name")
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestInvalid(f"expected {MANIFEST} in {folder}: {error}") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{path} has {len(text)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{path} is no JSON: {error}") from error


def _validated(folder: Path, raw: Any, model: type[AnyManifest]) -> AnyManifest:
    path = folder / MANIFEST
    if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] != FORMAT:
        raise FormatUnsupported(f"{path} is of format {raw['format']}, this version reads {FORMAT}; upgrade kshot")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ManifestInvalid(f"{path}: {where}: {first['msg']} ({error.error_count()} problems in all)") from error


def load_artifact(folder: Path) -> Artifact[Manifest]:
    """Read the artifact of a learner and verify every byte of it before it is used.

    Raises:
        ArtifactError: its subclass says which way of being invalid it is.
    """
    manifest = read_manifest(folder)
    embeds = manifest.learner.network.type == ENCODER_NETWORK
    if embeds and ENCODER not in manifest.files:
        raise FileMissing(f"{folder / MANIFEST} names no {ENCODER}, which a network of type {ENCODER_NETWORK!r} needs")
    return _loaded(folder, manifest)


def load_optimizer_artifact(folder: Path) -> Artifact[OptimizerManifest]:
    """The same for the artifact of a learned optimizer."""
    return _loaded(folder, read_optimizer_manifest(folder))


def _loaded(folder: Path, manifest: AnyManifest) -> Artifact[AnyManifest]:
    if TENSORS not in manifest.files:
        raise ManifestInvalid(f"{folder / MANIFEST}: files does not name {TENSORS}")
    contents = {name: _read_verified(folder, name, digest) for name, digest in manifest.files.items()}
    if ENCODER in contents:
        check_self_contained(contents[ENCODER], str(folder / ENCODER))
    try:
        arrays = load_tensors(contents[TENSORS])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TensorsUnreadable(f"{folder / TENSORS}: {error}") from error
    return Artifact(manifest, {name: _checked(folder, name, a) for name, a in arrays.items()}, manifest.digest, folder)


def read_file(artifact: Artifact[AnyManifest], name: str) -> bytes:
    """A further file of an artifact, such as `onnx/adapt.onnx`, verified anew: it may have changed on disk since.

    Raises:
        FileMissing: the manifest does not name it, or it cannot be read.
        DigestMismatch: it holds other bytes than the manifest vouches for.
    """
    if name not in artifact.manifest.files:
        raise FileMissing(f"{artifact.folder / MANIFEST} names no {name}")
    return _read_verified(artifact.folder, name, artifact.manifest.files[name])


def _read_verified(folder: Path, name: str, digest: str) -> bytes:
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileMissing(f"{folder / MANIFEST} names {name}, which cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise DigestMismatch(f"{path}: expected sha256 {digest}, found {found}; fetch the file anew")
    return data


def _checked(folder: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype not in _DTYPES:
        raise TensorDtypeUnsupported(f"{folder / TENSORS}: {name} is {array.dtype}, expected float16, 32 or 64")
    if not np.isfinite(array).all():
        raise TensorNotFinite(f"{folder / TENSORS}: {name} holds NaN or infinity")
    return array.astype(np.float32) if array.dtype == np.float16 else array


def list_artifacts(root: Path) -> list[Path]:
    """Folders of a model repository, DIR/<name>/<version>, oldest version of each name first (2 before 10).

    A folder counts when it holds a manifest.json; hidden ones (half-written) do not.
    """
    found = [
        p.parent
        for p in root.glob(f"*/*/{MANIFEST}")
        if not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]
    return sorted(found, key=lambda p: (p.parent.name, version_order(p.name)))


def version_order(version: str) -> list[tuple[bool, int, str]]:
    """A sort key of versions: numbers inside them count as numbers, so that 2 comes before 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", version)]
