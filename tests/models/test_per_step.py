"""What belongs to one inner step is used at that step: gains and biases in every pass, running moments in queries."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from kshot_models.errors import SpecInvalid
from kshot_models.learners import GradientLearner
from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.per_step import fresh_moments, is_norm, query_row, with_rows
from kshot_models.registry import build_learner
from kshot_models.tree import under
from kshot_models.types import MetaParams, Params

from .conftest import INPUT, MakeExamples, make_learner


def mamlpp(norm: str = "support") -> tuple[GradientLearner, MetaParams]:
    learner, meta = make_learner("mamlpp", norm=norm)  # all rows differ
    assert isinstance(learner, GradientLearner)
    return learner, meta


def at_row(meta: MetaParams, row: int, fast: Params) -> MetaParams:
    """Meta-parameters of a learner without rows: those of one step, from the weights that it starts with."""
    init = {name: p[row] if is_norm(name) else fast.get(name, p) for name, p in meta.init.items()}
    return MetaParams(init, {name: rates[row : row + 1] for name, rates in meta.inner.items()}, {})


def test_each_step_has_its_own_gains(make_examples: MakeExamples) -> None:
    learner, meta = mamlpp()
    support, query = make_examples(seed=1), make_examples(seed=2).inputs
    step = dataclasses.replace(
        learner, per_step_gains=False, steps=1, adapt_patterns=("*.conv*", "head.*"), head=start_as_it_is(learner)
    )
    first = learner.start(meta, support, 3)[0]
    for row in range(2):  # one step at a time, with a learner that has nothing per step
        at = at_row(meta, row, first)
        task = step.adapt(at, support, way=3)
        first = under("weights.", task)
    assert torch.equal(learner.predict(meta, learner.adapt(meta, support, way=3), query), step.predict(at, task, query))


def start_as_it_is(learner: GradientLearner) -> object:
    """The head, but that it starts from weights (way, features) as they are."""
    return learner.head._replace(start=lambda params, embed, support, way: params)


def test_queries_take_the_running_moments_of_the_last_step(make_examples: MakeExamples) -> None:
    learner, meta = mamlpp("per_step")
    support, query = make_examples(seed=1), make_examples(seed=2).inputs
    for taken, task in enumerate(learner.trajectory(meta, support, way=3)):
        row = max(taken - 1, 0)
        features, weights = query, under("weights.", task)
        for i in (1, 2):
            features = F.conv2d(features, weights[f"body.conv{i}.weight"], padding=1)
            features = F.batch_norm(
                features,
                meta.stats[f"norm{i}.mean"][row],
                meta.stats[f"norm{i}.variance"][row],
                meta.init[f"body.norm{i}.gain"][row],
                meta.init[f"body.norm{i}.bias"][row],
                eps=1e-5,
            )
            features = F.max_pool2d(F.relu(features), 2)
        expected = features.flatten(1) @ weights["head.weight"].T + weights["head.bias"]
        torch.testing.assert_close(learner.predict(meta, task, query), expected, rtol=1e-10, atol=1e-10)


def test_nothing_that_a_step_owns_adapts() -> None:
    learner, meta = mamlpp("per_step")
    assert learner.adapts("body.conv1.weight")
    assert not learner.adapts("body.norm1.gain")
    assert not any(is_norm(name) for name in meta.inner)
    assert meta.init["body.norm1.gain"].shape == (2, 4)
    assert meta.stats["norm2.variance"].shape == (2, 5)


def test_tables_start_alike() -> None:
    body = {"conv1.weight": torch.ones(3, 1, 3, 3), "norm1.gain": torch.rand(3), "norm1.bias": torch.rand(3)}
    rows = with_rows(body, 4)
    assert rows["conv1.weight"] is body["conv1.weight"]
    assert torch.equal(rows["norm1.gain"], body["norm1.gain"].expand(4, 3))
    moments = fresh_moments(body, 4)
    assert {name: (table.shape, float(table.mean())) for name, table in moments.items()} == {
        "norm1.mean": ((4, 3), 0.0),
        "norm1.variance": ((4, 3), 1.0),
    }
    assert [query_row(taken) for taken in (0, 1, 2)] == [0, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "per_step", "steps": 0},
        {"per_step_gains": True, "steps": 0},
        {"type": "prototype", "head": {"type": "prototype"}, "inner": [], "steps": 0, "norm": "per_step"},
    ],
)
def test_without_steps_there_is_nothing_per_step(change: dict[str, object]) -> None:
    with pytest.raises(SpecInvalid, match="belong to inner steps"):
        build_learner(LearnerSpec.model_validate({**SPEC, **change}), INPUT)


SPEC: dict[str, object] = {
    "type": "gradient",
    "network": {"type": "conv4", "channels": [4, 4]},
    "head": {"type": "shared"},
    "inner": [{"type": "sgd", "rate": 0.1}],
    "steps": 2,
}


def test_a_manifest_without_it_is_written_as_before() -> None:
    assert "per_step_gains" not in LearnerSpec.model_validate(SPEC).model_dump(mode="json")
    with_it = LearnerSpec.model_validate({**SPEC, "per_step_gains": True})
    assert with_it.model_dump(mode="json")["per_step_gains"] is True
    assert LearnerSpec.model_validate_json(with_it.model_dump_json()) == with_it


def test_it_works_without_norms() -> None:
    spec = LearnerSpec.model_validate({**SPEC, "network": {"type": "mlp", "hidden": [4]}, "norm": "none"})
    tall = InputSpec(height=2, width=2, channels=1, mean=(0.5,), std=(0.5,))
    plain = build_learner(spec, tall).init(torch.Generator().manual_seed(0))
    rows = build_learner(spec.model_copy(update={"per_step_gains": True}), tall)
    assert {n: p.shape for n, p in rows.init(torch.Generator().manual_seed(0)).init.items()} == {
        n: p.shape for n, p in plain.init.items()
    }
