"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people, dark ink on white.

    root/images_background.zip, or the folder that it unpacks to     964 characters, 30 alphabets
    root/images_evaluation.zip, or the folder                        659 characters, 20 alphabets

    scheme "vinyals"   train 1,028 | val 172 | test 423 characters; with rotations each counts four times
    scheme "mixed"     train 1,100 | val 100 | test 423 characters, of all alphabets in each
    scheme "lake"      train = background 964 | test = evaluation 659

By "vinyals" and "lake" no alphabet is in two parts (but Gurmukhi, of which "vinyals" tests 4 characters). By "mixed"
most alphabets are in all parts, which is easier: with 20 classes and one image of each, much the same training makes
1.6 % errors where by "vinyals" it makes 2.9 %. The figures of MAML, Reptile, Meta-SGD, iMAML and MAML++ were made on
such splits, each on one of its own; the counts are those of MAML's authors. Here the digest of a character's name
stands for chance.

References: Lake et al., "Human-level concept learning through probabilistic program induction", Science, 2015;
Vinyals et al., "Matching networks for one shot learning", 2016, arXiv:1606.04080, whose split of classes was
published by Snell et al., 2017, arXiv:1703.05175; Finn et al., 2017, arXiv:1703.03400, "mixed": "irrespective of
alphabet".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kshot_training.data.dataset import ImageClasses
from kshot_training.data.errors import CountMismatch, OptionInvalid, SourceNotFound, SplitUnknown
from kshot_training.data.files import open_tree, read_classes
from kshot_training.data.request import SourceRequest

__all__ = ["CHARACTERS", "DRAWINGS", "check_counts", "group_characters", "load_omniglot"]

CHARACTERS: Mapping[str, int] = MappingProxyType({"images_background": 964, "images_evaluation": 659})
"""How many characters each half of the data set has."""

DRAWINGS = 20
"""How many people drew each character."""

_VALIDATION_ALPHABETS = frozenset({"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"})
_FIRST_TEST_CHARACTER = "Gurmukhi/character42"  # of the evaluation half in alphabetical order: it and all after it
_MIXED = (("b9d12ea1", "test"), ("abf1fed2", "val"), ("", "train"))  # from which digest of its name on

_SCHEMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"vinyals": ("train", "val", "test"), "mixed": ("train", "val", "test"), "lake": ("train", "test")}
)


def load_omniglot(request: SourceRequest) -> ImageClasses:
    """Load a split, or with split None all 1,623 characters.

    Raises:
        SourceNotFound: no Omniglot at the place.
        SplitUnknown: not a split of the scheme.
        CountMismatch: characters or drawings are missing.
        ImageUnreadable, ArchiveInvalid: see files.py.
    """
    request.take_no_options()
    scheme = request.scheme or "vinyals"
    if scheme not in _SCHEMES:
        raise OptionInvalid(f"expected a split scheme of omniglot ({', '.join(_SCHEMES)}), got {scheme!r}")
    splits = _SCHEMES[scheme]
    if request.split is not None and request.split not in splits:
        raise SplitUnknown(f"expected a split of omniglot by {scheme} ({', '.join(splits)}), got {request.split!r}")
    root = request.place()
    pixels: dict[str, NDArray[np.uint8]] = {}
    for half in CHARACTERS:
        with open_tree(_half(root, half)) as tree:
            groups = group_characters(tree.names)
            check_counts(half, groups, where=tree.path)
            wanted = {
                name: files
                for name, files in groups.items()
                if request.split is None or _split_of(scheme, half, name) == request.split
            }
            if wanted:
                pixels |= read_classes(tree, wanted, request.spec, cache=request.cache)
    return ImageClasses.of(dict(sorted(pixels.items())), request.spec)


def group_characters(names: Sequence[str]) -> dict[str, list[str]]:
    """`.../Latin/character01/0683_01.png` -> {"Latin/character01": [that, ...]}, sorted."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        *_, alphabet, character, _ = ["", "", *name.split("/")]
        groups.setdefault(f"{alphabet}/{character}", []).append(name)
    return groups


def check_counts(half: str, groups: Mapping[str, Sequence[str]], *, where: Path) -> None:
    """Check that nothing of a half is missing.

    Raises:
        CountMismatch: saying what was expected and what came.
    """
    if len(groups) != CHARACTERS[half]:
        raise CountMismatch(
            f"{where}: expected {CHARACTERS[half]} characters, got {len(groups)}. "
            f"Fetch it again: kshot data omniglot --to DIR"
        )
    short = [f"{name} has {len(files)}" for name, files in groups.items() if len(files) != DRAWINGS]
    if short:
        raise CountMismatch(
            f"{where}: expected {DRAWINGS} drawings of each character; {', '.join(short[:3])}. "
            f"Fetch it again: kshot data omniglot --to DIR"
        )


def _split_of(scheme: str, half: str, name: str) -> str:
    if scheme == "lake":
        return "train" if half == "images_background" else "test"
    if scheme == "mixed":
        digest = hashlib.sha256(name.encode()).hexdigest()
        return next(split for first, split in _MIXED if digest >= first)
    if name.split("/", maxsplit=1)[0] in _VALIDATION_ALPHABETS:
        return "val"
    return "test" if half == "images_evaluation" and name >= _FIRST_TEST_CHARACTER else "train"


def _half(root: Path, half: str) -> Path:
    for path in (root / half, root / f"{half}.zip"):
        if path.exists():
            return path
    raise SourceNotFound(
        f"expected {half}/ or {half}.zip in {root}, found neither. To fetch them: kshot data omniglot --to {root}"
    )
