"""Artifacts: written whole, verified before use, and each way of being invalid its own error."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_tensors
from safetensors.torch import save as save_torch

from kshot_models import errors
from kshot_models.artifact import MANIFEST, TENSORS, list_artifacts, load_artifact, read_manifest, save_artifact
from kshot_models.load import load, meta_to_arrays
from kshot_models.manifest import LearnerSpec, Limits, Manifest
from kshot_models.registry import build_learner

from .conftest import INPUT

SPEC = LearnerSpec.model_validate(
    {"type": "prototype", "network": {"type": "mlp", "hidden": [6]}, "head": {"type": "prototype"}}
)
MANIFEST_OF = Manifest(name="small", version="1", learner=SPEC, input=INPUT, limits=Limits(max_way=5, max_support=25))


def arrays() -> dict[str, np.ndarray]:
    meta = build_learner(SPEC, INPUT).init(torch.Generator().manual_seed(0))
    return {name: leaf.numpy() for name, leaf in meta_to_arrays(meta).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "small" / "1"
    save_artifact(place, MANIFEST_OF, arrays())
    return place


def test_round_trip(folder: Path) -> None:
    artifact = load_artifact(folder)
    assert artifact.manifest.model_copy(update={"files": {}}) == MANIFEST_OF
    assert artifact.digest == read_manifest(folder).digest
    assert all(np.array_equal(artifact.arrays[name], array) for name, array in arrays().items())
    assert sorted(p.name for p in folder.parent.iterdir()) == ["1"], "no temporary folder is left"


def test_the_digest_names_the_content(folder: Path, tmp_path: Path) -> None:
    changed = arrays()
    changed["init/body.linear1.bias"] = changed["init/body.linear1.bias"] + 1
    other = save_artifact(tmp_path / "other", MANIFEST_OF, changed)
    again = save_artifact(tmp_path / "again", MANIFEST_OF, arrays())
    assert other.digest != again.digest == read_manifest(folder).digest


def test_half_precision_is_read_as_single(folder: Path) -> None:
    save_artifact(folder, MANIFEST_OF, {name: array.astype(np.float16) for name, array in arrays().items()})
    assert {array.dtype for array in load_artifact(folder).arrays.values()} == {np.dtype(np.float32)}


def test_further_files_are_kept_and_verified(folder: Path) -> None:
    save_artifact(folder, MANIFEST_OF, arrays(), {"onnx/adapt.onnx": b"graph"})
    assert (folder / "onnx" / "adapt.onnx").read_bytes() == b"graph"
    (folder / "onnx" / "adapt.onnx").write_bytes(b"other")
    with pytest.raises(errors.DigestMismatch, match="adapt"):
        load_artifact(folder)


def edit_manifest(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**raw, **changes}))


def with_tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        changed = arrays()
        change(changed)
        save_artifact(folder, MANIFEST_OF, changed)

    return spoil


def not_safetensors(folder: Path) -> None:
    (folder / TENSORS).write_bytes(b"\xff" * 64)
    edit_manifest(folder, files={TENSORS: hashlib.sha256(b"\xff" * 64).hexdigest()})


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(bytes(data))


WEIGHT = "init/body.linear1.weight"
SPOILS: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    ("no manifest", lambda f: (f / MANIFEST).unlink(), errors.ManifestInvalid, "manifest.json"),
    ("no json", lambda f: (f / MANIFEST).write_text("{"), errors.ManifestInvalid, "no JSON"),
    ("deep json", lambda f: (f / MANIFEST).write_text("[" * 200_000), errors.ManifestInvalid, "no JSON"),
    ("an array", lambda f: (f / MANIFEST).write_text("[]"), errors.ManifestInvalid, "the whole"),
    ("huge", lambda f: (f / MANIFEST).write_text(" " * (2 << 20)), errors.ManifestInvalid, "bytes"),
    ("unknown key", lambda f: edit_manifest(f, colour="red"), errors.ManifestInvalid, "colour"),
    ("path in a file name", lambda f: edit_manifest(f, files={"../x": "0" * 64}), errors.ManifestInvalid, "files"),
    ("absolute file name", lambda f: edit_manifest(f, files={"/x": "0" * 64}), errors.ManifestInvalid, "files"),
    ("no tensors named", lambda f: edit_manifest(f, files={}), errors.ManifestInvalid, TENSORS),
    ("newer", lambda f: edit_manifest(f, format=2), errors.FormatUnsupported, "format 2"),
    ("tensors gone", lambda f: (f / TENSORS).unlink(), errors.FileMissing, TENSORS),
    ("flipped bit", flip_a_bit, errors.DigestMismatch, "sha256"),
    ("cut", lambda f: os.truncate(f / TENSORS, 100), errors.DigestMismatch, "sha256"),
    ("no safetensors", not_safetensors, errors.TensorsUnreadable, TENSORS),
    ("missing", with_tensors(lambda a: a.pop(WEIGHT)), errors.TensorMissing, "body.linear1.weight"),
    ("unexpected", with_tensors(lambda a: a.update(x=np.zeros(1, np.float32))), errors.TensorUnexpected, "x"),
    ("shape", with_tensors(lambda a: a.update({WEIGHT: a[WEIGHT].T})), errors.TensorShapeMismatch, "144, 6"),
    ("integers", with_tensors(lambda a: a.update({WEIGHT: a[WEIGHT].astype(np.int32)})),
     errors.TensorDtypeUnsupported, "int32"),
    ("nan", with_tensors(lambda a: a[WEIGHT].fill(np.nan)), errors.TensorNotFinite, WEIGHT),
    ("unknown network", lambda f: edit_manifest(f, learner={**SPEC.model_dump(), "network": {"type": "os.system"}}),
     errors.SpecInvalid, "there are: conv4, encoder, mlp"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "message"), [row[1:] for row in SPOILS], ids=[row[0] for row in SPOILS])
def test_each_way_of_being_invalid(
    spoil: Callable[[Path], object], error: type[Exception], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(error, match=message):
        load(folder)


def test_a_name_that_is_not_there_lists_the_zoo() -> None:
    with pytest.raises(errors.ArtifactNotFound, match="zoo"):
        load("no-such-model")


def test_a_failed_write_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(folder).digest

    def full_disk(self: Path, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_artifact(folder, MANIFEST_OF, arrays())
    monkeypatch.undo()
    assert read_manifest(folder).digest == before
    assert [p.name for p in folder.parent.iterdir()] == ["1"]


def test_versions_are_listed_in_natural_order(tmp_path: Path) -> None:
    for version in ("10", "2", "1.9", "1.10"):
        save_artifact(tmp_path / "small" / version, MANIFEST_OF.model_copy(update={"version": version}), arrays())
    (tmp_path / "small" / ".3.tmp").mkdir()
    (tmp_path / "small" / ".3.tmp" / MANIFEST).write_text("{}")
    assert [p.name for p in list_artifacts(tmp_path)] == ["1.9", "1.10", "2", "10"]


def test_an_artifact_is_read_without_torch(folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from kshot_models.artifact import load_artifact
assert load_artifact(Path({str(folder)!r})).manifest.name == "small"
import kshot_models.pixels
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_bfloat16_is_refused_with_a_typed_error(folder: Path) -> None:
    save_artifact(folder, MANIFEST_OF, arrays())
    data = save_torch({name: torch.from_numpy(a).bfloat16() for name, a in arrays().items()})
    (folder / TENSORS).write_bytes(data)
    edit_manifest(folder, files={TENSORS: hashlib.sha256(data).hexdigest()})
    with pytest.raises((errors.TensorsUnreadable, errors.TensorDtypeUnsupported)):
        load(folder)
    assert save_tensors(arrays()) != data
