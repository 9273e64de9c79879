"""Labelled examples, in the forms that people have them.

{"cat": ["a.png", "b.png"], "dog": array}      label -> one image, several, or a stack
[("cat", "a.png"), ("dog", "b.png"), ...]      pairs
"pets/"                                        a folder of class folders: pets/cat/a.png, pets/dog/b.png
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ._errors import InvalidInputError
from ._images import ImageInput, ImagesInput, Picture, read_images

__all__ = ["IMAGE_SUFFIXES", "Example", "SupportInput", "class_folders", "read_support"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})

SupportInput: TypeAlias = "str | os.PathLike[str] | Mapping[str, ImagesInput] | Iterable[tuple[str, ImageInput]]"
"""A support set."""


class Example(NamedTuple):
    """One labelled image, ready to travel."""

    label: str
    picture: Picture


def read_support(support: SupportInput) -> list[Example]:
    """All examples of a support set.

    Raises:
        InvalidInputError: it holds no example, a class without one, a label that is no string, or no readable image.
    """
    examples = [example for label, images in _labelled(support) for example in _of_class(label, images)]
    if not examples:
        raise InvalidInputError("the support set is empty: give at least one labelled image for each of two classes")
    return examples


def class_folders(folder: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """The image files of a folder of class folders: {name of the class folder: its images, sorted}.

    Hidden entries and files that are no PNG, JPEG or WEBP are passed over.

    Raises:
        InvalidInputError: there is no such folder, no class folder in it, or a class folder without images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InvalidInputError(f"{str(root)!r} is no folder")
    classes = {
        child.name: sorted(path for path in child.iterdir() if _is_image_file(path))
        for child in sorted(root.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not classes:
        raise InvalidInputError(f"{str(root)!r} holds no class folders; expected {root.name}/LABEL/IMAGE.png")
    for label, files in classes.items():
        if not files:
            raise InvalidInputError(f"the class folder {str(root / label)!r} holds no PNG, JPEG or WEBP image")
    return classes


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _labelled(support: object) -> Iterator[tuple[object, Any]]:
    """Pairs of a label and its image or images, from any of the forms."""
    if isinstance(support, str | os.PathLike):
        yield from class_folders(support).items()
    elif isinstance(support, Mapping):
        yield from support.items()
    elif isinstance(support, Iterable):
        for pair in support:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                kind = type(pair).__name__
                raise InvalidInputError(f"a support set without labels: expected (label, image) pairs, got {kind}")
            yield pair[0], pair[1]
    else:
        kind = type(support).__name__
        raise InvalidInputError(f"a support set is {{label: images}}, (label, image) pairs or a folder, not {kind}")


def _of_class(label: object, images: ImagesInput) -> list[Example]:
    if not isinstance(label, str):
        raise InvalidInputError(f"a label is a str, not {type(label).__name__}: use str(label)")
    pictures = read_images(images)
    if not pictures:
        raise InvalidInputError(f"the class {label!r} has no image")
    return [Example(label, picture) for picture in pictures]
