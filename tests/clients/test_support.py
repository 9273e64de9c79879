"""Support sets in every form that the client takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kshot import InvalidInputError
from kshot._support import class_folders, read_support

A, B = np.zeros((5, 5), np.uint8), np.ones((5, 5), np.uint8)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ["cat/2.png", "cat/1.JPG", "dog/1.webp", "cat/notes.txt", "cat/.hidden.png", ".git/x.png", "README.md"]:
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "pets"


def labels(support: object) -> list[str]:
    return [example.label for example in read_support(support)]  # type: ignore[arg-type]


def test_mapping_takes_one_several_or_a_stack() -> None:
    assert labels({"a": A, "b": [A, B], "c": np.stack([A, A, B])}) == ["a", "b", "b", "c", "c", "c"]


def test_pairs_in_any_iterable() -> None:
    assert labels([("a", A), ["b", B]]) == ["a", "b"]
    assert labels(("a", image) for image in (A, B)) == ["a", "a"]


def test_folder_of_class_folders(pets: Path) -> None:
    assert [(one.label, one.picture) for one in read_support(pets)] == [
        ("cat", b"cat/1.JPG"),
        ("cat", b"cat/2.png"),
        ("dog", b"dog/1.webp"),
    ]
    assert labels(str(pets)) == ["cat", "cat", "dog"]


@pytest.mark.parametrize(
    ("support", "message"),
    [
        ({}, "support set is empty"),
        ([], "support set is empty"),
        ({"a": []}, "class 'a' has no image"),
        ({1: A}, "a label is a str, not int"),
        ([A, B], "without labels"),
        (["a.png"], "without labels"),
        (7, "not int"),
        ("nowhere", "is no folder"),
    ],
)
def test_what_is_no_support_set(support: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        labels(support)


def test_folders_without_classes_or_images(pets: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected cat/LABEL/IMAGE\.png"):
        class_folders(pets / "cat")
    (pets / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="holds no PNG, JPEG or WEBP"):
        class_folders(pets)
