"""Norms by the moments of all training images, against torch's batch normalization in use."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kshot_models.errors import SpecInvalid
from kshot_models.manifest import LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import under
from kshot_models.types import MetaParams

from .conftest import INPUT, LEARNERS, NETWORKS, MakeExamples, make_learner


def embedded(meta: MetaParams, inputs: torch.Tensor) -> torch.Tensor:
    """Conv4 with max-pooling by torch's own operations."""
    body = under("body.", meta.init)
    layers = sum(".conv" in name for name in meta.init)
    for i in range(1, layers + 1):
        inputs = F.conv2d(inputs, body[f"conv{i}.weight"], padding=1)
        mean, variance = (meta.stats[f"norm{i}.{what}"][0] for what in ("mean", "variance"))
        inputs = F.batch_norm(inputs, mean, variance, body[f"norm{i}.gain"], body[f"norm{i}.bias"])
        inputs = F.max_pool2d(F.relu(inputs), 2)
    return inputs.flatten(1)


def test_prototypes_are_means_of_embeddings_by_running_moments(make_examples: MakeExamples) -> None:
    learner, meta = make_learner("prototype", "max_pool", "population")
    assert meta.stats.keys() == {f"norm{i}.{what}" for i in (1, 2) for what in ("mean", "variance")}
    support, query = make_examples(seed=1), make_examples(seed=2)
    prototypes = embedded(meta, support.inputs).reshape(3, 2, -1).mean(1)
    expected = -torch.cdist(embedded(meta, query.inputs), prototypes).square()
    task = learner.adapt(meta, support, way=3)
    assert not any(name.startswith("moments.") for name in task)  # they are the artifact's, not the session's
    logits = learner.predict(meta, task, query.inputs)
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), rtol=1e-9, atol=1e-9)


def test_two_classes_are_told_apart_by_their_own_images_alone(make_examples: MakeExamples) -> None:
    support = make_examples(seed=1)
    other = support._replace(inputs=torch.cat([support.inputs[:4], 5 * support.inputs[4:]]))
    for norm, alike in (("population", True), ("support", False)):
        learner, meta = make_learner("prototype", "max_pool", norm)
        weights = [learner.adapt(meta, each, way=3)["head.weight"] for each in (support, other)]
        one, two = (weight[0] - weight[1] for weight in weights)
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12) == alike


@pytest.mark.parametrize("name", ["shared-sgd", "anil"])
def test_a_body_that_may_adapt_has_no_population(name: str) -> None:
    spec = LearnerSpec.model_validate({**LEARNERS[name], "network": NETWORKS["max_pool"], "norm": "population"})
    with pytest.raises(SpecInvalid, match="a gradient learner takes 'support' or 'per_step'"):
        build_learner(spec, INPUT)
