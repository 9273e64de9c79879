"""A whole run in process: what it writes, what it chooses, and that the artifact is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kshot_models.artifact import load_artifact
from kshot_models.load import load, meta_to_arrays
from kshot_models.registry import build_learner
from kshot_training.checkpoint import load_newest
from kshot_training.errors import CheckpointError, NonFiniteError, WarmStartError
from kshot_training.evaluate import evaluate
from kshot_training.finish import finish
from kshot_training.history import History, read_history
from kshot_training.outer_loop import StepMetrics
from kshot_training.progress import Reporter, bar_reporter
from kshot_training.recipe import Recipe, Setting
from kshot_training.sampling import Place, recipe_episodes
from kshot_training.training_run import Trained, train
from kshot_training.warm_start import warm_start

Make = Callable[..., Recipe]
PNG = b"\x89PNG\r\n\x1a\n"


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def step(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics.step)

    def line(self, text: str) -> None:
        self.lines.append(text)


def run(
    recipe: Recipe, folder: Path, place: Place, notes: Notes, *, resume: bool = False, stop_at: int | None = None
) -> Trained:
    @contextmanager
    def reporter(done: int) -> Iterator[Reporter]:
        yield notes

    episodes = recipe_episodes(recipe, place)
    return train(recipe, folder, episodes, reporter=reporter, stop=lambda: notes.steps[-1:] == [stop_at], resume=resume)


def test_what_a_meta_gradient_tells_of_itself_is_in_the_history(
    make_recipe: Make, place: Place, tmp_path: Path
) -> None:
    inner = [{"type": "proximal", "strength": 2.0}, {"type": "sgd", "rate": 0.1}]
    section = {"type": "imaml", "strength": 2.0, "cg_steps": 2}
    recipe = make_recipe(**{"meta_gradient": section, "learner.inner": inner, "outer.steps": 2})
    run(recipe, tmp_path, place, Notes())
    row = next(row for row in read_history(tmp_path / "history.jsonl") if "loss" in row)
    assert row["cg_residual"] > 0
    assert row["inner_grad_norm"] > 0
    assert 0 <= row["cg_truncated"] <= 1


def test_what_a_run_leaves(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    recipe, notes = make_recipe(), Notes()
    trained = run(recipe, tmp_path, place, notes)
    assert trained.finished
    assert notes.steps == [1, 2, 3, 4, 5, 6]
    assert sum("validation 3w1s" in line for line in notes.lines) == 3
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000000004", "step-000000006"}
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(PNG)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    rows = read_history(tmp_path / "history.jsonl")
    assert [row["step"] for row in rows if "validation" in row] == [2, 4, 6]
    assert next(row for row in rows if "loss" in row)["step"] == 6
    assert Recipe.model_validate_json((tmp_path / "recipe.json").read_text()) == recipe

    episodes = recipe_episodes(recipe, place)
    folder, measured = finish(recipe, trained, tmp_path, episodes)
    assert folder == tmp_path / "small" / "1"
    loaded = load(folder)
    for name, tensor in meta_to_arrays(trained.meta).items():
        assert torch.equal(tensor, meta_to_arrays(loaded.meta_params)[name])
    provenance = loaded.manifest.provenance
    assert provenance.recipe_sha256 == recipe.digest
    assert provenance.episodes == 6 * 2
    assert [row.norm for row in measured] == ["support", "transductive"]
    assert measured == provenance.measured
    # The artifact, loaded from disk, answers the same episodes just as well.
    again = evaluate(loaded.learner, loaded.meta_params, episodes.test[Setting(way=3, shot=1)], episodes=4)
    assert again.accuracy == pytest.approx(measured[0].accuracy, abs=1e-6)
    assert loaded.manifest.calibration.temperature != 1.0
    assert load_artifact(folder).manifest.calibration.unknown_threshold is None


def test_best_is_chosen_on_validation_and_survives_a_stop(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    # A rate this high ruins what the first steps learned: the best validation is not the last one.
    recipe = make_recipe(**{"outer.learning_rate": 0.3, "outer.average_decay": 0.0, "validation.every": 1})
    straight = run(recipe, tmp_path / "a", place, Notes())
    stopped = run(recipe, tmp_path / "b", place, Notes(), stop_at=3)
    assert (stopped.finished, stopped.step) == (False, 3)
    notes = Notes()
    resumed = run(recipe, tmp_path / "b", place, notes, resume=True)
    assert notes.lines[0] == "resumed after outer step 3"
    assert notes.steps == [4, 5, 6]
    assert resumed.best_score == straight.best_score
    scores = [
        row["validation"]["3w1s"] for row in read_history(tmp_path / "b" / "history.jsonl") if "validation" in row
    ]
    assert len(scores) == 6
    assert straight.best_score == pytest.approx(max(scores))
    for name, tensor in meta_to_arrays(straight.meta).items():
        assert torch.equal(tensor, meta_to_arrays(resumed.meta)[name])


def test_last_is_the_average_at_the_end(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    recipe = make_recipe(**{"artifact.select": "last", "validation": None, "measure": None, "outer.steps": 2})
    trained = run(recipe, tmp_path, place, Notes())
    assert trained.best_score is None
    checkpoint = tmp_path / "checkpoints" / "step-000000002"
    assert json.loads((checkpoint / "state.json").read_text())["values"]["best"] is None
    folder, measured = finish(recipe, trained, tmp_path, recipe_episodes(recipe, place))
    assert measured == ()
    assert load(folder).manifest.calibration.temperature == 1.0


def test_resuming_with_another_recipe_is_refused(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    run(make_recipe(**{"outer.steps": 2}), tmp_path, place, Notes())
    with pytest.raises(CheckpointError, match="another recipe"):
        run(make_recipe(**{"outer.steps": 3}), tmp_path, place, Notes(), resume=True)


def test_a_nan_leaves_a_sound_checkpoint(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    schedule = {"type": "step", "every": 4, "factor": 1e38}  # the fifth step goes too far
    recipe = make_recipe(**{"outer.schedule": schedule, "validation.every": 100})
    with pytest.raises(NonFiniteError, match="outer step 5: the query loss is nan"):
        run(recipe, tmp_path, place, Notes())
    checkpoint = load_newest(tmp_path / "checkpoints", recipe_digest=recipe.digest)
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_warm_start_takes_what_agrees(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    first = make_recipe(
        **{"learner.type": "prototype", "learner.head": {"type": "prototype"}, "learner.inner": [], "learner.steps": 0}
    )
    source, _ = finish(first, run(first, tmp_path / "a", place, Notes()), tmp_path / "a", recipe_episodes(first, place))
    second = make_recipe(**{"outer.steps": 1, "outer.learning_rate": 1e-12, "init_from": str(source)})
    notes = Notes()
    trained = run(second, tmp_path / "b", place, notes)
    assert notes.lines[0].endswith("6 tensors; fresh: head.weight, head.bias")
    expected = load(source).meta_params.init["body.conv2.weight"]
    torch.testing.assert_close(trained.meta.init["body.conv2.weight"], expected, rtol=0, atol=1e-6)

    wider = make_recipe(**{"learner.network": {"type": "conv4", "channels": [4, 16]}, "init_from": str(source)})
    with pytest.raises(WarmStartError, match=r"body\.conv2\.weight is \(8, 4, 3, 3\) there"):
        run(wider, tmp_path / "c", place, Notes())
    network = {"type": "mlp", "hidden": [4]}
    other = make_recipe(**{"learner.network": network, "learner.norm": "none", "init_from": str(source)})
    with pytest.raises(WarmStartError, match="No name agrees"):
        run(other, tmp_path / "d", place, Notes())


def test_warm_start_takes_running_moments_along(make_recipe: Make, place: Place, tmp_path: Path) -> None:
    prototypes = {"learner.type": "prototype", "learner.head": {"type": "prototype"}, "learner.norm": "population"}
    still = {"learner.inner": [], "learner.steps": 0}
    first = make_recipe(**prototypes, **still)
    source, _ = finish(first, run(first, tmp_path / "a", place, Notes()), tmp_path / "a", recipe_episodes(first, place))
    counted = load(source).meta_params.stats
    assert counted["norm1.mean"].abs().max() > 1e-3
    meta = build_learner(first.learner, first.input).init(torch.Generator().manual_seed(5))
    warm_start(meta, str(source))
    assert all(torch.equal(meta.stats[name], moments) for name, moments in counted.items())


def test_warm_start_gives_each_inner_step_the_norms_that_there_are(
    make_recipe: Make, place: Place, tmp_path: Path
) -> None:
    still = {"learner.inner": [], "learner.steps": 0, "learner.head": {"type": "prototype"}}
    first = make_recipe(**{"learner.type": "prototype", "learner.norm": "population"}, **still)
    source, _ = finish(first, run(first, tmp_path / "a", place, Notes()), tmp_path / "a", recipe_episodes(first, place))
    there = load(source).meta_params
    own = {"learner.norm": "per_step", "learner.per_step_gains": True, "learner.adapt": ["*.conv*", "head.*"]}
    second = make_recipe(**own, **{"learner.steps": 3})
    meta = build_learner(second.learner, second.input).init(torch.Generator().manual_seed(5))
    warm_start(meta, str(source))
    for step in range(3):
        assert torch.equal(meta.init["body.norm1.gain"][step], there.init["body.norm1.gain"])
        assert torch.equal(meta.stats["norm2.variance"][step], there.stats["norm2.variance"][0])
    shared = make_recipe(**{"learner.head": {"type": "shared"}})
    of_one_row, _ = finish(
        shared, run(shared, tmp_path / "b", place, Notes()), tmp_path / "b", recipe_episodes(shared, place)
    )
    linear = make_recipe(**{"learner.head": {"type": "linear", "way": 3}})
    with pytest.raises(WarmStartError, match=r"(head\.weight|head\.bias) is"):  # a row for each class is no such row
        warm_start(build_learner(linear.learner, linear.input).init(torch.Generator()), str(of_one_row))


def test_history_drops_what_a_killed_run_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 5, "lo')
    history = History(path, step=2, every=2)
    history.step(StepMetrics(3, 0.4, 0.5, 1.0, 0.1))
    history.step(StepMetrics(4, 0.2, 0.7, 1.0, 0.1))
    history.flush()
    assert read_history(path) == [
        {"step": 2, "loss": 1.0},
        {"step": 4, "loss": pytest.approx(0.3), "learning_rate": 0.1, "accuracy": pytest.approx(0.6)},
    ]


def test_the_bar_prints_lines_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with bar_reporter(done=0, steps=2, tasks=4) as report:
        report.step(StepMetrics(1, 0.4, 0.5, 1.0, 0.1))
        report.line("validation [5w1s] 50%")
    out, error = capfd.readouterr()
    assert out == ""
    assert error.strip() == "validation [5w1s] 50%"
