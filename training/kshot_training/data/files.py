"""Image files in a folder or in a zip, read in the same way.

open_tree(path) ──> Tree: names ──> decode ──> uint8 (n, H, W, C)
                               └──> read_classes ──> {class: pixels}, from the cache where it has them
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kshot_models.manifest import InputSpec
from kshot_models.pixels import to_pixels
from kshot_training.data.cache import cached_pixels
from kshot_training.data.errors import ArchiveInvalid, ImageUnreadable, SourceNotFound

__all__ = ["Tree", "decode", "open_tree", "read_classes"]

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Tree(Protocol):
    """The image files below one place. Hidden files and folders are not seen, nor what macOS adds to zips."""

    path: Path
    names: tuple[str, ...]  # sorted, relative, with forward slashes

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        ...

    def fingerprint(self) -> str:
        """Hex digest that changes whenever a file is added, removed or written."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        relative = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        self.names = _images(relative)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def fingerprint(self) -> str:
        stats = ((name, (self.path / name).stat()) for name in self.names)
        return _digest(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}" for name, stat in stats)


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self.names = _images(archive.namelist())

    def read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            # BadZipFile: the checksum; RuntimeError: a password; NotImplementedError: an exotic compression.
            raise ArchiveInvalid(f"{self.path}: {name}: {error}. Fetch the archive again") from error

    def fingerprint(self) -> str:
        members = (self._archive.getinfo(name) for name in self.names)
        return _digest(f"{member.filename}\0{member.file_size}\0{member.CRC}" for member in members)


@contextlib.contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """Open a folder or a zip of image files.

    Raises:
        SourceNotFound: there is neither at `path`.
        ArchiveInvalid: the file is no zip, or a broken one.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    if not path.is_file():
        raise SourceNotFound(f"expected a folder or a zip of images, got {path}, where there is nothing")
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except zipfile.BadZipFile as error:
            raise ArchiveInvalid(f"expected a folder or a zip of images; {path} is neither: {error}") from error
        yield _Zip(path, archive)


def decode(tree: Tree, names: Sequence[str], spec: InputSpec) -> NDArray[np.uint8]:
    """Pixels of image files, by the same rule as in serving: uint8 (len(names), H, W, C).

    Raises:
        ImageUnreadable: naming the file.
    """
    pixels = np.empty((len(names), spec.height, spec.width, spec.channels), np.uint8)
    for row, name in zip(pixels, names, strict=True):
        data = tree.read(name)
        try:
            with Image.open(io.BytesIO(data)) as image:
                row[...] = to_pixels(image, spec)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # PIL says SyntaxError for a broken PNG chunk and ValueError for some broken headers.
            raise ImageUnreadable(f"{tree.path}: {name} cannot be decoded: {error}. Mend or remove the file") from error
    return pixels


def read_classes(
    tree: Tree, groups: Mapping[str, Sequence[str]], spec: InputSpec, *, cache: Path | None
) -> dict[str, NDArray[np.uint8]]:
    """Pixels of several classes.

    Args:
        tree: where the files are.
        groups: class name -> names of its files.
        spec: the input to make the pixels for.
        cache: a folder for decoded pixels, or None.

    Returns:
        class name -> uint8 (count, H, W, C), in the order of `groups`.
    """
    names = [name for group in groups.values() for name in group]
    fingerprint = tree.fingerprint() if cache is not None else ""
    pixels = cached_pixels(cache, lambda: decode(tree, names, spec), fingerprint=fingerprint, names=names, spec=spec)
    ends = np.cumsum([len(group) for group in groups.values()])[:-1]
    return dict(zip(groups, np.split(pixels, ends), strict=True))


def _images(names: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if _is_image(name)))


def _is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and Path(name).suffix.lower() in _SUFFIXES


def _digest(lines: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
