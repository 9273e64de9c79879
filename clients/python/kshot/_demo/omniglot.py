"""The test characters of Omniglot, each in four rotations, as people train and test few-shot learners on them.

    DIR/images_evaluation.zip  or  DIR/images_evaluation/Alphabet/characterNN/*.png     (images_background alike)
    DIR/splits/vinyals_test.txt      optional: the 423 test characters, one `Alphabet/characterNN` a line

Reference: Lake, Salakhutdinov, Tenenbaum 2015 (the characters); Vinyals et al. 2016, arXiv:1606.04080 (the split, and
rotations as classes).
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kshot._errors import InvalidInputError

from .episodes import DrawnClass

__all__ = ["open_omniglot"]

_HALVES = ("images_evaluation", "images_background")
_SPLIT = Path("splits", "vinyals_test.txt")
_ROTATIONS = (0, 90, 180, 270)

Reader = Callable[[], bytes]


def open_omniglot(root: Path) -> tuple[str, list[DrawnClass]]:
    """A sentence on which characters are used, and their classes: four rotations of each.

    Raises:
        InvalidInputError: the folder holds no Omniglot images, or not those that its split names.
    """
    halves = {half: _read_half(root, half) for half in _HALVES}
    characters = {name: files for half in halves.values() for name, files in half.items()}
    if not characters:
        wanted = " or ".join(f"{half}.zip" for half in _HALVES)
        raise InvalidInputError(f"{str(root)!r} holds no Omniglot images: expected {wanted}, or the same unpacked")
    if (root / _SPLIT).is_file():
        names = (root / _SPLIT).read_text(encoding="utf-8").split()
        description = f"Omniglot, the {len(names)} test characters of Vinyals' split with their rotations"
    else:
        names = sorted(halves["images_evaluation"])
        description = (
            f"Omniglot, the {len(names)} evaluation characters of Lake's split with their rotations, since there is no "
            f"{root / _SPLIT}; the shipped model has learned from 236 of them, which Vinyals' split trains on"
        )
    if missing := [name for name in names if name not in characters] or ([] if names else ["images_evaluation"]):
        raise InvalidInputError(f"{str(root)!r} lacks {missing[0]} (and {len(missing) - 1} more); is it complete?")
    return description, [_rotated(name, characters[name], degrees) for name in names for degrees in _ROTATIONS]


def _rotated(name: str, files: list[Reader], degrees: int) -> DrawnClass:
    return DrawnClass(f"{name}/rot{degrees:03d}", len(files), partial(_drawing, files, degrees))


def _drawing(files: list[Reader], degrees: int, index: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(_pixels(files[index]), degrees // 90))


@functools.lru_cache(maxsize=20_000)  # all of them, 220 MB at the most: no drawing is unpacked twice
def _pixels(read: Reader) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(read())) as image:
        return np.asarray(image.convert("L"), dtype=np.uint8)


def _read_half(root: Path, half: str) -> dict[str, list[Reader]]:
    """{`Alphabet/characterNN`: functions that read its drawings, in the order of their names}."""
    folder, archive = root / half, root / f"{half}.zip"
    drawings: dict[str, list[tuple[str, Reader]]] = {}
    if folder.is_dir():
        for path in folder.glob("*/*/*.png"):
            drawings.setdefault(f"{path.parts[-3]}/{path.parts[-2]}", []).append((path.name, path.read_bytes))
    elif archive.is_file():
        opened = _open_zip(archive)
        for name in opened.namelist():
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == half and name.endswith(".png"):
                drawings.setdefault("/".join(parts[1:3]), []).append((parts[3], partial(opened.read, name)))
    return {name: [read for _, read in sorted(files, key=lambda file: file[0])] for name, files in drawings.items()}


def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        # In memory (10 MB): nothing to close, whatever ends the demo.
        return zipfile.ZipFile(io.BytesIO(archive.read_bytes()))
    except zipfile.BadZipFile as error:
        raise InvalidInputError(f"{str(archive)!r} is no zip: {error}") from error
