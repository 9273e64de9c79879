"""Any folder of class folders, or a zip of it.

    PATH/cat/1.png, PATH/cat/2.jpg, PATH/dog/3.png       the classes cat and dog
    PATH/train.txt                                       the classes of the split "train", one name a line

A class is named by the path of its folder below PATH, without folders that all classes share. The split files of a
zip lie beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kshot_training.data.dataset import ImageClasses
from kshot_training.data.errors import ClassUnknown, SourceNotFound, SplitUnknown
from kshot_training.data.files import open_tree, read_classes
from kshot_training.data.request import SourceRequest

__all__ = ["load_folder"]


def load_folder(request: SourceRequest) -> ImageClasses:
    """Load `folder:PATH`.

    Raises:
        SourceNotFound: nothing at PATH, or no image in a folder below it.
        SplitUnknown: no file of that split.
        ClassUnknown: the split names a class without images.
        ImageUnreadable, ArchiveInvalid: see files.py.
    """
    request.take_no_options()
    request.take_no_scheme()
    path = request.place()
    with open_tree(path) as tree:
        groups = _group(tree.names)
        if not groups:
            raise SourceNotFound(f"expected folders of images, one per class, in {path}; found no image in a folder")
        if request.split is not None:
            groups = {name: groups[name] for name in _split_names(path, request.split, groups)}
        pixels = read_classes(tree, groups, request.spec, cache=request.cache)
    return ImageClasses.of(pixels, request.spec)


def _group(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        *folder, _ = name.split("/")
        if folder:
            groups.setdefault(tuple(folder), []).append(name)
    shared = _shared_depth(list(groups))
    return {"/".join(folder[shared:]): group for folder, group in sorted(groups.items())}


def _shared_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all classes share; each class keeps at least its last."""
    shallowest = min((len(folder) for folder in folders), default=1) - 1
    depth = 0
    while depth < shallowest and len({folder[depth] for folder in folders}) == 1:
        depth += 1
    return depth


def _split_names(path: Path, split: str, groups: dict[str, list[str]]) -> list[str]:
    beside = path if path.is_dir() else path.parent
    listing = beside / f"{split}.txt"
    if "/" in split or not listing.is_file():
        there = ", ".join(sorted(file.stem for file in beside.glob("*.txt"))) or "none"
        raise SplitUnknown(f"expected the class names of split {split!r} in {listing}; the splits there: {there}")
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if missing := [name for name in names if name not in groups]:
        some = ", ".join(list(groups)[:3])
        raise ClassUnknown(
            f"{listing} names {', '.join(missing[:5])}, of which there are no images in {path}; "
            f"it has {len(groups)} classes: {some}, ..."
        )
    return list(dict.fromkeys(names))
