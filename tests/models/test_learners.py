"""The battery that every learner passes: purity, vmap = loop, padding, order, neighbours, save and load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from kshot_models.artifact import save_artifact
from kshot_models.errors import WayUnsupported
from kshot_models.heads import prototype as prototype_head
from kshot_models.learners import GradientLearner
from kshot_models.load import load, meta_to_arrays
from kshot_models.manifest import LearnerSpec, Limits, Manifest
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map, tree_map
from kshot_models.types import Examples, MetaParams, Params, TaskParams

from .conftest import INPUT, LEARNERS, NETWORKS, NORMS, MakeExamples, make_learner

CASES = [(name, "max_pool", "support") for name in LEARNERS]
CASES += [("proto-lslr", network, norm) for network in NETWORKS for norm in NORMS]
CASES += [("mamlpp", "max_pool", "per_step"), ("proto-sgd", "mlp", "per_step"), ("proto-sgd", "resnet12", "per_step")]
CASES += [(name, "max_pool", "population") for name in ("prototype", "ridge", "matching", "snail")]
CASES += [("prototype", network, "population") for network in ("mlp", "resnet12")]
battery = pytest.mark.parametrize(("name", "network", "norm"), CASES)


def pad(examples: Examples, more: int) -> Examples:
    """The same examples with `more` entries of garbage and weight 0 behind them."""
    garbage = torch.full((more, *examples.inputs.shape[1:]), 7.5, dtype=examples.inputs.dtype)
    return Examples(
        torch.cat([examples.inputs, garbage]),
        torch.cat([examples.targets, examples.targets.new_zeros(more)]),
        torch.cat([examples.weights, examples.weights.new_zeros(more)]),
    )


def leaves(*trees: Params | MetaParams) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for tree in trees:
        parts = tree if isinstance(tree, MetaParams) else (tree,)
        found += [leaf for part in parts for leaf in part.values()]
    return found


@battery
def test_adapt_and_predict_change_nothing_and_repeat_exactly(
    name: str, network: str, norm: str, make_examples: MakeExamples
) -> None:
    learner, meta = make_learner(name, network, norm)
    support, query = make_examples(seed=1), make_examples(seed=2)
    before = [leaf.clone() for leaf in [*leaves(meta), *support, *query]]
    first = learner.adapt(meta, support, way=3)
    kept = tree_map(torch.clone, first)
    logits = learner.predict(meta, first, query.inputs)
    again = learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs)
    assert torch.equal(logits, again)
    assert all(torch.equal(a, b) for a, b in zip(before, [*leaves(meta), *support, *query], strict=True))
    assert all(torch.equal(kept[key], first[key]) for key in first)
    assert logits.shape == (6, 3)
    assert logits.isfinite().all()


# Without a norm, features have no scale that one inner rate would fit for all networks.
@pytest.mark.parametrize(("name", "network", "norm"), [case for case in CASES if case[2] != "none"])
def test_adaptation_learns_the_support_set(name: str, network: str, norm: str, make_examples: MakeExamples) -> None:
    learner, meta = make_learner(name, network, norm)
    support = make_examples(shot=3, seed=1)
    trajectory = list(learner.trajectory(meta, support, way=3))
    losses = [
        torch.nn.functional.cross_entropy(learner.predict(meta, task, support.inputs), support.targets).item()
        for task in trajectory
    ]
    last = learner.adapt(meta, support, way=3)
    assert all(torch.equal(last[key], trajectory[-1][key]) for key in last)
    assert len(losses) == (3 if LEARNERS[name]["type"] == "gradient" else 1)
    assert losses[-1] <= losses[0] if len(losses) == 1 else losses[-1] < losses[0]


@battery
def test_vmap_equals_a_loop(name: str, network: str, norm: str, make_examples: MakeExamples) -> None:
    learner, meta = make_learner(name, network, norm)
    supports = [make_examples(seed=seed) for seed in range(3)]
    queries = [make_examples(seed=seed).inputs for seed in range(10, 13)]

    def solve(support: Examples, inputs: torch.Tensor) -> torch.Tensor:
        return learner.predict(meta, learner.adapt(meta, support, way=3), inputs)

    batched = vmap(solve)(
        Examples(*(torch.stack(parts) for parts in zip(*supports, strict=True))), torch.stack(queries)
    )
    alone = torch.stack([solve(s, q) for s, q in zip(supports, queries, strict=True)])
    torch.testing.assert_close(batched, alone, rtol=1e-12, atol=1e-10)


@battery
def test_padding_changes_nothing(name: str, network: str, norm: str, make_examples: MakeExamples) -> None:
    learner, meta = make_learner(name, network, norm)
    support, query = make_examples(seed=1), make_examples(seed=2)
    plain = learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs).softmax(1)
    padded = learner.predict(meta, learner.adapt(meta, pad(support, 5), way=6), query.inputs).softmax(1)
    torch.testing.assert_close(padded[:, :3], plain, rtol=0, atol=1e-10)
    assert (padded[:, 3:] == 0).all()


@battery
def test_order_of_labels_and_of_the_support_set_does_not_matter(
    name: str, network: str, norm: str, make_examples: MakeExamples
) -> None:
    learner, meta = make_learner(name, network, norm)
    support, query = make_examples(seed=1), make_examples(seed=2)
    plain = learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs)
    relabel = torch.tensor([2, 0, 1])  # old class -> new class
    shuffle = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    moved = Examples(support.inputs[shuffle], relabel[support.targets][shuffle], support.weights)
    answers = learner.predict(meta, learner.adapt(meta, moved, way=3), query.inputs)
    torch.testing.assert_close(answers[:, relabel], plain, rtol=1e-12, atol=1e-9)


@battery
def test_an_answer_does_not_depend_on_its_neighbours(
    name: str, network: str, norm: str, make_examples: MakeExamples
) -> None:
    learner, meta = make_learner(name, network, norm)
    task = learner.adapt(meta, make_examples(seed=1), way=3)
    query = make_examples(seed=2).inputs
    together = learner.predict(meta, task, torch.cat([query, 50 * torch.ones_like(query)]))[: len(query)]
    alone = torch.cat([learner.predict(meta, task, one[None]) for one in query])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", LEARNERS)
def test_save_and_load_give_the_same_answers(name: str, tmp_path: Path, make_examples: MakeExamples) -> None:
    learner, meta = make_learner(name, dtype=torch.float32)
    network = {**NETWORKS["max_pool"], "norm_groups": 1}
    spec = LearnerSpec.model_validate({**LEARNERS[name], "network": network})
    manifest = Manifest(name=name, version="1", learner=spec, input=INPUT, limits=Limits(max_way=5, max_support=50))
    folder = tmp_path / name / "1"
    written = save_artifact(folder, manifest, {key: leaf.numpy() for key, leaf in meta_to_arrays(meta).items()})
    loaded = load(folder)
    assert loaded.digest == written.digest
    support, query = make_examples(seed=1, dtype=torch.float32), make_examples(seed=2, dtype=torch.float32)
    expected = learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs)
    task = loaded.learner.adapt(loaded.meta_params, support, way=3)
    assert torch.equal(loaded.learner.predict(loaded.meta_params, task, query.inputs), expected)


def test_transductive_norm_uses_the_moments_of_the_queries(make_examples: MakeExamples) -> None:
    learner, meta = make_learner("prototype", norm="transductive")
    query = make_examples(seed=2).inputs
    task = learner.adapt(meta, make_examples(seed=1), way=3)
    assert not any(key.startswith("moments.") for key in task)
    together, alone = learner.predict(meta, task, query), learner.predict(meta, task, query[:2])
    assert (together[:2] - alone).abs().max() > 1e-3
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=query.dtype)
    torch.testing.assert_close(learner.predict(meta, task, query, weights)[:2], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "support") for name in LEARNERS), ("mamlpp", "per_step"), ("proto-sgd", "per_step")]
)
def test_the_transductive_mode_adapts_as_the_others_do(name: str, norm: str, make_examples: MakeExamples) -> None:
    (learner, meta), (transductive, _) = (make_learner(name, "max_pool", mode) for mode in (norm, "transductive"))
    support, query = make_examples(seed=1), make_examples(seed=2)
    task, own = (each.adapt(meta, support, way=3) for each in (learner, transductive))
    assert all(torch.equal(task[key], leaf) for key, leaf in own.items())
    answers = (transductive.predict(meta, adapted, query.inputs) for adapted in (task, own))
    assert torch.equal(*answers)


def test_a_linear_head_refuses_another_way(make_examples: MakeExamples) -> None:
    spec = LearnerSpec.model_validate(
        {"type": "gradient", "network": NETWORKS["mlp"], "head": {"type": "linear", "way": 3}, "steps": 1,
         "inner": [{"type": "sgd", "rate": 0.1}]}
    )  # fmt: skip
    learner = build_learner(spec, INPUT)
    meta = learner.init(torch.Generator().manual_seed(0))
    support = make_examples(dtype=torch.float32)
    assert learner.predict(meta, learner.adapt(meta, support, way=3), support.inputs).shape == (6, 3)
    with pytest.raises(WayUnsupported, match="expected 3 classes"):
        learner.adapt(meta, support, way=4)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("head", ["shared", "prototype"])
def test_a_body_that_stays_embeds_the_support_set_once_and_gives_the_same(
    head: str, first_order: bool, make_examples: MakeExamples
) -> None:
    made, meta = make_learner("anil")
    assert isinstance(made, GradientLearner)
    calls = []

    def counted(params: Params, inputs: Tensor, **more: Any) -> tuple[Tensor, Params]:
        calls.append(len(inputs))
        return made.network.apply(params, inputs, **more)

    features = made.network.features
    learner = dataclasses.replace(
        made,
        network=made.network._replace(apply=counted),
        head=made.head if head == "shared" else prototype_head(features),
        steps=3,
        first_order=first_order,
    )
    support, query = make_examples(), make_examples(seed=1)
    meta = meta_map(Tensor.requires_grad_, meta)
    found = learner.adapt(meta, support, way=3)
    assert calls == [len(support.inputs)]
    assert [*learner.trajectory(meta, support, way=3)][-1].keys() == found.keys()
    assert len(calls) == 2

    *_, (fast, _) = learner.descend(meta, support, [support] * 3, way=3)  # which looks at all images again in each step
    assert len(calls) == 2 + 3 + (head == "prototype")
    expected = learner.task_params(meta, fast, support, way=3)
    torch.testing.assert_close(found, expected)

    def meta_gradient(task: TaskParams) -> dict[str, Tensor]:
        loss = learner.predict(meta, task, query.inputs).square().mean()
        grads = torch.autograd.grad(loss, list(meta.init.values()), materialize_grads=True)
        return dict(zip(meta.init, grads, strict=True))

    grads = meta_gradient(expected)
    assert grads["body.conv1.weight"].abs().max() > 0
    torch.testing.assert_close(meta_gradient(found), grads)


def test_parameters_outside_the_patterns_do_not_adapt(make_examples: MakeExamples) -> None:
    learner, meta = make_learner("anil")
    task = learner.adapt(meta, make_examples(), way=3)
    assert {key for key in task if key.startswith("weights.")} == {"weights.head.weight", "weights.head.bias"}
    learner, meta = make_learner("boil")
    start, *_, last = learner.trajectory(meta, make_examples(), way=3)
    assert torch.equal(start["weights.head.weight"], last["weights.head.weight"])
    assert not torch.equal(start["weights.body.conv1.weight"], last["weights.body.conv1.weight"])
    assert "weights.body.norm1.gain" not in last
