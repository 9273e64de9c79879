"""Specifications: closed tables, checked options, helpful refusals."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kshot_models.errors import SpecInvalid
from kshot_models.manifest import CLASSIFIERS, InputSpec, LearnerSpec
from kshot_models.registry import CONTEXTS, HEADS, INNER_OPTIMIZERS, NETWORKS, build_learner
from kshot_models.registry import LEARNERS as TABLE

from .conftest import INPUT, LEARNERS
from .conftest import NETWORKS as BATTERY_NETWORKS

GOOD: dict[str, object] = {
    "type": "gradient",
    "network": {"type": "conv4", "channels": [4, 4]},
    "head": {"type": "shared"},
    "inner": [{"type": "sgd", "rate": 0.1}],
    "steps": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"type": "magic"},
            "'magic'; there are: gradient, gradient_regression, matching, prototype, ridge, snail",
        ),
        ({"network": {"type": "torch.load"}}, "unknown network"),
        ({"head": {"type": "linear"}}, "head 'linear': way"),
        ({"inner": [{"type": "sgd"}]}, "rate"),
        ({"inner": [{"type": "sgd", "rate": "fast"}]}, "rate"),
        ({"inner": [{"type": "sgd", "rate": 0.1, "momentum": 0.9}]}, "momentum"),
        ({"inner": [{"type": "proximal", "strength": 0}]}, "above 0"),
        ({"inner": [{"type": "newton_cg", "strength": 1}, {"type": "sgd", "rate": 0.1}]}, "stands alone"),
        ({"inner": []}, "at least one inner optimizer"),
        ({"network": {"type": "conv4", "channels": [4] * 9}}, "blocks leave nothing"),
        ({"type": "prototype"}, "takes no inner steps"),
        ({"type": "prototype", "inner": [], "steps": 0}, "needs the head 'prototype'"),
        ({"type": "ridge", "inner": [], "steps": 0}, "needs the head 'ridge'"),
        ({"head": {"type": "ridge", "regularizer": 0}}, "must be above 0"),
        ({"head": {"type": "snail"}}, "unknown head 'snail'"),
        ({"type": "snail", "inner": [], "steps": 0, "head": {"type": "matching"}}, "needs the head 'snail'"),
        ({"type": "snail", "inner": [], "steps": 0, "head": {"type": "snail", "filters": 0}}, "filters"),
        ({"type": "matching", "inner": [], "steps": 0, "head": {"type": "matching", "reads": 0}}, "reads"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        build_learner(LearnerSpec.model_validate({**GOOD, **change}), INPUT)


def test_every_inner_optimizer_is_in_the_battery() -> None:
    used = {str(link["type"]) for row in LEARNERS.values() for link in row.get("inner", [])}  # type: ignore[attr-defined]  # rows are plain data
    assert used == set(INNER_OPTIMIZERS)


def test_every_head_and_network_is_in_the_battery() -> None:
    heads = {str(row["head"]["type"]) for row in LEARNERS.values()}  # type: ignore[index]  # rows are plain data
    # A linear head has a fixed way and answers by the order of labels: the battery's equalities do not hold for it.
    assert heads | {"linear"} == set(HEADS) | set(CONTEXTS)
    # An encoder is made of an artifact's file, and has tests of its own.
    assert {str(row["type"]) for row in BATTERY_NETWORKS.values()} | {"encoder"} == set(NETWORKS)


def test_every_learner_is_a_classifier_or_known_not_to_be() -> None:
    assert set(TABLE) == CLASSIFIERS | {"gradient_regression"}


def test_unknown_keys_of_a_learner_are_errors() -> None:
    with pytest.raises(ValidationError, match="inner_steps"):
        LearnerSpec.model_validate({**GOOD, "inner_steps": 3})


@pytest.mark.parametrize("change", [{"mean": (0.5, 0.5)}, {"std": (0.0,)}, {"height": 0}, {"channels": 2}])
def test_an_input_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        InputSpec.model_validate({**INPUT.model_dump(), **change})
