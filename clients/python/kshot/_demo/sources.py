"""Where the demo's classes come from: a table from the name before the colon of --data to a function that opens it.

    glyphs            invented characters, drawn on the spot
    omniglot:DIR      the test characters of Omniglot; DIR holds the official zips or folders
    folder:DIR        any folder of class folders

A new source is one function from the text after the colon to a Source, and one row in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from kshot._errors import InvalidInputError
from kshot._images import Picture
from kshot._support import class_folders
from kshot.glyphs import draw_glyph, glyph_name

from .episodes import DrawnClass
from .omniglot import open_omniglot

__all__ = ["SOURCES", "Source", "open_source"]

_GLYPH_CLASSES = 1000
_GLYPH_DRAWINGS = 1000

# Worlds of glyphs have a number; small ones are for training, this one and the next are for demos.
_GLYPH_WORLD = 1_000_000


class Source(NamedTuple):
    """Classes, and a sentence on what they are."""

    description: str
    classes: list[DrawnClass]


def open_source(text: str, *, seed: int) -> Source:
    """The source that --data names.

    Raises:
        InvalidInputError: there is no such source, or nothing in it.
    """
    name, _, place = text.partition(":")
    if name not in SOURCES:
        raise InvalidInputError(f"--data {text}: expected glyphs, omniglot:DIR or folder:DIR")
    return SOURCES[name](place, seed)


def _glyphs(place: str, seed: int) -> Source:
    if place:
        raise InvalidInputError(f"--data glyphs:{place}: glyphs are drawn on the spot and have no folder")
    classes = [
        DrawnClass(glyph_name(glyph), _GLYPH_DRAWINGS, partial(draw_glyph, glyph, seed=_GLYPH_WORLD + seed))
        for glyph in range(_GLYPH_CLASSES)
    ]
    return Source("invented characters, which no training has seen", classes)


def _omniglot(place: str, _seed: int) -> Source:
    if not place:
        raise InvalidInputError("--data omniglot: add where the images are, omniglot:DIR")
    return Source(*open_omniglot(Path(place)))


def _folder(place: str, _seed: int) -> Source:
    if not place:
        raise InvalidInputError("--data folder: add where the class folders are, folder:DIR")
    classes = [DrawnClass(name, len(files), partial(_file, files)) for name, files in class_folders(place).items()]
    return Source(f"the {len(classes)} classes in {place}", classes)


def _file(files: list[Path], index: int) -> Picture:
    return files[index].read_bytes()


SOURCES: Mapping[str, Callable[[str, int], Source]] = MappingProxyType(
    {"glyphs": _glyphs, "omniglot": _omniglot, "folder": _folder}
)
