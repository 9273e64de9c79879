"""Invented characters as a data set: no download, any number of classes.

    glyphs                                     1,000 classes to train on, 200 to validate, 400 to test; 20 drawings
    glyphs:classes=50,drawings=5,seed=3        fewer, of another world

Splits have no script in common. Each drawing is rendered at 105 x 105, as Omniglot's are, and goes through the same
conversion as an image that a client sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kshot.glyphs import GLYPHS_PER_SCRIPT, draw_glyph, glyph_name
from kshot_models.pixels import to_pixels
from kshot_training.data.cache import cached_pixels
from kshot_training.data.dataset import ImageClasses
from kshot_training.data.errors import OptionInvalid, SplitUnknown
from kshot_training.data.request import SourceRequest

__all__ = ["load_glyphs", "write_glyphs"]

_CLASSES: Mapping[str, int] = MappingProxyType({"train": 1000, "val": 200, "test": 400})
_DRAWINGS = 20
_MOST = GLYPHS_PER_SCRIPT * 40_000  # classes that a split can have; the next split's first glyph is so much further on


def load_glyphs(request: SourceRequest) -> ImageClasses:
    """Draw a split; without one, the training split.

    Options: `classes`, `drawings` (of each class) and `seed`, whole numbers.

    Raises:
        SplitUnknown: not train, val or test.
        OptionInvalid: another option, or no such number.
    """
    request.take_no_scheme()
    split = request.split or "train"
    if split not in _CLASSES:
        raise SplitUnknown(f"expected a split of glyphs ({', '.join(_CLASSES)}), got {split!r}")
    options = _options(request, classes=_CLASSES[split])
    first = list(_CLASSES).index(split) * _MOST
    glyphs = range(first, first + options["classes"])
    drawings, seed, spec = options["drawings"], options["seed"], request.spec

    def render() -> NDArray[np.uint8]:
        pixels = np.empty((len(glyphs) * drawings, spec.height, spec.width, spec.channels), np.uint8)
        for row, index in zip(pixels, np.ndindex(len(glyphs), drawings), strict=True):
            row[...] = to_pixels(Image.fromarray(draw_glyph(glyphs[index[0]], index[1], seed=seed)), spec)
        return pixels

    names = [f"{glyph_name(glyph)}/{drawing}" for glyph in glyphs for drawing in range(drawings)]
    pixels = cached_pixels(request.cache, render, fingerprint=f"glyphs {_revision()} {seed}", names=names, spec=spec)
    groups = pixels.reshape(len(glyphs), drawings, *pixels.shape[1:])
    return ImageClasses.of({glyph_name(glyph): group for glyph, group in zip(glyphs, groups, strict=True)}, spec)


def write_glyphs(
    folder: Path, *, classes: int, drawings: int, size: int, seed: int, progress: Callable[[int, int | None], None]
) -> None:
    """Write `folder/SCRIPT/GLYPH/DRAWING.png`, which `folder:PATH` reads.

    Args:
        folder: empty, or not there yet.
        classes: how many glyphs, from glyph 0.
        drawings: how many of each.
        size: side of the images, in pixels.
        seed: which world of scripts.
        progress: called with drawings done and all drawings.

    Raises:
        OptionInvalid: the folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OptionInvalid(f"expected an empty folder or none, got {folder}, which has files: name another")
    for done, (glyph, drawing) in enumerate(np.ndindex(classes, drawings), start=1):
        path = folder / glyph_name(glyph) / f"{drawing:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_glyph(glyph, drawing, seed=seed, size=size)).save(path)
        progress(done, classes * drawings)


def _revision() -> str:
    """Changes with the renderer, so that no cache outlives it: the bytes of one drawing."""
    return hashlib.sha256(draw_glyph(0, 0).tobytes()).hexdigest()


def _options(request: SourceRequest, *, classes: int) -> dict[str, int]:
    options: dict[str, int] = {"classes": classes, "drawings": _DRAWINGS, "seed": 0}
    least = {"classes": 1, "drawings": 1, "seed": 0}
    given: dict[str, object] = dict(request.options)
    for part in filter(None, request.argument.split(",")):
        key, _, text = part.partition("=")
        given[key.strip()] = int(text) if text.strip().isdecimal() else text
    for key, value in given.items():
        if key not in options:
            raise OptionInvalid(f"expected an option of glyphs ({', '.join(options)}), got {key!r}")
        if not isinstance(value, int) or isinstance(value, bool) or not least[key] <= value <= _MOST:
            raise OptionInvalid(f"expected {key} from {least[key]} to {_MOST}, got {value!r}")
        options[key] = value
    return options
