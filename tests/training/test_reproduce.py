"""`kshot reproduce`: the table of runs, one run from training to its rows, stopped and gone on with."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kshot_models.artifact import load_artifact
from kshot_training.commands import reproduce as command
from kshot_training.flops import outer_step_flops
from kshot_training.outer_loop import StepMetrics
from kshot_training.recipe_files import shipped_recipes
from kshot_training.reproduce import (
    add_missing,
    device_overrides,
    expected_rows,
    is_done,
    reproduce,
    rows_path,
)
from kshot_training.reproductions import Figure, Reproduction, Run, plan, read_reproductions
from kshot_training.results import read_rows, record
from kshot_training.sampling import Place

RESULTS = Path(__file__).parents[2] / "training" / "results"
TABLE = plan(read_reproductions())


class Silent:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, metrics: StepMetrics) -> None:
        self.steps += 1

    def line(self, text: str) -> None:
        pass


def reporter(report: Silent) -> Any:
    def start(done: int) -> AbstractContextManager[Silent]:
        return nullcontext(report)

    return start


def small_run(recipe: str, *figures: Figure, one_checkpoint: bool = False) -> Run:
    entry = Reproduction(
        recipe=recipe, algorithm="FOMAML", source="a paper", settings=figures, one_checkpoint=one_checkpoint
    )
    return plan((entry,))[0]


@pytest.mark.parametrize("run", TABLE, ids=lambda run: run.name)
def test_every_run_of_the_table_is_a_recipe_that_measures_what_was_published(run: Run) -> None:
    recipe = run.recipe()
    assert recipe.measure is not None
    assert recipe.measure.episodes >= 2000
    assert [(s.way, s.shot) for s in recipe.measure.settings] == [(f.way, f.shot) for f in run.figures]
    if recipe.learner.type == "gradient" and not run.reproduction.one_checkpoint:
        assert recipe.measure.queries == 15
        assert recipe.measure.transductive
        assert recipe.episodes.way == run.figures[0].way
        assert recipe.learner.head.options.get("way", run.figures[0].way) == run.figures[0].way
    norms = {row.norm for row in expected_rows(run)}
    assert all(set(figure.published) <= norms for figure in run.figures)


def test_the_table_has_each_setting_once_and_its_rows_are_committed() -> None:
    names = [run.name for run in TABLE]
    assert len(set(names)) == len(names)
    assert {run.reproduction.recipe for run in TABLE} <= set(shipped_recipes())
    first = [name for name in names if name.endswith("-5w1s")]
    later = [name for name in names if name.endswith("-20w1s")]
    assert names.index(first[-1]) < names.index(later[0])
    for run in TABLE:
        there = {row.key for row in read_rows(rows_path(RESULTS, run))}
        assert all(row.key in there for row in expected_rows(run)), f"{run.name}: make results"


def test_the_published_figures_stand_with_their_norms_and_splits() -> None:
    figures = {
        (row.data, row.algorithm, row.way, row.shot, row.norm): row.published
        for run in TABLE
        for row in expected_rows(run)
    }
    assert figures["omniglot mixed test", "MAML", 20, 1, "transductive"] == 0.958
    assert figures["omniglot mixed test", "MAML", 20, 1, "support"] is None
    assert figures["omniglot test", "MAML", 5, 1, "transductive"] is None
    assert figures["omniglot mixed test", "Reptile", 5, 1, "support"] == 0.9539
    assert figures["omniglot mixed test", "iMAML, Hessian-free", 20, 5, "transductive"] == 0.9914
    assert figures["omniglot test", "Matching Networks", 20, 1, "support"] == 0.938


def test_a_stopped_run_goes_on_and_fills_its_rows(tmp_path: Path) -> None:
    run = small_run("glyphs-fomaml", Figure(way=3, shot=2, published={"support": 0.5}, overrides=("outer.steps=3",)))
    assert run.name == "glyphs-fomaml-3w2s"
    tiny = ("data.source=glyphs:classes=6,drawings=8", "input.height=10", "input.width=10", "learner.steps=1")
    few = ("measure.episodes=4", "validation.episodes=2", "learner.network.channels=[4, 4]")
    recipe = run.recipe(*tiny, *few, "measure.transductive=true")
    assert (recipe.episodes.way, recipe.episodes.shot) == (3, 2)
    add_missing(tmp_path, [run])
    assert [row.norm for row in read_rows(rows_path(tmp_path, run))] == ["support", "transductive"]
    assert not is_done(run, tmp_path)

    place, folder = Place(cache=tmp_path / "cache"), tmp_path / "runs" / run.name
    begun, rest = Silent(), Silent()
    stopped = reproduce(run, recipe, folder, place, reporter=reporter(begun), stop=lambda: begun.steps == 1)
    assert stopped is None
    rows = reproduce(run, recipe, folder, place, reporter=reporter(rest), stop=lambda: False)
    assert rows is not None
    assert (begun.steps, rest.steps) == (1, 2)
    record(rows_path(tmp_path, run), *rows)
    there = read_rows(rows_path(tmp_path, run))
    assert [(row.norm, row.published, row.episodes) for row in there] == [
        ("support", 0.5, 4),
        ("transductive", None, 4),
    ]
    measured = load_artifact(folder / run.name / "1").manifest.provenance.measured
    assert [row.accuracy for row in there] == [seen.accuracy for seen in measured]  # both of one checkpoint
    assert there[0].command == "kshot reproduce --only glyphs-fomaml-3w2s"
    assert there[0].seconds is not None
    assert is_done(run, tmp_path)
    add_missing(tmp_path, [run])
    assert read_rows(rows_path(tmp_path, run)) == there


def test_a_regression_is_measured_by_steps(tmp_path: Path) -> None:
    figures = Figure(way=1, shot=5, published_mse=1.13), Figure(way=1, shot=7)
    run = small_run("sine-maml", *figures, one_checkpoint=True)
    recipe = run.recipe("outer.steps=1", "measure.episodes=3", "measure.queries=4", "validation.episodes=2")
    rows = reproduce(run, recipe, tmp_path, Place(), reporter=reporter(Silent()), stop=lambda: False)
    assert rows is not None
    assert [(row.shot, row.published_mse, row.accuracy) for row in rows] == [(5, 1.13, None), (7, None, None)]
    for row in rows:
        assert row.mse_by_steps is not None
        assert list(row.mse_by_steps) == ["0", "1", "5", "10", "32"]
        assert row.mse_by_steps["1"] == row.mse
        assert row.measured


def test_settings_of_one_checkpoint_have_no_overrides_of_their_own() -> None:
    with pytest.raises(ValidationError, match="trained by the overrides of all"):
        small_run("glyphs-fomaml", Figure(way=3, shot=2, overrides=("outer.steps=3",)), one_checkpoint=True)


def test_overrides_of_an_entry_are_of_all_its_settings_and_come_before_theirs() -> None:
    entry = Reproduction(
        recipe="glyphs-fomaml",
        algorithm="FOMAML",
        source="a paper",
        overrides=("outer.steps=7", "seed=3"),
        settings=(Figure(way=3, shot=1), Figure(way=5, shot=1, overrides=("outer.steps=9",))),
    )
    recipes = [run.recipe() for run in plan((entry,))]
    assert {(recipe.episodes.way, recipe.outer.steps, recipe.seed) for recipe in recipes} == {(3, 7, 3), (5, 9, 3)}


def test_tasks_are_batched_on_a_gpu_where_the_meta_gradient_can() -> None:
    for name in ("omniglot-maml-5w1s", "omniglot-joint"):
        run = next(run for run in TABLE if run.name == name)
        assert device_overrides(run, "cuda") == ["meta_gradient.batching=vmap"]
        assert device_overrides(run, "cpu") == []


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_lists_and_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--only", "sine-maml-*", "--list", "--results", tmp_path) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[1:]] == ["sine-maml-1w5s", "sine-maml-1w10s", "sine-maml-1w20s"]
    assert all(line.endswith("to do") for line in told[1:])
    assert call("--only", "sine-maml-1w5s", "--costs", "--results", tmp_path) == 0
    (told_costs,) = capsys.readouterr().out.splitlines()[1:]
    recipe = next(run for run in TABLE if run.name == "sine-maml-1w5s").recipe()
    steps, flops = recipe.outer.steps, outer_step_flops(recipe)
    assert told_costs.split()[1:4] == [str(steps), f"{flops / 1e9:.3f}", f"{flops * steps / 1e15:.3f}"]
    assert told_costs.endswith("to do")
    assert call("--only", "no-such", "--results", tmp_path) == 2
    assert "no run is called 'no-such'" in capsys.readouterr().err

    assert call("--only", "sine-maml-1w5s", "--rows", "--results", tmp_path) == 0
    path = tmp_path / "sine-maml.json"
    record(path, *(row.model_copy(update={"mse": 1.0}) for row in read_rows(path)))
    assert call("--only", "sine-maml-1w5s", "--results", tmp_path) == 0
    assert capsys.readouterr().out == "sine-maml-1w5s: done before\n"


def test_without_time_nothing_is_trained(tmp_path: Path) -> None:
    assert call("--only", "sine-maml-1w5s", "--results", tmp_path, "--out", tmp_path, "--budget-seconds", 0) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["sine-maml.json"]


def test_missing_data_stop_only_the_runs_that_need_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--results", tmp_path / "results", "--out", tmp_path / "runs", "--data-root", tmp_path / "nowhere")
    assert call("--only", "mini-imagenet-maml-*", *where) == 1
    told = capsys.readouterr().err
    assert "mini-imagenet-maml-5w1s: expected the mini-imagenet data at" in told
    assert "mini-imagenet-maml-5w5s: expected the mini-imagenet data at" in told
