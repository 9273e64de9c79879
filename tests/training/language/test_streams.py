"""Weights that change while a text is read: against reading at once, against rules by hand, against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kshot_models.inner import linear_rule, lstm, meta_learner_lstm
from kshot_models.inner.per_tensor import per_tensor
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.tree import tree_add, tree_dot, tree_map
from kshot_models.types import MetaParams, Params
from kshot_training.language.bits import bits_of_documents, read_static, read_updated
from kshot_training.language.dynamic import dynamic_evaluation, reader_of, relative_pull, tune
from kshot_training.language.model import CharacterLSTM
from kshot_training.language.recipe import DynamicSection
from kshot_training.language.streams import (
    DocumentStreams,
    Reader,
    Stream,
    gradient_rms,
    rms_scale,
    whole_documents,
)
from kshot_training.truncated import Truncated
from kshot_training.unroll import Unroll, begin

MODEL = CharacterLSTM(symbols=5, hidden=4)
STATIC = tree_map(Tensor.double, MODEL.init(torch.Generator().manual_seed(0)))
DRAWN = torch.Generator().manual_seed(1)
SCALE = tree_map(lambda leaf: 0.5 + torch.rand(leaf.shape, generator=DRAWN).double(), STATIC)
READER = Reader(MODEL, STATIC, SCALE, segment=4)
DOCUMENTS = [torch.randint(0, 5, (length,), generator=DRAWN) for length in (37, 60, 45)]
LEARNED: dict[str, InnerOptimizer] = {
    "lstm": lstm(hidden=(3,), scale=0.3),
    "meta_learner_lstm": meta_learner_lstm(hidden=3, input_bias=(-2.0, -1.0), forget_bias=(1.0, 2.0)),
    "gates of rows": per_tensor(meta_learner_lstm(hidden=3, input_bias=(-2.0, -1.0), gates="row")),
    "linear_rule": linear_rule(rate=0.3),
}


def fresh(rule: InnerOptimizer) -> Params:
    return tree_map(Tensor.double, rule.init(STATIC, torch.Generator().manual_seed(2)))


def bits(read: Callable[[Stream], Tensor], *, reader: Reader = READER, together: int = 3) -> Tensor:
    return bits_of_documents(read, reader, DOCUMENTS, characters=36, together=together)


def updated(rule: InnerOptimizer, phi: Params, *, reader: Reader = READER, together: int = 3) -> Tensor:
    return bits(lambda stream: read_updated(rule, phi, stream), reader=reader, together=together)


def pinned(rate: float, keep: float) -> Params:
    """The Meta-Learner LSTM's weights with gates that say sigmoid(f) = keep and sigmoid(i) = rate whatever they see."""
    phi = tree_map(torch.zeros_like, fresh(LEARNED["meta_learner_lstm"]))
    before = {
        "input.bias": math.log(rate / (1 - rate)),
        "forget.bias": math.log(keep / (1 - keep)) if keep < 1 else 1e3,
    }
    return phi | {name: torch.tensor(value, dtype=torch.float64) for name, value in before.items()}


def test_a_stream_of_static_weights_is_one_reading() -> None:
    found = bits(read_static)
    assert found.shape == (9, 3)
    for document, column in zip(DOCUMENTS, found.T, strict=True):
        whole, _ = MODEL.losses(STATIC, MODEL.blank(STATIC["output.bias"], 1), document[:37, None])
        torch.testing.assert_close(column, whole.reshape(9, 4).mean(1) / math.log(2))
    torch.testing.assert_close(bits(read_static, reader=Reader(MODEL, STATIC, None, 4)), found)


def test_an_updater_that_never_writes_is_static() -> None:
    zero = tree_map(torch.zeros_like, fresh(LEARNED["lstm"]))
    assert torch.equal(updated(LEARNED["lstm"], zero), bits(read_static))
    assert torch.equal(updated(dynamic_evaluation(rate=0.0, decay=0.3), {}), bits(read_static))


def test_pinned_gates_are_dynamic_evaluation() -> None:
    expected = updated(dynamic_evaluation(rate=0.25, decay=0.125), {})
    torch.testing.assert_close(updated(LEARNED["meta_learner_lstm"], pinned(0.25, 0.875)), expected, rtol=1e-12, atol=0)
    linear = {"gradient": torch.tensor(-0.25).double(), "weight": torch.tensor(-0.125).double()}
    assert torch.equal(updated(LEARNED["linear_rule"], linear), expected)
    assert (expected - bits(read_static)).abs()[1:].min() > 1e-5
    without = updated(LEARNED["meta_learner_lstm"], pinned(0.25, 1.0))
    torch.testing.assert_close(without, updated(dynamic_evaluation(rate=0.25, decay=0.0), {}), rtol=1e-12, atol=0)


