"""Costs counted on the meta device: a count by hand, and that recipes compute where their tensors are."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from kshot_training.commands import train
from kshot_training.flops import meta_device_step, outer_step_flops
from kshot_training.recipe import Recipe
from kshot_training.recipe_files import read_recipe, shipped_recipes


def test_an_mlp_counted_by_hand() -> None:
    recipe = read_recipe("sine-joint", ["meta_gradient.batching=loop"])  # vmap makes a product of the loss too
    widths = [1, 40, 40, 1]
    products = [recipe.episodes.queries * a * b for a, b in itertools.pairwise(widths)]
    # Forward, by the weights, and by the inputs except those of the first layer; a multiply-add is two operations.
    by_hand = 2 * (3 * sum(products) - products[0]) * recipe.episodes.tasks
    assert outer_step_flops(recipe) == by_hand


IMAML = {
    "meta_gradient": {"type": "imaml", "strength": 2.0},
    "learner.inner": [{"type": "proximal", "strength": 2.0}, {"type": "sgd", "rate": 0.1}],
}
NEWTON = {"meta_gradient": IMAML["meta_gradient"], "learner.inner": [{"type": "newton_cg", "strength": 2.0}]}


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("glyphs-")])
def test_a_recipe_computes_on_one_device(name: str) -> None:
    meta_device_step(read_recipe(name))


@pytest.mark.parametrize("values", [IMAML, NEWTON], ids=["gradient descent", "Hessian-free"])
def test_implicit_gradients_compute_on_one_device(values: dict[str, Any], make_recipe: Callable[..., Recipe]) -> None:
    meta_device_step(make_recipe(**values))


def test_a_dry_run_tells_the_cost_and_trains_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    train.configure(parser)
    assert train.run(parser.parse_args(["sine-joint", "outer.steps=1000", "--dry-run"])) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "sine-joint: 1000 outer steps of 25 tasks, 1761 numbers"
    assert second == "0.003 GFLOP an outer step, 0.000 PFLOP in all"
    assert not list(tmp_path.iterdir())


def test_a_step_whose_examples_depend_on_their_classes_is_counted_too() -> None:
    whole = outer_step_flops(read_recipe("omniglot-fomaml-tail", ["meta_gradient.tail_shots=1", "episodes.tasks=1"]))
    assert (
        outer_step_flops(read_recipe("omniglot-fomaml-tail", ["meta_gradient.tail_shots=1", "episodes.tasks=2"]))
        == 2 * whole
    )
