"""Reading recipes: the TOML file, the overrides of the command line, and errors that say what to write instead."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from kshot_training import optimizer_recipe, recipe
from kshot_training.errors import RecipeError
from kshot_training.language import recipe as language_recipe
from kshot_training.language.recipe import LanguageRecipe
from kshot_training.optimizer_recipe import OptimizerRecipe
from kshot_training.recipe import Recipe
from kshot_training.sections import Section

__all__ = [
    "AnyRecipe",
    "apply_override",
    "read_any_recipe",
    "read_language_recipe",
    "read_optimizer_recipe",
    "read_recipe",
    "shipped_recipes",
]

R = TypeVar("R", bound=Section)
AnyRecipe: TypeAlias = Recipe | OptimizerRecipe | LanguageRecipe

_KINDS: Mapping[type[Section], tuple[str, str]] = {
    OptimizerRecipe: ("[problem]", "an optimizer"),
    LanguageRecipe: ("[text]", "a language model"),
}  # the section that tells it, and what it trains; what has neither trains a learner


def shipped_recipes() -> dict[str, Path]:
    """The recipes of this package by name."""
    folder = Path(str(resources.files("kshot_training"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of a learner.

    Args:
        name_or_path: A file, or the name of a shipped recipe.
        overrides: `dotted.key=value`, the value as TOML writes it (`5`, `[5, 20]`, `"text"`; bare text is text).

    Raises:
        RecipeError: There is no such recipe, it is no TOML, it does not fit the models, or it is that of an optimizer.
    """
    return _read_kind(Recipe, name_or_path, overrides)


def read_optimizer_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> OptimizerRecipe:
    """Read the recipe of a learned optimizer; as `read_recipe`."""
    return _read_kind(OptimizerRecipe, name_or_path, overrides)


def read_language_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LanguageRecipe:
    """Read the recipe of a dynamical language model; as `read_recipe`."""
    return _read_kind(LanguageRecipe, name_or_path, overrides)


def read_any_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe of any kind: one with a [problem] trains an optimizer, one with a [text] a language model."""
    path = _find(name_or_path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}") from error
    for override in overrides:
        apply_override(raw, override)
    try:
        if "text" in raw:
            return LanguageRecipe.model_validate(raw)
        return OptimizerRecipe.model_validate(raw) if "problem" in raw else Recipe.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(problem)}" for problem in error.errors(include_url=False))
        raise RecipeError(f"{path}:\n{lines}") from error


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in a parsed TOML tree; a number in the key counts list entries from 0.

    Raises:
        RecipeError: It has no `=`, or a part of the key is no table or no entry of the list.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"expected an override like outer.steps=200, got {override!r}")
    *path, last = key.split(".")
    node: Any = raw
    for part in path:
        node = _child(node, part, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = _value(text)
    elif isinstance(node, dict):
        node[last] = _value(text)
    else:
        raise RecipeError(f"{key}: the part before {last!r} is a value, not a table")


def _read_kind(kind: type[R], name_or_path: str, overrides: Sequence[str]) -> R:
    found = read_any_recipe(name_or_path, overrides)
    if isinstance(found, kind):
        return found
    (has, trains), (lacks, wanted) = (_KINDS.get(each, ("", "a learner")) for each in (type(found), kind))
    told = f"has a {has}" if has else f"has no {lacks}"
    raise RecipeError(f"{name_or_path} {told}: it trains {trains}, and here {wanted} is wanted")


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise RecipeError(
        f"no recipe {name_or_path!r}: expected a TOML file or one of {', '.join(shipped)}"
        + _did_you_mean(name_or_path, shipped)
    )


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list):
        return node[_index(node, part, key)]
    raise RecipeError(f"{key}: {part!r} is inside a value, not a table")


def _index(node: list[Any], part: str, key: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise RecipeError(f"{key}: {part!r} is no entry of a list of {len(node)}; entries count from 0")
    return int(part)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key" + _did_you_mean(str(problem["loc"][-1]), _known_keys())
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{key or 'recipe'}: {problem['msg']}{got}"


def _known_keys() -> set[str]:
    sections = [
        m
        for module in (recipe, optimizer_recipe, language_recipe)
        for m in vars(module).values()
        if isinstance(m, type) and hasattr(m, "model_fields")
    ]
    return {field for section in sections for field in section.model_fields}


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