def test_dynamic_evaluation_is_the_published_rule_by_hand() -> None:
    rms = tree_map(lambda leaf: 0.1 * torch.rand(leaf.shape, generator=DRAWN).double(), STATIC)
    rms["output.bias"] = torch.full_like(rms["output.bias"], 4.0)  # whose pull is cut off at 1
    mean = torch.cat([leaf.flatten() for leaf in rms.values()]).mean()
    epsilon, rate, decay = 0.2, 0.05, 0.3
    reader = Reader(MODEL, STATIC, rms_scale(rms, epsilon), 4)
    found = updated(dynamic_evaluation(rate=rate, decay=decay, pull=relative_pull(rms)), {}, reader=reader)
    assert (decay * relative_pull(rms)["output.bias"]).min() > 1
    for document, column in zip(DOCUMENTS, found.T, strict=True):
        theta, memory = STATIC, MODEL.blank(STATIC["output.bias"], 1)
        for step in range(9):
            leaves = tree_map(lambda leaf: leaf.clone().requires_grad_(), theta)
            losses, memory = MODEL.losses(leaves, memory, document[4 * step : 4 * step + 5, None])
            grads = dict(zip(theta, torch.autograd.grad(losses.mean(), list(leaves.values())), strict=True))
            memory = tree_map(Tensor.detach, memory)
            assert column[step].item() == pytest.approx(losses.mean().item() / math.log(2), rel=1e-10)
            theta = {
                name: leaf
                - rate * grads[name] / (rms[name] + epsilon * mean)
                + (decay * rms[name] / mean).clamp(max=1) * (STATIC[name] - leaf)
                for name, leaf in theta.items()
            }


@pytest.mark.parametrize("name", LEARNED)
def test_neither_batching_nor_the_order_of_documents_matters(name: str) -> None:
    rule = LEARNED[name]
    phi = fresh(rule)
    together = updated(rule, phi)
    torch.testing.assert_close(updated(rule, phi, together=1), together, rtol=1e-10, atol=1e-12)
    turned = bits_of_documents(
        lambda stream: read_updated(rule, phi, stream), READER, DOCUMENTS[::-1], characters=36, together=2
    )
    torch.testing.assert_close(turned.flip(1), together, rtol=1e-10, atol=1e-12)


def of_task(tree: Params, task: int) -> Params:
    return tree_map(lambda leaf: leaf[task], tree)


def replayed(rule: InnerOptimizer, phi: Params, stream: Stream, seen: list[tuple[Tensor, Params]]) -> Tensor:
    """The mean over later segments of <gradient, displacement>, with losses and gradients that stay as they were."""
    total = torch.zeros((), dtype=torch.float64)
    for task in range(len(stream.characters)):
        bound, at = rule.bind(phi), of_task(stream.start, task)
        state = bound.init(at)
        for (losses, grads), (_, later) in pairwise(seen):
            updates, state = bound.update(of_task(grads, task), state, at, losses[task])
            at = tree_add(at, updates)
            total = total + tree_dot(at, of_task(later, task))
    return total / len(stream.characters) / (len(seen) - 1)


