"""`kshot train` and `kshot evaluate` as their users call them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from kshot_training.commands import evaluate, train
from kshot_training.recipe import Recipe
from kshot_training.sampling import Place

PNG = b"\x89PNG\r\n\x1a\n"


def call(module: ModuleType, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    module.configure(parser)
    code: int = module.run(parser.parse_args([str(argument) for argument in arguments]))
    return code


def toml(recipe: Recipe) -> str:
    """A recipe as TOML; JSON's values are TOML's, once tables are inline."""

    def value(thing: object) -> str:
        if isinstance(thing, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in thing.items() if v is not None) + "}"
        if isinstance(thing, list):
            return "[" + ", ".join(value(entry) for entry in thing) + "]"
        return json.dumps(thing)

    return "\n".join(f"{k} = {value(v)}" for k, v in recipe.model_dump(mode="json").items() if v is not None)


def test_train_then_evaluate(
    make_recipe: Callable[..., Recipe], place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(toml(make_recipe()))
    common = ("--cache", place.cache, "--threads", 1)
    out = tmp_path / "run"
    assert call(train, tmp_path / "recipe.toml", "outer.steps=4", "--out", out, *common) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(out / "small" / "1")
    assert told[0].startswith("glyphs:classes=12,drawings=6 test, 3-way 1-shot, support: ")

    again = call(train, tmp_path / "recipe.toml", "--out", out, *common)
    assert again == 2
    assert "add --resume" in capsys.readouterr().err

    asked = ("--data", "glyphs:classes=12,drawings=6", "--way", 3, "--queries", 2, "--episodes", 6, *common)
    assert call(evaluate, out / "small" / "1", *asked, "--json", "--plot", tmp_path / "plot.png") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["norm"] == "support"
    assert len(report["per_step"]) == 3
    assert report["per_step"][-1] == report["accuracy"]
    assert 0 <= report["ece"] <= 1
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)

    assert call(evaluate, out / "small" / "1", *asked, "--transductive", "--no-per-step") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "small 1 on glyphs:classes=12,drawings=6 test, 3-way 1-shot, 2 queries a class, transductive norms"
    )
    assert told[1].startswith("accuracy   ")
    assert not any(line.startswith("by step") for line in told)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train, "--list") == 0
    assert "omniglot-maml " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected a recipe"),
        (("no-such",), "no recipe 'no-such'"),
    ],
)
def test_train_refuses(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train, *arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no-such",), "expected an artifact folder or a name in the zoo"),
    ],
)
def test_evaluate_refuses(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(evaluate, *arguments) == 2
    assert told in capsys.readouterr().err


def test_bad_numbers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(evaluate, "some", "--way", "1")
    assert "expected a whole number from 2, got '1'" in capsys.readouterr().err
