"""The table of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from kshot_models.manifest import InputSpec
from kshot_training.data import SOURCES, load_classes
from kshot_training.data.errors import DataError, OptionInvalid, SourceUnknown


def test_what_there_is() -> None:
    assert sorted(SOURCES) == list(SOURCES) == ["folder", "glyphs", "mini-imagenet", "omniglot"]


def test_a_stranger(gray: InputSpec) -> None:
    with pytest.raises(SourceUnknown, match=r"\(folder, glyphs, mini-imagenet, omniglot\), .* got 'mnist:x'"):
        load_classes("mnist:x", spec=gray)
    assert issubclass(SourceUnknown, DataError)


def test_rotations_are_for_every_source(gray: InputSpec, tmp_path: Path) -> None:
    assert load_classes("glyphs:classes=3,drawings=1", spec=gray, rotations=True).num_classes == 12
    wide = gray.model_copy(update={"width": 30})
    with pytest.raises(OptionInvalid, match="28 x 30"):
        load_classes("glyphs:classes=3,drawings=1", spec=wide, rotations=True)