def gradient(
    rule: InnerOptimizer, phi: Params, stream: Stream, recompute: int | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    loss, _, _ = Unroll(rule, 3, recompute=recompute)(phi, stream, begin(rule, phi, stream))
    return loss, torch.autograd.grad(loss, list(phi.values()))


@pytest.mark.parametrize("name", LEARNED)
def test_the_truncated_gradient_is_that_of_differences(name: str) -> None:
    rule, stream = LEARNED[name], whole_documents(READER, DOCUMENTS, 16)
    phi = tree_map(lambda leaf: leaf.requires_grad_(), fresh(rule))
    seen, walk = [], begin(rule, phi, stream)
    for _ in range(4):  # what it sees on the way: gradients count as constants, so differences must not move them
        leaves = tree_map(lambda leaf: leaf.detach().requires_grad_(), walk.params)
        losses, _ = stream.look(leaves, walk.memory, walk.taken)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        seen.append((losses.detach(), dict(zip(leaves, grads, strict=True))))
        if walk.taken < 3:
            _, _, walk = Unroll(rule, 1)(phi, stream, walk)
    loss, grads = gradient(rule, phi, stream, None)
    assert all(torch.equal(a, b) for a, b in zip(grads, gradient(rule, phi, stream, 2)[1], strict=True))
    assert loss.item() == pytest.approx(torch.stack([losses.mean() for losses, _ in seen[1:]]).mean().item())
    generator, epsilon = torch.Generator().manual_seed(3), 1e-5
    for (key, leaf), grad in list(zip(phi.items(), grads, strict=True))[:: 1 + len(phi) // 10]:
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        high, low = (
            replayed(rule, {**phi, key: leaf.detach() + e * direction}, stream, seen).item()
            for e in (epsilon, -epsilon)
        )
        assert float((grad * direction).sum()) == pytest.approx((high - low) / (2 * epsilon), rel=1e-5, abs=1e-9), key


def test_one_segment_ahead_nothing_is_left_out_of_the_gradient() -> None:
    # The first gradient and the memory owe nothing to the rule: the derivative of the loss itself.
    rule, stream = LEARNED["meta_learner_lstm"], whole_documents(READER, DOCUMENTS, 8)
    phi = tree_map(lambda leaf: leaf.requires_grad_(), fresh(rule))

    def loss(phi: Params) -> Tensor:
        return Unroll(rule, 1)(phi, stream, begin(rule, phi, stream))[0]

    grads = torch.autograd.grad(loss(phi), list(phi.values()), allow_unused=True, materialize_grads=True)
    for (key, leaf), grad in zip(phi.items(), grads, strict=True):
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        high, low = (loss({**phi, key: leaf.detach() + e * direction}).item() for e in (1e-5, -1e-5))
        assert float((grad * direction).sum()) == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-9), key


def test_stretches_go_on_and_a_checkpoint_is_where_they_stood() -> None:
    rule = LEARNED["gates of rows"]
    meta = MetaParams({}, fresh(rule), {})

    def truncated() -> Truncated:
        family = DocumentStreams(READER, DOCUMENTS, segments=7, seed=0)
        return Truncated(Unroll(rule, 2), family, tasks=2, horizon=lambda step: 6)

    straight = truncated()
    expected = [straight.gradient(meta, step) for step in range(5)]
    stopped = truncated()
    for step in range(2):
        stopped.gradient(meta, step)
    tensors, values = stopped.tensors()
    assert {name.partition("/")[0] for name in tensors} == {"params", "memory", "state"}
    resumed = truncated()
    resumed.load(dict(sorted(tensors.items())), values)
    for step in range(2, 5):
        grads, metrics = resumed.gradient(meta, step)
        assert torch.equal(metrics.loss, expected[step][1].loss)
        assert all(torch.equal(leaf, expected[step][0].inner[name]) for name, leaf in grads.inner.items())


def test_stretches_are_parts_of_documents_and_all_places_come_up() -> None:
    documents = [torch.arange(10), torch.arange(100, 113)]
    family = DocumentStreams(READER, documents, segments=2, seed=5)
    drawn = torch.cat([family.draw(number, 20).characters for number in range(5)])
    assert drawn.shape == (100, 9)
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(9))
    assert set(drawn[:, 0].tolist()) == {0, 1, 100, 101, 102, 103, 104}
    assert torch.equal(family.draw(2, 20).characters, drawn[40:60])
    with pytest.raises(ValueError, match="one has 10"):
        whole_documents(READER, documents, 12)


def test_the_rms_is_of_the_gradients_of_segments() -> None:
    plain = reader_of("sgd", READER)
    rms = gradient_rms(plain, DOCUMENTS, stretches=3, segments=2, seed=1)
    characters = DocumentStreams(plain, DOCUMENTS, 2, 1).draw(0, 3).characters
    squares = []
    for text in characters:
        memory = MODEL.blank(STATIC["output.bias"], 1)
        for first in (0, 4):
            leaves = tree_map(lambda leaf: leaf.clone().requires_grad_(), STATIC)
            losses, memory = MODEL.losses(leaves, memory, text[first : first + 5, None])
            grads = torch.autograd.grad(losses.mean(), list(leaves.values()))
            squares.append([grad.square() for grad in grads])
            memory = tree_map(Tensor.detach, memory)
    for leaf, parts in zip(rms.values(), zip(*squares, strict=True), strict=True):
        torch.testing.assert_close(leaf, torch.stack(parts).mean(0).sqrt())


def test_tuning_tries_decays_with_the_better_kind_only() -> None:
    section = DynamicSection(sgd_rates=(0.1, 1e4), rms_rates=(1e-9,), decays=(0.0, 0.1), characters=20)
    found = tune(section, READER, SCALE, DOCUMENTS)
    tried = {(each.kind, each.rate, each.decay) for each in found}
    better = min((each for each in found if not each.decay), key=lambda each: each.bits).kind
    rates = {"sgd": section.sgd_rates, "rms": section.rms_rates}
    assert tried == {(kind, rate, 0.0) for kind, some in rates.items() for rate in some} | {
        (better, rate, 0.1) for rate in rates[better]
    }
    assert [each.bits for each in found] == sorted(each.bits for each in found)
