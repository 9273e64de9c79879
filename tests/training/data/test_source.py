"""The table of data sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot_models.manifest import InputSpec
from kshot_training.commands import data, evaluate
from kshot_training.data import SOURCES, load_classes, named, scheme_of
from kshot_training.data.errors import DataError, OptionInvalid, SourceUnknown


def test_what_there_is() -> None:
    assert sorted(SOURCES) == list(SOURCES) == ["folder", "glyphs", "mini-imagenet", "omniglot"]


@pytest.mark.parametrize("command", [data.configure, evaluate.configure])
def test_commands_name_every_source(
    command: Callable[[argparse.ArgumentParser], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Their help is written by hand: the table brings torch in, which `--help` must not wait for."""
    parser = argparse.ArgumentParser()
    command(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["info", "--help"] if command is data.configure else ["--help"])
    told = "".join(capsys.readouterr().out.split())  # lines may break at a hyphen
    assert [name for name in SOURCES if name not in told] == []


def test_a_stranger(gray: InputSpec) -> None:
    with pytest.raises(SourceUnknown, match=r"\(folder, glyphs, mini-imagenet, omniglot\), .* got 'mnist:x'"):
        load_classes("mnist:x", spec=gray)
    assert issubclass(SourceUnknown, DataError)


def test_rotations_are_for_every_source(gray: InputSpec, tmp_path: Path) -> None:
    assert load_classes("glyphs:classes=3,drawings=1", spec=gray, rotations=True).num_classes == 12
    wide = gray.model_copy(update={"width": 30})
    with pytest.raises(OptionInvalid, match="28 x 30"):
        load_classes("glyphs:classes=3,drawings=1", spec=wide, rotations=True)


@pytest.mark.parametrize(
    ("source", "scheme", "name", "split_by"),
    [
        ("omniglot", None, "omniglot", "vinyals"),
        ("omniglot", "vinyals", "omniglot", "vinyals"),
        ("omniglot:DIR", "mixed", "omniglot:DIR mixed", "mixed"),
        ("glyphs:classes=5", None, "glyphs:classes=5", None),
    ],
)
def test_a_name_tells_the_split_where_it_is_not_the_usual_one(
    source: str, scheme: str | None, name: str, split_by: str | None
) -> None:
    assert named(source, scheme) == name
    assert scheme_of(name) == split_by
