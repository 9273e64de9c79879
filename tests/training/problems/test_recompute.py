"""Recomputed segments give the plain gradient, bit for bit, and hold O(sqrt n) of what the plain graph holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kshot_models.manifest import Component
from kshot_models.registry import build_inner_optimizer
from kshot_models.types import Params
from kshot_training import unroll_memory
from kshot_training.problems import Quadratics
from kshot_training.problems.base import Problem
from kshot_training.recompute import segment_lengths
from kshot_training.saved_bytes import count_saved_bytes
from kshot_training.unroll import Unroll, begin

RULES: dict[str, dict[str, Any]] = {
    "lstm": {"type": "lstm", "hidden": (5, 4), "scale": 0.1},
    "meta_learner_lstm": {"type": "meta_learner_lstm", "hidden": 5},
    "linear_rule": {"type": "linear_rule", "rate": 0.02},
}


def double(problem: Problem) -> Problem:
    return problem._replace(start={name: p.double() for name, p in problem.start.items()})


def unrolled(rule: dict[str, Any], steps: int, recompute: int | None) -> tuple[tuple[torch.Tensor, ...], int]:
    """The gradient by the rule's weights in fp64, and the most bytes that were saved for it."""
    built = build_inner_optimizer([Component.model_validate(rule)])
    problem = double(Quadratics(dimensions=3, seed=2).draw(0, 2))
    drawn = built.init({"theta": torch.zeros(3)}, torch.Generator().manual_seed(0))
    phi: Params = {name: leaf.double().requires_grad_() for name, leaf in drawn.items()}
    walk = begin(built, phi, problem)
    with count_saved_bytes() as counted:
        loss, _, _ = Unroll(built, steps, recompute=recompute)(phi, problem, walk)
        grads = torch.autograd.grad(loss, list(phi.values()))
    del loss
    assert counted.now == 0
    return grads, counted.peak


@pytest.mark.parametrize("rule", RULES)
def test_recomputed_is_plain_bit_for_bit(rule: str) -> None:
    plain, _ = unrolled(RULES[rule], 9, None)
    assert all(grad.abs().max() > 0 for grad in plain)
    for length in (0, 1, 2, 4, 9, 20):
        again, _ = unrolled(RULES[rule], 9, length)
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)), length


def test_memory_grows_with_the_square_root_of_the_steps() -> None:
    plain = {steps: unrolled(RULES["lstm"], steps, None)[1] for steps in (16, 64)}
    flat = {steps: unrolled(RULES["lstm"], steps, 0)[1] for steps in (16, 64)}
    assert plain[64] / plain[16] == pytest.approx(4, rel=0.05)
    assert flat[64] / flat[16] == pytest.approx(2, rel=0.15)
    assert flat[64] < plain[64] / 4


@pytest.mark.parametrize(("steps", "length", "expected"), [(10, 4, [4, 4, 2]), (9, None, [3, 3, 3]), (3, 5, [3])])
def test_segments_cover_all_steps(steps: int, length: int | None, expected: list[int]) -> None:
    assert segment_lengths(steps, length) == expected
    assert math.ceil(math.sqrt(steps)) == segment_lengths(steps, None)[0]


def test_the_committed_figures_are_what_is_measured(tmp_path: Path) -> None:
    committed = Path(unroll_memory.__file__).parents[1] / "results" / "figures" / "unroll-memory.json"
    rows = json.loads(committed.read_text())
    fresh = unroll_memory.measure((4, 16))
    # Counted, not sampled; another version of torch may save a little more or less for an operation.
    for row in fresh:
        known = next(r for r in rows if r["steps"] == row["steps"])
        assert row["plain"] == pytest.approx(known["plain"], rel=0.2)
        assert row["recomputed"] == pytest.approx(known["recomputed"], rel=0.2)
    unroll_memory.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
