"""`higher` 0.2.1, written by others in another way, gives the same meta-gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kshot_models.types import Episode, Examples
from kshot_training.meta_gradients import through_adaptation

with warnings.catch_warnings():
    # The library is unmaintained and imports what torch deprecates; it is an oracle here, nothing that ships.
    warnings.simplefilter("ignore")
    import higher

WAY, STEPS, RATE = 3, 3, 0.2


class Net(nn.Module):
    """Our Conv4 with two blocks, as a module: convolution, batch statistics, max-pool, ReLU, linear."""

    def __init__(self, channels: tuple[int, int], features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1, bias=False)
        self.gain1, self.bias1 = nn.Parameter(torch.ones(channels[0])), nn.Parameter(torch.zeros(channels[0]))
        self.gain2, self.bias2 = nn.Parameter(torch.ones(channels[1])), nn.Parameter(torch.zeros(channels[1]))
        self.head = nn.Linear(features, WAY)

    def forward(self, inputs: Tensor) -> Tensor:
        blocks = ((self.conv1, self.gain1, self.bias1), (self.conv2, self.gain2, self.bias2))
        for conv, gain, bias in blocks:
            inputs = nn.functional.batch_norm(conv(inputs), None, None, gain, bias, training=True)
            inputs = torch.relu(nn.functional.max_pool2d(inputs, 2))
        return self.head(inputs.flatten(1))


NAMES = {
    "conv1.weight": "body.conv1.weight",
    "conv2.weight": "body.conv2.weight",
    "gain1": "body.norm1.gain",
    "bias1": "body.norm1.bias",
    "gain2": "body.norm2.gain",
    "bias2": "body.norm2.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}


def with_higher(net: Net, episodes: Episode, *, first_order: bool) -> dict[str, Tensor]:
    net.zero_grad()
    tasks = len(episodes.support.targets)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for task in range(tasks):
        support, query = (Examples(*(t[task] for t in part)) for part in episodes)
        with higher.innerloop_ctx(net, optimizer, track_higher_grads=not first_order) as (fast, inner):
            for _ in range(STEPS):
                inner.step(cross_entropy(fast(support.inputs), support.targets))
            loss = cross_entropy(fast(query.inputs), query.targets) / tasks
            # First order in higher: the gradient at the fast weights, which are cut from the start.
            at = list(fast.parameters()) if first_order else list(fast.parameters(time=0))
            for leaf, grad in zip(net.parameters(), torch.autograd.grad(loss, at), strict=True):
                leaf.grad = grad if leaf.grad is None else leaf.grad + grad
    return {NAMES[name]: leaf.grad for name, leaf in net.named_parameters() if leaf.grad is not None}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_agrees(first_order: bool, make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    learner, meta = make_case(
        inner=[{"type": "sgd", "rate": RATE}], steps=STEPS, norm="transductive", head={"type": "linear", "way": WAY}
    )
    episodes = make_episodes(way=WAY)
    net = Net((3, 4), meta.init["head.weight"].shape[1]).double()
    net.load_state_dict({theirs: meta.init[ours] for theirs, ours in NAMES.items()})
    grads, _ = through_adaptation(first_order=first_order)(
        learner, meta, episodes, way=WAY, generator=torch.Generator()
    )
    expected = with_higher(net, episodes, first_order=first_order)
    assert expected.keys() == grads.init.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(
            grads.init[name], grad, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )
