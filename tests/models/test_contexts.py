"""Matching Networks and SNAIL against plain numpy, one token at a time; and the orders that both read in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.context import Context, matching, snail
from kshot_models.context.orders import content_orders
from kshot_models.context.snail import class_numbers
from kshot_models.context.vectors import unit
from kshot_models.errors import WayUnsupported
from kshot_models.types import Examples, Params

WAY, SIZE = 3, 4
Array = NDArray[np.float64]
Arrays = dict[str, Array]


def fresh(context: Context) -> Params:
    generator = torch.Generator().manual_seed(1)
    return {
        name: p.double() + 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in context.init(generator).items()
    }


def arrays(params: Params) -> Arrays:
    return {name: p.numpy() for name, p in params.items()}


def embedded(targets: list[int], seed: int = 0) -> tuple[Tensor, Examples]:
    """Unit embeddings, and examples of random images that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    n = len(targets)
    features = unit(torch.randn(n, SIZE, generator=generator, dtype=torch.float64))
    images = torch.randn(n, 1, 3, 3, generator=generator, dtype=torch.float64)
    return features, Examples(images, torch.tensor(targets), torch.ones(n, dtype=torch.float64))


def padded(features: Tensor, support: Examples, more: int) -> tuple[Tensor, Examples]:
    """Garbage of weight 0 before and after; classes as they were."""
    garbage = torch.full((more, SIZE), 9.0, dtype=torch.float64)
    images = torch.full((more, 1, 3, 3), 9.0, dtype=torch.float64)
    nothing = torch.zeros(more, dtype=torch.float64)
    return torch.cat([garbage, features, garbage]), Examples(
        torch.cat([images, support.inputs, images]),
        torch.cat([nothing.long(), support.targets, nothing.long()]),
        torch.cat([nothing, support.weights, nothing]),
    )


def solved(context: Context, params: Params, features: Tensor, support: Examples, queries: Tensor, way: int) -> Array:
    answers: Array = context.answer(params, context.read(params, features, support, way), queries).numpy()
    return answers


def softmax(scores: Array) -> Array:
    shares: Array = np.exp(scores - scores.max())
    return shares / shares.sum()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def matching_by_hand(f: Array, g: Array, labels: list[int], scale: float) -> Array:
    """log p(y | x), one query at a time."""
    rows = []
    for x in f:
        cosines = np.array([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in g])
        share = softmax(scale * cosines)
        rows.append([math.log(sum(a for a, y in zip(share, labels, strict=True) if y == c)) for c in range(WAY)])
    return np.array(rows)


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 0, 1, 1, 0, 1, 2]])  # one shot; classes of different sizes
def test_matching_equals_numpy(labels: list[int]) -> None:
    context = matching(SIZE, scale=3.0)
    params = fresh(context)
    features, support = embedded(labels)
    queries, _ = embedded([0] * 5, seed=9)
    expected = matching_by_hand(queries.numpy(), features.numpy(), labels, math.exp(params["log_scale"]))
    np.testing.assert_allclose(solved(context, params, features, support, queries, WAY), expected, rtol=0, atol=1e-9)


def lstm_by_hand(p: Arrays, prefix: str, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    gates = p[f"{prefix}.weight_input"] @ x + p[f"{prefix}.weight_hidden"] @ h + p[f"{prefix}.bias"]
    i, forget, g, o = np.split(gates, 4)
    c = sigmoid(forget) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def full_context_by_hand(p: Arrays, x: Array, order: list[int]) -> Array:
    g = x.copy()
    for prefix, sequence in (("fce.forward", order), ("fce.backward", order[::-1])):
        h = c = np.zeros(SIZE)
        for i in sequence:
            h, c = lstm_by_hand(p, prefix, x[i], h, c)
            g[i] += h
    return g


def attentive_query_by_hand(p: Arrays, x: Array, g: Array, reads: int) -> Array:
    state = h = c = np.zeros(SIZE)
    for _ in range(reads):
        seen = softmax(g @ state / math.sqrt(SIZE)) @ g
        h, c = lstm_by_hand(p, "fce.query", np.concatenate([x, seen]), h, c)
        state = h + x
    return state


def test_full_context_embeddings_equal_numpy() -> None:
    labels = [2, 0, 1, 1, 0]
    context = matching(SIZE, full_context=True, reads=3, orders=2)
    params = fresh(context)
    p = arrays(params)
    features, support = embedded(labels)
    queries, _ = embedded([0] * 4, seed=9)
    orders = content_orders(support.inputs, support.weights, 2).tolist()
    assert orders[0] != orders[1]
    x = 2.0 * features.numpy()
    g = np.mean([full_context_by_hand(p, x, order) for order in orders], 0)
    f = np.stack([attentive_query_by_hand(p, 2.0 * q, g, 3) for q in queries.numpy()])
    expected = matching_by_hand(f, g, labels, math.exp(params["log_scale"]))
    np.testing.assert_allclose(solved(context, params, features, support, queries, WAY), expected, rtol=0, atol=1e-9)


def attention_by_hand(p: Arrays, prefix: str, tokens: list[Array]) -> list[Array]:
    made = []
    for t, token in enumerate(tokens):
        query = p[f"{prefix}.query"] @ token + p[f"{prefix}.query_bias"]
        keys = np.stack([p[f"{prefix}.key"] @ tokens[j] for j in range(t + 1)])
        values = np.stack([p[f"{prefix}.value"] @ tokens[j] + p[f"{prefix}.value_bias"] for j in range(t + 1)])
        made.append(np.concatenate([token, softmax(keys @ query / math.sqrt(len(query))) @ values]))
    return made


def dense_by_hand(p: Arrays, prefix: str, tokens: list[Array], dilation: int) -> list[Array]:
    made = []
    for t, token in enumerate(tokens):
        past = tokens[t - dilation] if t >= dilation else np.zeros_like(token)
        filtered, gate = np.split(p[f"{prefix}.past"] @ past + p[f"{prefix}.now"] @ token + p[f"{prefix}.bias"], 2)
        made.append(np.concatenate([token, np.tanh(filtered) * sigmoid(gate)]))
    return made


def snail_by_hand(p: Arrays, x: Array, labels: list[int], order: list[int], query: Array, slots: int) -> Array:
    """Logits by class: the whole sequence, support and one query, as the paper draws it."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels[i] for i in order))}
    tokens = [np.concatenate([2.0 * x[i], np.eye(slots)[numbers[labels[i]]]]) for i in order]
    tokens.append(np.concatenate([2.0 * query, np.zeros(slots)]))
    tokens = attention_by_hand(p, "attention1", tokens)
    for j in (1, 2, 3):
        tokens = dense_by_hand(p, f"temporal1.dense{j}", tokens, 2**j)
    tokens = attention_by_hand(p, "attention2", tokens)
    units = p["output.weight"] @ tokens[-1] + p["output.bias"]
    return np.array([units[numbers[label]] for label in range(len(numbers))])


SNAIL = {"max_way": 5, "max_length": 8, "filters": 3, "attention": ((4, 3), (3, 2))}


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 0, 1, 1, 0, 1, 2, 2, 0, 1]])  # shorter, longer than dilations reach
@pytest.mark.parametrize("padding", [0, 3])
def test_snail_equals_numpy(labels: list[int], padding: int) -> None:
    context = snail(SIZE, orders=2, **SNAIL)  # type: ignore[arg-type]  # options are plain data
    params = fresh(context)
    features, support = embedded(labels)
    queries, _ = embedded([0] * 3, seed=9)
    orders = content_orders(support.inputs, support.weights, 2).tolist()
    expected = [
        np.mean([snail_by_hand(arrays(params), features.numpy(), labels, order, query, 5) for order in orders], 0)
        for query in queries.numpy()
    ]
    given = padded(features, support, padding) if padding else (features, support)
    found = solved(context, params, *given, queries, WAY)
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("keys", [32, 64, 66])
def test_a_fresh_snail_matches(keys: int) -> None:
    # It starts with little more than attention that looks for what is alike and units that read its label.
    context = snail(64, filters=4, attention=((keys, 5), (8, 4)), max_way=5, max_length=8)
    generator = torch.Generator().manual_seed(0)
    params = {name: p.double() for name, p in context.init(generator).items()}
    _, support = embedded([2, 0, 3, 1, 4])
    features = unit(torch.randn(5, 64, generator=generator, dtype=torch.float64))
    queries = unit(features + 0.05 * torch.randn(5, 64, generator=generator, dtype=torch.float64))
    assert solved(context, params, features, support, queries, 5).argmax(1).tolist() == [2, 0, 3, 1, 4]


def test_snail_refuses_more_classes_than_it_has_units() -> None:
    context = snail(SIZE, **SNAIL)  # type: ignore[arg-type]  # options are plain data
    features, support = embedded(list(range(6)))
    with pytest.raises(WayUnsupported, match="at most 5 classes"):
        context.read(fresh(context), features, support, 6)


def test_orders_follow_from_the_content() -> None:
    _, support = embedded([0] * 30)
    orders = content_orders(support.inputs, support.weights, 3)
    assert all(sorted(order) == list(range(30)) for order in orders.tolist())
    assert not torch.equal(orders[0], orders[1])
    shuffle = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    again = content_orders(support.inputs[shuffle], support.weights, 3)
    torch.testing.assert_close(shuffle[again], orders)
    # More orders do not change the first ones, and rounding to the precision of images changes none.
    torch.testing.assert_close(content_orders(support.inputs, support.weights, 5)[:3], orders)
    torch.testing.assert_close(content_orders(support.inputs.float(), support.weights.float(), 3), orders)


def test_padding_comes_first() -> None:
    features, support = padded(*embedded([0] * 4), 2)
    orders = content_orders(support.inputs, support.weights, 2)
    assert sorted(orders[0, :4].tolist()) == [0, 1, 6, 7]
    plain = content_orders(support.inputs[2:6], support.weights[2:6], 2)
    torch.testing.assert_close(orders[:, 4:] - 2, plain)
    assert len(features) == 8


def test_classes_are_numbered_as_they_appear() -> None:
    members = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]).double()
    numbers = class_numbers(members[None], 5)
    # Class 2 first, then 0; those that do not appear come behind.
    assert numbers.argmax(2).tolist() == [[1, 2, 0, 3]]
    assert (numbers.sum(2) == 1).all()
