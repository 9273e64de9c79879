"""Reading recipes: strict, overridable, and told in words what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kshot_models.registry import build_inner_optimizer
from kshot_models.types import MetaParams
from kshot_training import build
from kshot_training.errors import RecipeError
from kshot_training.language.model import CharacterLSTM
from kshot_training.language.recipe import LanguageRecipe
from kshot_training.meta_gradients import through_adaptation
from kshot_training.optimizer_recipe import OptimizerRecipe
from kshot_training.problems import PROBLEMS
from kshot_training.recipe import Recipe
from kshot_training.recipe_files import apply_override, read_any_recipe, read_recipe, shipped_recipes
from kshot_training.sampling import Place, recipe_episodes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_build(name: str) -> None:
    recipe = read_any_recipe(name)
    assert recipe.name == name
    assert recipe.description
    if isinstance(recipe, OptimizerRecipe):
        assert recipe.problem.type in PROBLEMS
        rule = build_inner_optimizer(recipe.optimizer)
        phi = rule.init({"any": torch.zeros(1)}, torch.Generator().manual_seed(0))
        build.build_state(MetaParams({}, phi, {}), recipe.outer)
        return
    if isinstance(recipe, LanguageRecipe):
        static = CharacterLSTM(recipe.text.symbols, recipe.model.hidden).init(torch.Generator().manual_seed(0))
        phi = build_inner_optimizer(recipe.optimizer).init(static, torch.Generator().manual_seed(0))
        build.build_state(MetaParams(static, {}, {}), recipe.static.outer)
        build.build_state(MetaParams({}, phi, {}), recipe.outer)
        return
    learner = build.build_learner(recipe.learner, recipe.input)
    meta = learner.init(torch.Generator().manual_seed(0))
    build.build_meta_gradient(recipe)
    build.build_state(meta, recipe.outer)
    assert build.build_schedule(recipe.outer.schedule, steps=recipe.outer.steps)(0) > 0


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("outer.steps=200", ("outer", "steps"), 200),
        ("outer.learning_rate=1e-3", ("outer", "learning_rate"), 1e-3),
        ("episodes.way=[5, 20]", ("episodes", "way"), [5, 20]),
        ("name=plain text", ("name",), "plain text"),
        ('name="quoted"', ("name",), "quoted"),
        ("learner.inner.0.rate=0.5", ("learner", "inner", 0, "rate"), 0.5),
        ("outer.schedule.type=cosine", ("outer", "schedule", "type"), "cosine"),
        ("measure.settings=[{way = 5, shot = 1}]", ("measure", "settings"), [{"way": 5, "shot": 1}]),
    ],
)
def test_overrides(override: str, path: tuple[Any, ...], value: Any) -> None:
    raw: dict[str, Any] = {"name": "old", "outer": {"steps": 1}, "learner": {"inner": [{"rate": 0.1}]}}
    apply_override(raw, override)
    node: Any = raw
    for part in path:
        node = node[part]
    assert node == value


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("outer.steps", "expected an override like"),
        ("=5", "expected an override like"),
        ("learner.inner.7.rate=1", "'7' is no entry of a list of 1"),
        ("learner.inner.first.rate=1", "'first' is no entry"),
        ("name.first=1", "is a value, not a table"),
        ("name.first.second=1", "is inside a value, not a table"),
    ],
)
def test_wrong_overrides(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        apply_override({"name": "old", "learner": {"inner": [{"rate": 0.1}]}}, override)


def test_no_such_recipe_suggests_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'omniglot-maml'"):
        read_recipe("omniglot-mam")


def test_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match="cannot be read as TOML"):
        read_recipe(str(path))


def test_every_problem_is_told_with_its_key() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("omniglot-maml", ["outer.stepps=3", "episodes.tasks=0", "meta_gradient.type=magic"])
    message = str(caught.value)
    assert "outer.stepps: unknown key; did you mean 'steps'?" in message
    assert "episodes.tasks: Input should be greater than or equal to 1 (got 0)" in message
    assert "meta_gradient" in message


CARRYING = {"type": "adam", "rate": 0.01, "carry_moments": True}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"outer.optimizer": "sgd", "outer.betas": (0.9, 0.99)}, "sgd has no `betas`"),
        ({"outer.momentum": 0.9}, "adam has no `momentum`"),
        ({"outer.optimizer": "sgd", "outer.epsilon": 1e-8}, "sgd has no `epsilon`"),
        ({"outer.schedule": {"type": "step"}}, "needs `every`"),
        (
            {"meta_gradient": {"type": "through_adaptation", "step_weights": (0.5, 0.5), "multi_step_until": 3}},
            "give one of the two",
        ),
        (
            {"meta_gradient": {"type": "through_adaptation", "order": 1, "first_order_until": 3}},
            "never takes second derivatives",
        ),
        ({"meta_gradient": {"type": "reptile", "batch": 2, "tail_shots": 1}}, "set direction = 'last'"),
        (
            {"meta_gradient": {"type": "in_turn"}, "episodes.way": (2, 3), "episodes.vary": "task"},
            "takes no padded episodes",
        ),
        (
            {
                "meta_gradient": {"type": "in_turn", "norm_momentum": 0.0},
                "learner.type": "prototype",
                "learner.head": {"type": "prototype"},
                "learner.inner": [],
                "learner.steps": 0,
                "learner.norm": "population",
            },
            "there are none to go by",
        ),
        (
            {"meta_gradient": {"type": "reptile", "batch": 2}, "learner.inner": [CARRYING]},
            "averaged by plain outer steps",
        ),
        (
            {
                "meta_gradient": {"type": "reptile", "batch": 2},
                "learner.inner": [CARRYING],
                "outer.optimizer": "sgd",
                "outer.momentum": 0.9,
            },
            "averaged by plain outer steps",
        ),
        ({"validation": None}, "needs a \\[validation\\] section"),
    ],
)
def test_sections_agree_with_each_other(values: dict[str, Any], told: str, make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ValidationError, match=told):
        make_recipe(**values)


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ([{"type": "sgd", "rate": 0.1}], "begins with a pull back to the start"),
        ([], "begins with a pull back to the start"),
        ([{"type": "sgd", "rate": 0.1}, {"type": "proximal", "strength": 2.0}], "begins with a pull back to the start"),
        ([{"type": "proximal", "strength": 1.0}, {"type": "sgd", "rate": 0.1}], "is 2.0, that of learner.inner 1.0"),
    ],
)
def test_imaml_and_its_inner_problem_agree(
    inner: list[dict[str, Any]], told: str, make_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(ValidationError, match=told):
        make_recipe(**{"meta_gradient": {"type": "imaml", "strength": 2.0}, "learner.inner": inner})
    make_recipe(
        **{
            "meta_gradient": {"type": "imaml", "strength": 2},
            "learner.inner": [{"type": "newton_cg", "strength": 2.0}],
        }
    )


def test_the_digest_covers_what_decides_the_numbers(make_recipe: Callable[..., Recipe]) -> None:
    digest = make_recipe().digest
    assert make_recipe(**{"outer.steps": 7}).digest != digest
    assert make_recipe(**{"learner.steps": 1}).digest != digest
    assert make_recipe(**{"checkpoint_every": 3, "artifact.description": "other", "measure": None}).digest == digest


PARTS = {
    "MSL": ("meta_gradient.multi_step_until=5000", "meta_gradient.multi_step_epoch=500"),
    "DA": ("meta_gradient.first_order_until=25000",),
    "CA": ("outer.schedule.final=0.01",),
    "BNWB and BNRS": ("learner.per_step_gains=true", "learner.norm=per_step"),
    "LSLR": ('learner.inner=[{type = "lslr", rate = 0.1, steps = 5}]',),
}


def test_the_parts_of_mamlpp_are_its_whole() -> None:
    def decisive(recipe: Recipe) -> dict[str, Any]:
        return recipe.model_dump(exclude={"name", "description", "artifact"})

    overrides = [override for part in PARTS.values() for override in part]
    assert decisive(read_recipe("omniglot-mamlpp-baseline", overrides)) == decisive(read_recipe("omniglot-mamlpp"))
    digests = {read_recipe("omniglot-mamlpp-baseline", list(part)).digest for part in PARTS.values()}
    assert len(digests | {read_recipe("omniglot-mamlpp-baseline").digest}) == len(PARTS) + 1
    head = shipped_recipes()["omniglot-mamlpp-baseline"].read_text(encoding="utf-8").split("name = ")[0]
    assert all(override in head for override in overrides)  # each is told to users


@pytest.mark.parametrize(
    ("step", "first_order", "weights"),
    [(0, True, (0.5, 0.5)), (2, True, (0.25, 0.75)), (3, False, (0.25, 0.75)), (4, False, None), (5, False, None)],
)
def test_losses_and_orders_are_annealed_by_the_outer_step(
    step: int, first_order: bool, weights: Any, make_recipe: Callable[..., Recipe], place: Place
) -> None:
    section = {"type": "through_adaptation", "multi_step_until": 4, "multi_step_epoch": 2, "first_order_until": 3}
    recipe = make_recipe(meta_gradient=section)
    learner = build.build_learner(recipe.learner, recipe.input)
    meta = build.fresh_meta(learner, seed=recipe.seed)
    batch = recipe_episodes(recipe, place).train(0)
    at = build.build_meta_gradient(recipe)
    expected, found = (
        gradient(learner, meta, batch.episodes, way=batch.way, generator=torch.Generator())
        for gradient in (through_adaptation(first_order=first_order, step_weights=weights), at(step))
    )
    assert found[1] == expected[1]
    assert all(torch.equal(found[0].init[name], grad) for name, grad in expected[0].init.items())


def test_an_annealed_meta_gradient_is_made_anew_only_when_it_changes(make_recipe: Callable[..., Recipe]) -> None:
    at = build.build_meta_gradient(make_recipe(meta_gradient={"type": "through_adaptation", "first_order_until": 2}))
    assert at(0) is at(1)  # it may hold a pool of threads
    assert at(1) is not at(2)
    assert at(2) is at(3)
