"""A learned rule as a torch optimizer takes the steps of the rule, and is a torch optimizer in every way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kshot_models import load
from kshot_models.artifact import load_artifact, load_optimizer_artifact, save_artifact
from kshot_models.errors import NotALearner, NotAnOptimizer, TensorMissing
from kshot_models.inner import InnerOptimizer, adam, linear_rule, lslr, lstm, meta_learner_lstm, newton_cg, policy, sgd
from kshot_models.load import LoadedLearner, load_optimizer
from kshot_models.load import load as load_learner
from kshot_models.manifest import Component, LearnerSpec, Limits, Manifest, OptimizerManifest
from kshot_models.registry import build_learner
from kshot_models.torch_optimizer import LearnedOptimizer
from kshot_models.tree import tree_add, tree_map
from kshot_models.types import Params

from .conftest import INPUT

RULES: dict[str, InnerOptimizer] = {
    "lstm": lstm(hidden=(5, 4), scale=0.1),
    "meta_learner_lstm": meta_learner_lstm(hidden=5),
    "linear_rule": linear_rule(rate=0.1),
    "policy": policy(history=3, hidden=5, rate=0.1),
    "adam": adam(rate=0.01),
}
rules = pytest.mark.parametrize("name", RULES)


def fresh(rule: InnerOptimizer) -> Params:
    drawn = rule.init({"any": torch.zeros(1)}, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf.double(), drawn)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


INPUTS = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)


def loss_of(net: nn.Module) -> Tensor:
    return net(INPUTS).square().mean()


def closure_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(net)
        loss.backward()
        return loss.item()

    return closure


def walked(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    for _ in range(steps):
        optimizer.step(closure_of(net, optimizer))
    return [p.detach().clone() for p in net.parameters()]


@rules
def test_steps_are_those_of_the_rule(name: str) -> None:
    rule, net = RULES[name], model()
    phi = fresh(rule)
    ours = walked(net, LearnedOptimizer(rule, phi, net.parameters()), 4)
    net = model()
    params = {key: p.detach() for key, p in net.named_parameters()}
    bound = rule.bind(phi)
    state = bound.init(params)  # one state for all parameters: coordinatewise rules do not tell the difference
    for _ in range(4):
        grads, loss = torch.func.grad_and_value(lambda p: torch.func.functional_call(net, p, INPUTS).square().mean())(
            params
        )
        updates, state = bound.update(grads, state, params, loss)
        params = tree_add(params, updates)
    for parameter, expected in zip(ours, params.values(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-12, atol=1e-14)


@rules
def test_a_state_dict_goes_on_bit_for_bit(name: str) -> None:
    rule, net = RULES[name], model()
    phi = fresh(rule)
    straight = walked(net, LearnedOptimizer(rule, phi, net.parameters()), 5)
    net = model()
    first = LearnedOptimizer(rule, phi, net.parameters())
    walked(net, first, 2)
    second = LearnedOptimizer(rule, phi, net.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(walked(net, second, 3), straight, strict=True))


def test_groups_have_their_own_lr_and_schedulers_work_on_it() -> None:
    rule = sgd(rate=0.1)
    net, twin = model(), model()
    layers = [net[0], net[2]] if isinstance(net, nn.Sequential) else []
    groups: list[dict[str, Any]] = [
        {"params": list(layers[0].parameters())},
        {"params": list(layers[1].parameters()), "lr": 0.5},
    ]
    optimizer = LearnedOptimizer(rule, {}, groups, lr=2.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    plain = torch.optim.SGD(
        [
            {"params": list(twin[0].parameters()), "lr": 0.2},  # type: ignore[index]  # a Sequential, seen as a Module
            {"params": list(twin[2].parameters()), "lr": 0.05},  # type: ignore[index]  # as above
        ]
    )
    twin_scheduler = torch.optim.lr_scheduler.StepLR(plain, step_size=1, gamma=0.1)
    for _ in range(3):
        for net_, optimizer_ in ((net, optimizer), (twin, plain)):
            optimizer_.step(closure_of(net_, optimizer_))
        scheduler.step()
        twin_scheduler.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


def test_a_parameter_without_gradient_rests_and_one_used_twice_steps_once() -> None:
    tied = nn.Linear(3, 3, bias=False).double()
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = LearnedOptimizer(linear_rule(rate=0.1), fresh(linear_rule(rate=0.1)), [*tied.parameters(), idle])
    before = tied.weight.detach().clone()
    loss = tied(torch.tanh(tied(INPUTS))).square().mean()
    loss.backward()
    assert optimizer.step() is None
    assert tied.weight.grad is not None
    torch.testing.assert_close(tied.weight.detach(), before - 0.1 * tied.weight.grad)
    assert torch.equal(idle, torch.ones(2, dtype=torch.float64))
    assert idle not in optimizer.state


def test_a_rule_that_reads_the_loss_asks_for_it() -> None:
    net = model()
    rule = RULES["meta_learner_lstm"]
    optimizer = LearnedOptimizer(rule, fresh(rule), net.parameters())
    loss_of(net).backward()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()
    LearnedOptimizer(RULES["lstm"], fresh(RULES["lstm"]), net.parameters()).step()


@pytest.mark.parametrize("rule", [lslr(rate=0.1, steps=2), newton_cg(strength=0.5), adam(rate=0.1, carry_moments=True)])
def test_rules_that_belong_to_certain_weights_or_need_more_are_refused(rule: InnerOptimizer) -> None:
    phi = rule.init({"any": torch.zeros(3)}, torch.Generator())
    with pytest.raises(NotAnOptimizer):
        LearnedOptimizer(rule, phi, model().parameters())


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        LearnedOptimizer(sgd(rate=0.1), {}, model().parameters(), lr=-1)
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = LearnedOptimizer(sgd(rate=0.1), {}, embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()


def save_optimizer(folder: Path, rule: InnerOptimizer, spec: dict[str, Any]) -> OptimizerManifest:
    manifest = OptimizerManifest(name="rule", version="1", optimizer=(Component.model_validate(spec),))
    phi = rule.init({"any": torch.zeros(1)}, torch.Generator().manual_seed(3))
    return save_artifact(folder, manifest, {f"inner/{name}": leaf.numpy() for name, leaf in phi.items()})


def test_an_artifact_of_an_optimizer_is_one_and_no_learner(tmp_path: Path) -> None:
    folder = tmp_path / "rule" / "1"
    written = save_optimizer(folder, RULES["lstm"], {"type": "lstm", "hidden": [5, 4], "scale": 0.1})
    loaded = load_optimizer(folder)
    assert loaded.digest == written.digest
    net, twin = model().float(), model().float()
    optimizer = load(folder).as_torch_optimizer(net.parameters())
    other = LearnedOptimizer(loaded.rule, loaded.phi, twin.parameters())
    for network, each in ((net, optimizer), (twin, other)):
        network(INPUTS.float()).square().mean().backward()
        each.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    with pytest.raises(NotALearner, match="as_torch_optimizer"):
        load_learner(folder)
    with pytest.raises(NotALearner):
        load_artifact(folder)


def test_an_artifact_of_an_optimizer_is_checked_like_any(tmp_path: Path) -> None:
    folder = tmp_path / "rule" / "1"
    manifest = save_optimizer(folder, RULES["lstm"], {"type": "lstm", "hidden": [5, 4], "scale": 0.1})
    arrays = load_optimizer_artifact(folder).arrays
    arrays.pop("inner/output.bias")
    save_artifact(folder, manifest, arrays)
    with pytest.raises(TensorMissing, match=r"inner/output\.bias"):
        load_optimizer(folder)


def test_a_learner_is_no_optimizer_but_lends_its_rule() -> None:
    with pytest.raises(NotAnOptimizer, match="adapt and predict"):
        load_optimizer("omniglot")
    with pytest.raises(NotAnOptimizer, match="no inner steps"):
        load("omniglot-prototype").as_torch_optimizer(model().parameters())
    spec = LearnerSpec.model_validate(
        {
            "type": "gradient",
            "network": {"type": "mlp", "hidden": [6]},
            "head": {"type": "shared"},
            "inner": [{"type": "linear_rule", "rate": 0.1}],
            "steps": 1,
        }
    )
    learner = build_learner(spec, INPUT)
    manifest = Manifest(name="rule", version="1", learner=spec, input=INPUT, limits=Limits(max_way=5, max_support=25))
    loaded = LoadedLearner(learner, learner.init(torch.Generator().manual_seed(0)), manifest, "")
    net, twin = model().float(), model().float()
    for network, each in (
        (net, loaded.as_torch_optimizer(net.parameters())),
        (twin, torch.optim.SGD(twin.parameters(), lr=0.1)),
    ):
        network(INPUTS.float()).square().mean().backward()
        each.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["l2l-quadratic", "l2o-quadratic"])
def test_the_shipped_optimizers_lower_a_loss_of_their_kind_without_tuning(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    w, y = torch.randn(32, 10, 10, generator=generator), torch.randn(32, 10, generator=generator)
    theta = nn.Parameter(torch.zeros(32, 10))
    optimizer = load(name).as_torch_optimizer([theta])
    losses: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = ((w @ theta[..., None])[..., 0] - y).square().sum(-1)
        torch.autograd.backward(loss.sum())
        losses.append(loss.mean().item())
        return float(loss.detach().sum())

    for _ in range(101):
        optimizer.step(closure)
    assert losses[100] < 0.1 * losses[0]  # tuned SGD stays above that


NETWORKS = {
    "l2l-mlp": ((20,), lambda: [nn.Linear(20, 20), nn.Sigmoid(), nn.Linear(20, 4)]),
    "l2l-conv": (
        (1, 8, 8),
        lambda: [
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(32, 4),
        ],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shipped_optimizers_for_networks_train_one(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(0)
    shape, layers = NETWORKS[name]
    inputs = torch.randn(64, *shape, generator=generator)
    targets = inputs.flatten(1)[:, :4].argmax(1)
    net = nn.Sequential(*layers())
    optimizer = load(name).as_torch_optimizer(net.parameters())
    losses = []
    for _ in range(101):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[100] < 0.5 * losses[0]
