from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot_models.artifact import save_artifact
from kshot_models.errors import TensorMissing
from kshot_models.manifest import Component, LearnerSpec, OptimizerManifest
from kshot_server.engine.repository import ModelNotFound, ModelRepository

WriteModel = Callable[..., object]


def always_looking(*roots: Path, **options: bool) -> ModelRepository:
    return ModelRepository(roots, rescan_seconds=0, **options)


def test_a_reference_is_the_newest_version_or_a_named_one(tmp_path: Path, write_model: WriteModel) -> None:
    for version in ("2", "10", "9", "1.0-rc"):
        write_model(tmp_path, "gradient", version)
    models = ModelRepository([tmp_path])
    assert models.find("gradient").version == "10"
    assert models.find("gradient@9").version == "9"
    assert models.versions("gradient") == ("1.0-rc", "2", "9", "10")
    assert models.versions("nothing") == ()
    for unknown in ("nothing", "gradient@3", "gradient@", ""):
        with pytest.raises(ModelNotFound):
            models.find(unknown)


def test_list_has_the_newest_of_each_by_name(tmp_path: Path, write_model: WriteModel) -> None:
    for name, version in (("prototype", "1"), ("gradient", "1"), ("gradient", "2")):
        write_model(tmp_path, name, version)
    models = ModelRepository([tmp_path])
    assert [(entry.name, entry.version) for entry in models.list()] == [("gradient", "2"), ("prototype", "1")]


def test_a_new_version_is_picked_up_and_the_old_one_stays_known(tmp_path: Path, write_model: WriteModel) -> None:
    models = always_looking(tmp_path / "later")
    assert models.list() == ()
    write_model(tmp_path / "later", "gradient", "1")
    old = models.find("gradient")
    write_model(tmp_path / "later", "gradient", "2")
    assert models.find("gradient").version == "2"
    assert models.at(old.digest) == old
    shutil.rmtree(old.folder)
    assert models.versions("gradient") == ("2",)
    assert models.at(old.digest) == old


def test_an_unknown_name_is_looked_for_at_once(tmp_path: Path, write_model: WriteModel) -> None:
    models = ModelRepository([tmp_path], rescan_seconds=3600)
    assert models.list() == ()
    write_model(tmp_path, "gradient", "1")
    assert models.find("gradient").version == "1"
    manifest = write_model(tmp_path, "gradient", "2")
    assert models.find("gradient").version == "1"
    assert models.at(manifest.digest).version == "2"  # type: ignore[attr-defined] - write_model's type is the conftest's


def test_a_broken_version_is_logged_once_and_hides_nothing(
    tmp_path: Path, write_model: WriteModel, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "2"):
        write_model(tmp_path, "gradient", version)
    tensors = tmp_path / "gradient" / "2" / "meta_params.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    models = always_looking(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert models.find("gradient").version == "1"
        assert models.find("gradient").version == "1"
    assert len(caplog.records) == 1
    (refused,) = models.refused
    assert (refused.folder, refused.code) == (tmp_path / "gradient" / "2", "broken")
    assert "sha256" in refused.reason
    write_model(tmp_path, "gradient", "2")
    assert models.find("gradient").version == "2"
    assert models.refused == ()


def test_a_folder_must_have_the_name_that_the_manifest_has(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path, "gradient", "1")
    (tmp_path / "gradient" / "1").rename(tmp_path / "gradient" / "3")
    models = ModelRepository([tmp_path])
    assert models.list() == ()
    assert "gradient/1" in models.refused[0].reason


def test_transductive_models_are_refused_unless_allowed(
    tmp_path: Path, write_model: WriteModel, specs: dict[str, LearnerSpec]
) -> None:
    write_model(tmp_path, "leaky", spec=specs["gradient"].model_copy(update={"norm": "transductive"}))
    models = ModelRepository([tmp_path])
    assert models.list() == ()
    assert [refused.code for refused in models.refused] == ["transductive_refused"]
    assert ModelRepository([tmp_path], allow_transductive=True).find("leaky").name == "leaky"


def test_a_regression_is_not_served(tmp_path: Path, write_model: WriteModel, specs: dict[str, LearnerSpec]) -> None:
    write_model(tmp_path, "sine", spec=specs["gradient"].model_copy(update={"type": "gradient_regression"}))
    models = ModelRepository([tmp_path])
    assert models.list() == ()
    assert [refused.code for refused in models.refused] == ["no_classifier"]


def test_a_learned_optimizer_is_not_served_and_says_what_it_is(tmp_path: Path) -> None:
    manifest = OptimizerManifest(name="rule", version="1", optimizer=(Component(type="sgd", rate=0.1),))
    save_artifact(tmp_path / "rule" / "1", manifest, {})
    models = ModelRepository([tmp_path])
    assert models.list() == ()
    assert [refused.code for refused in models.refused] == ["no_classifier"]
    assert "learned optimizer" in models.refused[0].reason


def test_of_two_roots_the_first_counts(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "own", "gradient", "2", description="own")
    write_model(tmp_path / "zoo", "gradient", "2", description="zoo")
    write_model(tmp_path / "zoo", "gradient", "10")
    models = ModelRepository([tmp_path / "own", tmp_path / "zoo"])
    assert models.find("gradient@2").manifest.description == "own"
    assert models.find("gradient").version == "10"


def test_load_builds_the_learner_of_a_digest(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path, "gradient")
    models = ModelRepository([tmp_path])
    digest = models.find("gradient").digest
    assert models.load(digest).digest == digest
    write_model(tmp_path, "gradient", description="other bytes under the same name")
    with pytest.raises(ModelNotFound):
        models.load(digest)
    with pytest.raises(ModelNotFound):
        models.load("0" * 64)


def test_an_artifact_that_is_whole_but_does_not_fit_its_learner_fails_at_load(
    tmp_path: Path, write_model: WriteModel, specs: dict[str, LearnerSpec]
) -> None:
    write_model(tmp_path, "gradient")
    folder = tmp_path / "gradient" / "1"
    text = (folder / "manifest.json").read_text()
    wider = specs["gradient"].model_copy(update={"head": Component(type="prototype", learned_scale=True)})
    models = ModelRepository([tmp_path])
    manifest = models.find("gradient").manifest.model_copy(update={"learner": wider})
    (folder / "manifest.json").write_text(manifest.to_json())
    assert text != manifest.to_json()
    with pytest.raises(TensorMissing):
        models.load(models.at(manifest.digest).digest)


def test_a_file_that_goes_while_it_is_listed_is_no_error(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path, "gradient")
    (tmp_path / "gradient" / "1" / "dangling").symlink_to(tmp_path / "nowhere")
    assert ModelRepository([tmp_path]).find("gradient").version == "1"


def test_reading_manifests_needs_no_torch() -> None:
    code = (
        "import sys, kshot_server.engine.engine as e, kshot_server.engine.repository as r; "
        "r.ModelRepository([]).list(); assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
