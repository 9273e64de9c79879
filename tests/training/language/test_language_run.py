"""A run from text to figures: golden, stoppable, and told by its command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kshot_training.commands import language as command
from kshot_training.commands import train as train_command
from kshot_training.data.errors import SourceNotFound
from kshot_training.errors import CheckpointError, RecipeError
from kshot_training.history import read_history
from kshot_training.language.bits import bits_of_documents, read_static, read_updated
from kshot_training.language.comparison import measured_bits, write_seed
from kshot_training.language.recipe import LanguageRecipe
from kshot_training.language.results import METHODS, render_language, spread
from kshot_training.language.run import TrainedLanguage, load_language, recipe_texts, train_language
from kshot_training.outer_loop import StepMetrics
from kshot_training.progress import Reporter
from kshot_training.recipe_files import read_language_recipe, read_recipe

Small = Callable[..., LanguageRecipe]


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps = 0

    def step(self, metrics: StepMetrics) -> None:
        self.steps += 1

    def line(self, text: str) -> None:
        self.lines.append(text)


def run(
    recipe: LanguageRecipe, folder: Path, root: Path, *, stop_after: int = 0, resume: bool = False
) -> tuple[TrainedLanguage, Notes]:
    notes = Notes()

    @contextmanager
    def reporter(done: int, steps: int) -> Iterator[Reporter]:
        yield notes

    def stop() -> bool:
        return bool(stop_after) and notes.steps == stop_after

    trained = train_language(recipe, folder, recipe_texts(recipe, root), reporter=reporter, stop=stop, resume=resume)
    return trained, notes


def test_golden_reading_on_lowers_the_bits_of_new_documents(root: Path, small: Small, tmp_path: Path) -> None:
    recipe = small(
        "model.hidden=24",
        "static.outer.steps=60",
        "static.validate_every=60",
        "static.lanes=32",
        "unroll={steps = 8, tasks = 4, horizons = [{steps = 16}]}",
        "outer={learning_rate = 0.1, steps = 6}",
        "validation={every = 6, characters = 256}",
    )
    trained, _ = run(recipe, tmp_path / "run", root)
    assert trained.finished
    texts = recipe_texts(recipe, root)
    ways = {"static": read_static, "learned": lambda s: read_updated(trained.rule, trained.phi, s)}
    bits = {
        name: float(bits_of_documents(read, trained.reader, texts.parts["test"], characters=768, together=10).mean())
        for name, read in ways.items()
    }
    assert bits["static"] < 4.7  # 5.9 is chance
    assert bits["learned"] < bits["static"] - 0.1
    history = read_history(tmp_path / "run" / "updater" / "history.jsonl")
    assert [row["step"] for row in history if "validation" in row] == [6]
    assert (tmp_path / "run" / "static" / "learning_curve.png").exists()


@pytest.fixture(scope="session")
def straight(root: Path, small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedLanguage, Path]:
    """A small run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    return run(small(), folder, root)[0], folder


