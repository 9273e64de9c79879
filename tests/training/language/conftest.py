"""Small texts of one's own, and the shipped recipe made small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from kshot_training.language.recipe import LanguageRecipe
from kshot_training.recipe_files import read_language_recipe

SMALL = (
    "text.source=text:topics",
    "text.minimum=3000",
    "text.symbols=60",
    "model.hidden=12",
    "static={lanes = 8, length = 16, validate_every = 2, characters = 64, outer = {learning_rate = 0.02, steps = 4}}",
    "reading={segment = 16, epsilon = 1.0, rms_stretches = 3, rms_segments = 4}",
    "optimizer.0.hidden=3",
    "unroll={steps = 3, tasks = 2, horizons = [{steps = 3}, {since = 1, steps = 6}]}",
    "outer={learning_rate = 0.01, steps = 5}",
    "validation={every = 2, characters = 64}",
    "dynamic={sgd_rates = [0.1], rms_rates = [0.01], decays = [0.0, 0.01], characters = 64}",
    "measure={characters = 160, together = 6}",
    "checkpoint_every=1",
)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the long topics of Python's own help, which ship with it: technical prose, a document each."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "topics").mkdir()
    for name, text in topics.items():
        if len(text) >= 3000:
            (folder / "topics" / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small() -> Callable[..., LanguageRecipe]:
    """The shipped recipe with small numbers, and others for some of them."""
    return lambda *overrides: read_language_recipe("language-python-docs", [*SMALL, *overrides])


@pytest.fixture
def overrides() -> tuple[str, ...]:
    """What makes it small, as a command line says it."""
    return SMALL
