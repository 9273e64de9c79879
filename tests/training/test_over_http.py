"""The same episodes served and in process give the same answers; a server with another artifact is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot import Client
from kshot_models.artifact import save_artifact
from kshot_models.load import LoadedLearner, load, meta_to_arrays
from kshot_models.manifest import InputSpec, LearnerSpec, Limits, Manifest
from kshot_models.registry import build_learner
from kshot_training.data import EpisodeSampler, load_classes
from kshot_training.errors import EpisodeError
from kshot_training.over_http import Comparison, compare, summarise

INPUT = InputSpec(height=20, width=20, channels=1, mean=(1.0,), std=(1.0,))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedLearner:
    spec = LearnerSpec.model_validate(
        {
            "type": "gradient",
            "network": {"type": "conv4", "channels": [8, 8]},
            "head": {"type": "prototype"},
            "inner": [{"type": "sgd", "rate": 0.01}],
            "steps": 1,
        }
    )
    meta = build_learner(spec, INPUT).init(torch.Generator().manual_seed(0))
    manifest = Manifest(name="small", version="1", learner=spec, input=INPUT, limits=Limits(max_way=5, max_support=25))
    folder = tmp_path_factory.mktemp("models") / "small" / "1"
    save_artifact(folder, manifest, {name: leaf.numpy() for name, leaf in meta_to_arrays(meta).items()})
    return load(folder)


@pytest.fixture(scope="module")
def sampler() -> EpisodeSampler:
    classes = load_classes("glyphs:classes=8,drawings=6", spec=INPUT, split="test", rotations=True)
    return EpisodeSampler(classes, way=3, shot=2, queries=2, seed=5)


@pytest.fixture(scope="module")
def client(loaded: LoadedLearner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = next(p for p in tmp_path_factory.getbasetemp().glob("models*") if (p / "small").is_dir())
    with Client.local(root) as local:
        yield local


@pytest.mark.parametrize("body", ["png", "tensor"])
def test_served_answers_equal_those_in_process(
    loaded: LoadedLearner, sampler: EpisodeSampler, client: Client, body: str
) -> None:
    agreement = compare(loaded, sampler, client, model="small", episodes=4, body=body)  # type: ignore[arg-type]  # parametrized
    assert agreement.queries == 4 * 3 * 2
    assert agreement.same_label == 1.0
    assert agreement.largest_difference < 1e-4
    assert agreement.accuracy == pytest.approx(agreement.accuracy_in_process)
    assert agreement.accuracy > 1 / 3, "episodes have the right labels"


def test_a_server_with_another_artifact_is_refused(
    loaded: LoadedLearner, sampler: EpisodeSampler, client: Client, tmp_path: Path
) -> None:
    other = loaded._replace(digest="0" * 64)
    with pytest.raises(EpisodeError, match="start it with the same artifact"):
        compare(other, sampler, client, model="small", episodes=2)
    with pytest.raises(EpisodeError, match="at least 2 episodes"):
        compare(loaded, sampler, client, model="small", episodes=1)


def test_the_summary_counts_what_differs() -> None:
    same = Comparison(np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 2]))
    other = dataclasses.replace(same, served=np.eye(3)[[0, 1, 1, 2]])
    agreement = summarise([same, other])
    assert agreement.accuracy == 0.75
    assert agreement.accuracy_in_process == 0.75
    assert agreement.same_label == 6 / 8
    assert agreement.largest_difference == 1.0
    assert agreement.ci95 == 0.0