@pytest.mark.parametrize("stop_after", [3, 6])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    stop_after: int,
    root: Path,
    small: Small,
    straight: tuple[TrainedLanguage, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, folder = straight
    stopped, _ = run(small(), tmp_path, root, stop_after=stop_after)
    assert not stopped.finished
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert command.run(parser.parse_args([str(tmp_path), "--data-root", str(root)])) == 2
    assert "is not at its end" in capsys.readouterr().err
    resumed, notes = run(small(), tmp_path, root, resume=True)
    assert resumed.finished
    assert any("resumed after outer step" in line for line in notes.lines)
    assert all(torch.equal(leaf, resumed.phi[name]) for name, leaf in expected.phi.items())
    for name in ("static/checkpoints/step-000000004", "updater/checkpoints/step-000000005"):
        states = [json.loads((each / name / "state.json").read_text())["sha256"] for each in (folder, tmp_path)]
        assert states[0] == states[1]
    loaded = load_language(small(), tmp_path, recipe_texts(small(), root))
    assert loaded.finished
    assert all(torch.equal(leaf, loaded.phi[name]) for name, leaf in expected.phi.items())


def test_an_updater_may_be_tried_again_on_the_same_static_weights_but_not_on_others(
    root: Path, small: Small, tmp_path: Path
) -> None:
    between, _ = run(small(), tmp_path, root, stop_after=4)  # all steps of the static weights
    assert not between.finished
    other, notes = run(small("outer.learning_rate=0.02"), tmp_path, root, resume=True)
    assert other.finished
    assert notes.steps == 5
    with pytest.raises(CheckpointError, match="another recipe"):
        run(small("static.lanes=9"), tmp_path, root, resume=True)
    with pytest.raises(CheckpointError, match="expected a run of"):
        load_language(small(), tmp_path / "nowhere", recipe_texts(small(), root))


def test_figures_are_means_over_documents_and_segments() -> None:
    bits = torch.arange(12.0).reshape(4, 3)
    found = measured_bits(bits)
    assert found == {"bits": 5.5, "documents": [4.5, 5.5, 6.5], "by_position": [1.0, 4.0, 7.0, 10.0]}
    assert len(measured_bits(torch.ones(97, 2))["by_position"]) == 40
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert spread([1.0]) == (1.0, 0.0)


def test_a_file_holds_seeds_of_one_comparison(tmp_path: Path) -> None:
    path = tmp_path / "some" / "figures.json"
    found = [
        {name: {"bits": bits + seed, "by_position": [1.0, 2.0]} for name in METHODS}
        for seed, bits in enumerate((2.0, 3.0))
    ]
    write_seed(path, {"recipe": "a"}, 10, found[0])
    written = write_seed(path, {"recipe": "a"}, 2, found[1])
    assert list(written["seeds"].items()) == [("2", found[1]), ("10", found[0])]
    assert written["bits"]["static"] == {"mean": 3.0, "sd": pytest.approx(2**0.5, abs=1e-5)}
    assert json.loads(path.read_text()) == written
    assert "[ 1.0, 2.0 ]" in path.read_text()
    assert write_seed(path, {"recipe": "b"}, 3, found[0])["seeds"] == {"3": found[0]}
    assert json.loads(path.read_text())["recipe"] == "b"


def test_commands_train_and_compare(
    root: Path,
    overrides: tuple[str, ...],
    straight: tuple[TrainedLanguage, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parsers = {}
    for name, each in (("train", train_command), ("language", command)):
        parsers[name] = argparse.ArgumentParser()
        each.configure(parsers[name])
    runs = [straight[1], tmp_path / "run"]
    threads = torch.get_num_threads()
    flags = ["seed=1", "--data-root", str(root), "--out", str(runs[1]), "--threads", "1"]
    assert train_command.run(parsers["train"].parse_args(["language-python-docs", *overrides, *flags])) == 0
    again = parsers["train"].parse_args(["language-python-docs", *overrides, "--out", str(runs[0])])
    assert train_command.run(again) == 2
    assert "add --resume" in capsys.readouterr().err
    figures, plot = tmp_path / "language" / "small.json", tmp_path / "language" / "small.png"
    flags = ["--data-root", str(root), "--json", str(figures), "--plot", str(plot)]
    assert command.run(parsers["language"].parse_args([*map(str, runs), *flags])) == 0
    torch.set_num_threads(threads)
    written = json.loads(figures.read_text())
    assert list(written["seeds"]) == ["0", "1"]
    assert written["characters"] == 160
    for found in written["seeds"].values():
        assert {len(found[name]["by_position"]) for name in METHODS} == {10}
        assert found["settings"]["kind"] in {"sgd", "rms"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = render_language([figures])
    mean = sum(found["static"]["bits"] for found in written["seeds"].values()) / 2
    assert f"| static | {mean:.3f} ± " in text
    assert "kshot language runs/language-python-docs-0 runs/language-python-docs-1 --data-root DIR" in text
    assert render_language([]) == ""


@pytest.mark.parametrize(
    ("flags", "told"),
    [(["nowhere"], "expected the folder of a language model's run"), (["x", "--plot", "x.png"], "--plot draws")],
)
def test_the_command_says_what_it_wants(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert command.run(parser.parse_args(flags)) == 2
    assert told in capsys.readouterr().err


def test_recipes_say_what_they_train(small: Small) -> None:
    with pytest.raises(RecipeError, match="has no \\[text\\]: it trains a learner, and here a language model"):
        read_language_recipe("sine-maml")
    with pytest.raises(RecipeError, match="has a \\[text\\]: it trains a language model, and here a learner"):
        read_recipe("language-python-docs")
    with pytest.raises(RecipeError, match="minimum is 3000, but 3000 characters"):
        small("measure.characters=3000")
    assert small("measure.characters=160").digest == small("measure.characters=80", "dynamic.decays=[0.0]").digest
    assert small("outer.steps=6").digest != small().digest
    assert small("outer.steps=6").static_digest == small().static_digest
    assert small("text.minimum=2999").static_digest != small().static_digest


def test_text_that_is_not_there_is_told(small: Small, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="where there is nothing"):
        recipe_texts(small(), tmp_path)
