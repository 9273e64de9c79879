"""Each algorithm, end to end, by a short recipe: it trains, beats what it began as, and its artifact says what it does.

Floors are well under what was measured on one machine (in the table): another machine rounds otherwise, and a hundred
steps of training amplify that. Chance is 20 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from kshot_models.load import load
from kshot_training import build
from kshot_training.evaluate import Evaluation, evaluate
from kshot_training.finish import finish
from kshot_training.outer_loop import StepMetrics
from kshot_training.process import prepare_process
from kshot_training.progress import Reporter
from kshot_training.recipe import Recipe, Setting
from kshot_training.recipe_files import read_recipe
from kshot_training.sampling import Place, recipe_episodes
from kshot_training.training_run import Episodes, Trained, train

EPISODES = 60


class Golden(NamedTuple):
    floor: float  # accuracy that training reaches at least
    gain: float  # over the same learner before training


GOLDEN = {
    "glyphs-fomaml": Golden(0.45, 0.12),
    "glyphs-joint": Golden(0.60, 0.05),
    "glyphs-lslr": Golden(0.45, 0.15),
    "glyphs-maml": Golden(0.45, 0.12),
    "glyphs-mamlpp": Golden(0.40, 0.15),
    "glyphs-matching": Golden(0.62, 0.10),
    "glyphs-meta-sgd": Golden(0.38, 0.12),
    "glyphs-proto-maml": Golden(0.65, 0.10),
    "glyphs-protonet": Golden(0.65, 0.12),
    "glyphs-reptile": Golden(0.45, 0.03),
    "glyphs-ridge": Golden(0.65, 0.10),
    "glyphs-snail": Golden(0.45, 0.10),
    "glyphs-unicorn": Golden(0.45, 0.15),
}


class Silent:
    def step(self, metrics: StepMetrics) -> None:
        pass

    def line(self, text: str) -> None:
        pass


@contextlib.contextmanager
def silent(done: int) -> Iterator[Reporter]:
    yield Silent()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    threads = torch.get_num_threads()
    prepare_process()
    yield
    torch.set_num_threads(threads)


def train_recipe(recipe: Recipe, folder: Path, place: Place) -> tuple[Trained, Episodes, Evaluation]:
    """Train; the last value is the evaluation of the untrained learner on the first test or validation setting.

    One task at a time: two side by side in one process take more of the processor, and the other core has a test too.
    """
    episodes = recipe_episodes(recipe, place)
    learner = build.build_learner(recipe.learner, recipe.input)
    sample = next(iter((episodes.test or episodes.validation).values()))
    before = evaluate(
        learner,
        build.fresh_meta(learner, seed=recipe.seed),
        sample,
        episodes=EPISODES,
        loss=build.build_loss(recipe.learner),
    )
    return train(recipe, folder, episodes, reporter=silent), episodes, before


def test_every_short_recipe_has_its_golden_run() -> None:
    folder = Path(build.__file__).parent / "recipes"
    assert {path.stem for path in folder.glob("glyphs-*.toml")} == GOLDEN.keys()


@pytest.mark.timeout(900)  # half a minute alone on a core, more on a busy machine
@pytest.mark.parametrize("name", GOLDEN)
def test_trains_and_its_artifact_is_what_was_measured(name: str, place: Place, tmp_path: Path) -> None:
    recipe = read_recipe(name, [f"measure.episodes={EPISODES}"])
    trained, episodes, before = train_recipe(recipe, tmp_path, place)
    folder, (measured,) = finish(recipe, trained, tmp_path, episodes)
    assert measured.accuracy >= GOLDEN[name].floor
    assert measured.accuracy >= before.accuracy + GOLDEN[name].gain

    loaded = load(folder)
    setting = Setting(way=5, shot=1)
    again = evaluate(loaded.learner, loaded.meta_params, episodes.test[setting], episodes=EPISODES)
    # Saved and loaded weights are the same bits; only their memory layout may differ, and with it the last rounding.
    assert again.accuracy == pytest.approx(measured.accuracy, abs=2 / (EPISODES * 25))


def test_sine_waves_are_learned_by_one_step(tmp_path: Path) -> None:
    waves = ["outer.learning_rate=5e-3", "data.options={frequency = [1.0, 1.0]}"]
    overrides = [*waves, "outer.steps=900", "validation.episodes=100", "validation.every=900"]
    recipe = read_recipe("sine-maml", overrides)
    trained, episodes, before = train_recipe(recipe, tmp_path, Place())
    folder, _ = finish(recipe, trained, tmp_path, episodes)
    loaded = load(folder)
    after = evaluate(
        loaded.learner,
        loaded.meta_params,
        episodes.validation[Setting(way=1, shot=10)],
        episodes=EPISODES,
        loss=build.build_loss(recipe.learner),
    )
    # The mean square of the waves themselves, which answering 0 everywhere costs, is E[A^2] / 2 = 4.3.
    assert after.loss <= 2.6
    assert after.loss <= before.loss - 1.5
