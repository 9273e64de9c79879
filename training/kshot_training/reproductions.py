"""The table of published figures that kshot reproduces, and what each of them takes: recipe, overrides, settings.

reproductions.toml ──read──> Reproduction ──plan──> Run, in the order of training
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated

from pydantic import Field, model_validator

from kshot_models.manifest import NormMode
from kshot_training.meta_gradient_sections import Reptile
from kshot_training.recipe import Recipe, Setting
from kshot_training.recipe_files import read_recipe
from kshot_training.sections import Section

__all__ = ["Figure", "Reproduction", "Run", "plan", "read_reproductions", "setting_rank"]

_ORDER = ((5, 1), (20, 1), (5, 5), (20, 5))  # what is hardest to reach first, what takes longest last
_EPISODES = 2000  # the least that a row of results is measured on


class Figure(Setting):
    """A setting of a recipe, and what was published for it."""

    published: Mapping[NormMode, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)  # accuracy by norm
    published_mse: Annotated[float, Field(gt=0)] | None = None  # of a regression
    overrides: tuple[str, ...] = ()


class Reproduction(Section):
    """A recipe and the settings that figures were published for."""

    recipe: str
    part: Annotated[str, Field(pattern=r"^[a-z]+$")] | None = None  # where a recipe stands for several algorithms
    algorithm: str  # as RESULTS.md calls it
    source: str
    one_checkpoint: bool = False  # trained once for all settings; else once for each
    overrides: tuple[str, ...] = ()  # of all settings
    settings: Annotated[tuple[Figure, ...], Field(min_length=1)]

    @property
    def name(self) -> str:
        """Of its runs, before the setting."""
        return self.recipe if self.part is None else f"{self.recipe}-{self.part}"

    @model_validator(mode="after")
    def _overrides_belong(self) -> Reproduction:
        if self.one_checkpoint and any(figure.overrides for figure in self.settings):
            raise ValueError(f"{self.recipe}: one checkpoint for all settings is trained by the overrides of all")
        return self


class Run(Section):
    """One training, and the figures that are measured of its checkpoint."""

    name: str  # of its folder, and for --only
    reproduction: Reproduction
    figures: tuple[Figure, ...]

    @property
    def command(self) -> str:
        """What trains and measures it anywhere."""
        return f"kshot reproduce --only {self.name}"

    def recipe(self, *extra: str) -> Recipe:
        """The recipe with the overrides of this run, then `extra` ones.

        Raises:
            RecipeError: They do not fit together.
        """
        own = () if self.reproduction.one_checkpoint else self.figures[0].overrides
        return read_recipe(self.reproduction.recipe, [*self.reproduction.overrides, *self._of_settings(), *own, *extra])

    def _of_settings(self) -> list[str]:
        recipe = read_recipe(self.reproduction.recipe, self.reproduction.overrides)
        settings = ", ".join(f"{{way = {figure.way}, shot = {figure.shot}}}" for figure in self.figures)
        words = [f"artifact.name={self.name}"]
        if recipe.measure is not None:
            words += [f"measure.settings=[{settings}]", f"measure.episodes={max(_EPISODES, recipe.measure.episodes)}"]
        if self.reproduction.one_checkpoint:
            return words
        way, shot = self.figures[0].way, self.figures[0].shot
        words += [f"episodes.way={way}", f"artifact.limits.max_way={max(way, recipe.artifact.limits.max_way)}"]
        words += [f"artifact.limits.max_support={max(way * shot, recipe.artifact.limits.max_support)}"]
        if not isinstance(recipe.meta_gradient, Reptile):  # whose training tasks have more examples than the shot
            words.append(f"episodes.shot={shot}")
        if recipe.learner.head.type == "linear":
            words.append(f"learner.head.way={way}")
        if recipe.validation is not None:
            words.append(f"validation.settings=[{settings}]")
        return words


def read_reproductions() -> tuple[Reproduction, ...]:
    """The committed table."""
    text = (resources.files("kshot_training") / "reproductions.toml").read_text(encoding="utf-8")
    return tuple(Reproduction.model_validate(raw) for raw in tomllib.loads(text)["reproductions"])


def plan(reproductions: tuple[Reproduction, ...]) -> list[Run]:
    """All trainings, in the order in which they are worth their time."""
    runs = []
    for entry in reproductions:
        if entry.one_checkpoint:
            runs.append(Run(name=entry.name, reproduction=entry, figures=entry.settings))
            continue
        runs += [Run(name=f"{entry.name}-{f.name}", reproduction=entry, figures=(f,)) for f in entry.settings]
    return sorted(runs, key=lambda run: setting_rank(run.figures[0].way, run.figures[0].shot))


def setting_rank(way: int, shot: int) -> tuple[int, int, int]:
    """The place of a setting in the order of training and of tables."""
    known = _ORDER.index((way, shot)) if (way, shot) in _ORDER else len(_ORDER)
    return known, way, shot
