"""The language model against torch's own LSTM, and its derivatives against differences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_models.tree import tree_map
from kshot_models.types import MetaParams, Params
from kshot_training.language.lanes import Lanes
from kshot_training.language.model import CharacterLSTM

MODEL = CharacterLSTM(symbols=7, hidden=5)


def weights(seed: int = 0) -> Params:
    return tree_map(Tensor.double, MODEL.init(torch.Generator().manual_seed(seed)))


def texts(length: int, n: int, seed: int = 1) -> Tensor:
    return torch.randint(0, MODEL.symbols, (length, n), generator=torch.Generator().manual_seed(seed))


def test_it_is_the_lstm_of_torch_over_one_hot_characters() -> None:
    params, characters = weights(), texts(9, 3)
    oracle = nn.LSTM(MODEL.symbols, MODEL.hidden).double()
    own = {"weight_ih_l0": "weight_input", "weight_hh_l0": "weight_hidden", "bias_ih_l0": "bias"}
    oracle.load_state_dict(
        {theirs: params[f"lstm.{ours}"] for theirs, ours in own.items()}
        | {"bias_hh_l0": torch.zeros(4 * MODEL.hidden, dtype=torch.float64)}
    )
    hidden, (last, cell) = oracle(nn.functional.one_hot(characters[:-1], MODEL.symbols).double())
    logits = hidden @ params["output.weight"].T + params["output.bias"]
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), characters[1:].flatten(), reduction="none")
    losses, memory = MODEL.losses(params, MODEL.blank(params["output.bias"], 3), characters)
    torch.testing.assert_close(losses, expected.reshape(8, 3))
    torch.testing.assert_close(memory, {"hidden": last[0].T, "cell": cell[0].T})


def test_tasks_are_models_of_their_own_and_texts_do_not_see_each_other() -> None:
    each = [weights(seed) for seed in range(3)]
    characters = torch.stack([texts(6, 1, seed) for seed in range(3)])
    both = {name: torch.stack([params[name] for params in each]) for name in each[0]}
    losses, memory = MODEL.losses(both, MODEL.blank(both["output.bias"], 3, 1), characters)
    for task, params in enumerate(each):
        alone, after = MODEL.losses(params, MODEL.blank(params["output.bias"], 1), characters[task])
        torch.testing.assert_close(losses[task], alone)
        torch.testing.assert_close(memory["cell"][task], after["cell"])
    side_by_side = torch.cat([*characters], 1)
    together, _ = MODEL.losses(each[0], MODEL.blank(each[0]["output.bias"], 3), side_by_side)
    torch.testing.assert_close(together[:, :1], losses[0])


def test_reading_on_is_reading_at_once() -> None:
    params, characters = weights(), texts(9, 2)
    blank = MODEL.blank(params["output.bias"], 2)
    whole, end = MODEL.losses(params, blank, characters)
    first, memory = MODEL.losses(params, blank, characters[:5])
    second, memory = MODEL.losses(params, memory, characters[4:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(memory, end)


def test_first_and_second_derivatives_are_those_of_differences() -> None:
    params, characters = weights(), texts(5, 2)[None]
    leaves = [leaf[None].requires_grad_() for leaf in params.values()]

    def loss(*leaves: Tensor) -> Tensor:
        tree = dict(zip(params, leaves, strict=True))
        return MODEL.losses(tree, MODEL.blank(leaves[0], 1, 2), characters)[0].mean()

    assert torch.autograd.gradcheck(loss, leaves)
    directions = [torch.randn(leaf.shape, generator=torch.Generator().manual_seed(2)).double() for leaf in leaves]
    grads = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    curved = torch.autograd.grad(sum(((g * d).sum() for g, d in zip(grads, directions, strict=True))), leaves)
    epsilon = 1e-5
    sides = [
        torch.autograd.grad(
            loss(*(moved := [(x + e * d).detach().requires_grad_() for x, d in zip(leaves, directions, strict=True)])),
            moved,
        )
        for e in (epsilon, -epsilon)
    ]
    for second, high, low in zip(curved, *sides, strict=True):
        torch.testing.assert_close(second, (high - low) / (2 * epsilon), rtol=1e-5, atol=1e-8)


def test_lanes_read_the_ring_of_all_documents_on_and_on() -> None:
    documents = [torch.arange(7) % 7, torch.arange(5) % 7, torch.arange(12) % 7]
    ring = torch.cat(documents)
    lanes = Lanes(MODEL, documents, lanes=3, length=4, seed=3)
    params = tree_map(Tensor.float, weights())
    meta = MetaParams(params, {}, {})
    begins = [int(begin) for begin in lanes._begins]
    assert [(b - begins[0]) % 24 for b in begins] == [0, 8, 16]
    memory = MODEL.blank(params["output.bias"], 3)
    for step in range(8):  # once around, and on
        if step == 5:  # another process goes on from here
            other = Lanes(MODEL, documents, lanes=3, length=4, seed=3)
            other.load(*lanes.tensors())
            lanes = other
        places = [[(b + 4 * step + i) % 24 for b in begins] for i in range(5)]
        leaves = tree_map(lambda leaf: leaf.clone().requires_grad_(), params)
        losses, memory = MODEL.losses(leaves, memory, ring[torch.tensor(places)])
        expected = torch.autograd.grad(losses.mean(), list(leaves.values()))
        memory = tree_map(Tensor.detach, memory)
        grads, metrics = lanes.gradient(meta, step)
        assert torch.equal(metrics.loss, losses.mean().detach())
        assert all(torch.equal(a, b) for a, b in zip(grads.init.values(), expected, strict=True))
