"""mini-ImageNet: 100 classes of ImageNet, 600 colour images of each, in the split of Ravi and Larochelle.

    root/train.csv, val.csv, test.csv       a header `filename,label`, then one image a line: 64, 16 and 20 classes
    root/images/, or root/images.zip        the files that they name, in any folders below

The images are ImageNet's, whose licence lets nobody hand them on: users bring them. Where only a part is at hand,
the option `partial` takes what the lists name without counting.

References: Vinyals et al., "Matching networks for one shot learning", 2016, arXiv:1606.04080; Ravi and Larochelle,
"Optimization as a model for few-shot learning", 2017, whose lists of images everybody uses.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from kshot_training.data.dataset import ImageClasses
from kshot_training.data.errors import CountMismatch, ListInvalid, OptionInvalid, SourceNotFound, SplitUnknown
from kshot_training.data.files import open_tree, read_classes
from kshot_training.data.request import SourceRequest

__all__ = ["CLASSES", "IMAGES", "check_counts", "check_mini_imagenet", "load_mini_imagenet", "read_list"]

CLASSES: Mapping[str, int] = MappingProxyType({"train": 64, "val": 16, "test": 20})
"""How many classes each split has."""

IMAGES = 600
"""How many images each class has."""

_HEADER = ["filename", "label"]


def load_mini_imagenet(request: SourceRequest) -> ImageClasses:
    """Load a split, or with split None all 100 classes, train before val before test.

    Raises:
        SourceNotFound: no lists or no images at the place.
        ListInvalid: a list of another form, or one that names an image which is not there.
        SplitUnknown: not a split.
        CountMismatch: classes or images are missing from a list.
        ImageUnreadable, ArchiveInvalid: see files.py.
    """
    request.take_no_scheme()
    partial = _partial(request.options)
    if request.split is not None and request.split not in CLASSES:
        raise SplitUnknown(f"expected a split of mini-imagenet ({', '.join(CLASSES)}), got {request.split!r}")
    root = request.place()
    listed = _lists(root, tuple(CLASSES) if request.split is None else (request.split,), partial=partial)
    with open_tree(_images(root)) as tree:
        groups = _located(listed, tree.names, where=tree.path)
        return ImageClasses.of(read_classes(tree, groups, request.spec, cache=request.cache), request.spec)


def check_mini_imagenet(root: Path, *, partial: bool = False) -> dict[str, int]:
    """Check that the lists are whole and that every image which they name is there, without decoding any.

    Returns:
        How many classes each split has.

    Raises:
        DataError: as `load_mini_imagenet`.
    """
    splits = {split: _lists(root, (split,), partial=partial) for split in CLASSES}
    with open_tree(_images(root)) as tree:
        for listed in splits.values():
            _located(listed, tree.names, where=tree.path)
    return {split: len(listed) for split, listed in splits.items()}


def read_list(path: Path) -> dict[str, list[str]]:
    """The file names of each class of a list, in its order.

    Raises:
        SourceNotFound: no such list.
        ListInvalid: something else than a header `filename,label` and two columns.
    """
    if not path.is_file():
        raise SourceNotFound(f"expected the lists train.csv, val.csv and test.csv in {path.parent}; no {path.name}")
    groups: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ListInvalid(f"{path} is no list of images: {error}") from error
    if not rows or rows[0] != _HEADER:
        raise ListInvalid(f"{path}: expected the header filename,label, got {','.join(rows[0]) if rows else 'nothing'}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(_HEADER) or not all(row):
            raise ListInvalid(f"{path}: entry {number}: expected filename,label, got {','.join(row)!r}")
        groups.setdefault(row[1], []).append(row[0])
    return groups


def check_counts(split: str, groups: Mapping[str, Sequence[str]], *, where: Path) -> None:
    """Check that nothing of a split is missing and nothing is named twice.

    Raises:
        CountMismatch: saying what was expected and what came.
    """
    advice = "take Ravi's list, or the option partial = true for a part of the data"
    if len(groups) != CLASSES[split]:
        raise CountMismatch(f"{where}: expected {CLASSES[split]} classes, got {len(groups)}: {advice}")
    other = [f"{label} has {len(set(files))}" for label, files in groups.items() if len(set(files)) != IMAGES]
    if other:
        raise CountMismatch(f"{where}: expected {IMAGES} images of each class; {', '.join(other[:3])}: {advice}")


def _lists(root: Path, splits: Sequence[str], *, partial: bool) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for split in splits:
        path = root / f"{split}.csv"
        listed = read_list(path)
        if not partial:
            check_counts(split, listed, where=path)
        if twice := groups.keys() & listed.keys():
            raise ListInvalid(f"{path}: class {min(twice)} is in another split too: splits share no classes")
        groups |= listed
    return groups


def _images(root: Path) -> Path:
    for path in (root / "images", root / "images.zip"):
        if path.exists():
            return path
    raise SourceNotFound(f"expected images/ or images.zip beside the lists in {root}, found neither")


def _located(listed: Mapping[str, Sequence[str]], names: Sequence[str], *, where: Path) -> dict[str, list[str]]:
    """The same classes with each file's place in the tree: lists name files without folders."""
    places = {name.rpartition("/")[2]: name for name in names}
    missing = [file for files in listed.values() for file in files if file not in places]
    if missing:
        raise ListInvalid(
            f"the lists name {len(missing)} images that are not in {where}, which has {len(places)}: "
            f"{', '.join(missing[:3])}. Take the images that the lists were made for, under their names"
        )
    return {label: [places[file] for file in files] for label, files in listed.items()}


def _partial(options: Mapping[str, object]) -> bool:
    if unknown := sorted(set(options) - {"partial"}):
        raise OptionInvalid(f"mini-imagenet has the option partial, got {', '.join(unknown)}")
    value = options.get("partial", False)
    if not isinstance(value, bool):
        raise OptionInvalid(f"expected partial = true or false, got {value!r}")
    return value
