"""Omniglot: its counts, its splits, and what a missing part says."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot_models.manifest import InputSpec
from kshot_models.pixels import to_pixels
from kshot_training.data import EpisodeSampler, load_classes
from kshot_training.data.errors import CountMismatch, OptionInvalid, SourceNotFound, SplitUnknown
from kshot_training.data.files import Tree, open_tree
from kshot_training.data.omniglot import CHARACTERS, _split_of, group_characters

TINY = InputSpec(height=4, width=4, channels=1, mean=(0.9,), std=(0.2,))


def dot() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def write_half(root: Path, half: str, *, characters: int, drawings: int = 20) -> Path:
    """A zip of the official layout, with a dot for every drawing."""
    path, image = root / f"{half}.zip", dot()
    with zipfile.ZipFile(path, "w") as archive:
        for c in range(characters):
            for d in range(drawings):
                archive.writestr(
                    f"{half}/Alphabet{c // 50:02d}/character{c % 50 + 1:02d}/{c:04d}_{d + 1:02d}.png", image
                )
    return path


@pytest.fixture(scope="module")
def names(omniglot_root: Path) -> dict[str, list[str]]:
    """The characters of each half, as its files name them."""
    characters = {}
    for half in CHARACTERS:
        unpacked = omniglot_root / half
        with open_tree(unpacked if unpacked.is_dir() else omniglot_root / f"{half}.zip") as tree:
            characters[half] = list(group_characters(tree.names))
    return characters


@pytest.mark.omniglot
def test_counts(names: dict[str, list[str]]) -> None:
    assert {half: len(characters) for half, characters in names.items()} == CHARACTERS
    assert {half: len({n.split("/")[0] for n in characters}) for half, characters in names.items()} == {
        "images_background": 30,
        "images_evaluation": 20,
    }


@pytest.mark.omniglot
def test_vinyals_split(names: dict[str, list[str]], omniglot_root: Path) -> None:
    splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for half, characters in names.items():
        for name in characters:
            splits[_split_of("vinyals", half, name)].add(name)
    # No character is in two parts: 1,028 + 172 + 423 are all there are.
    assert {split: len(characters) for split, characters in splits.items()} == {"train": 1028, "val": 172, "test": 423}
    for split, characters in splits.items():
        listing = omniglot_root / "splits" / f"vinyals_{split}.txt"
        if listing.is_file():
            assert characters == set(listing.read_text().split()), split


@pytest.mark.omniglot
def test_mixed_split(names: dict[str, list[str]]) -> None:
    splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for half, characters in names.items():
        for name in characters:
            splits[_split_of("mixed", half, name)].add(name)
    assert {split: len(characters) for split, characters in splits.items()} == {"train": 1100, "val": 100, "test": 423}
    alphabets = {split: {name.split("/")[0] for name in characters} for split, characters in splits.items()}
    assert alphabets["test"] <= alphabets["train"]  # what makes it the easier one


@pytest.mark.omniglot
def test_test_characters_with_rotations(
    omniglot_root: Path, nearest_neighbour: Callable[[EpisodeSampler, int], float]
) -> None:
    spec = InputSpec(height=28, width=28, channels=1, mean=(1.0,), std=(1.0,), resize="box")
    classes = load_classes(f"omniglot:{omniglot_root}", spec=spec, split="test", rotations=True)
    assert (classes.num_classes, classes.num_images) == (4 * 423, 423 * 20)
    assert classes.counts.tolist() == [20] * 423
    assert list(classes.names) == sorted(classes.names)
    assert classes.class_name(1) == "Gurmukhi/character42@90"
    # Dark ink on white: most is paper.
    assert 0.85 < float(classes.images.float().mean()) / 255 < 0.95
    with open_tree_of(omniglot_root, "images_evaluation") as tree:
        first = next(name for name in tree.names if "Gurmukhi/character42/" in name)
        with Image.open(io.BytesIO(tree.read(first))) as image:
            np.testing.assert_array_equal(classes.images[0].numpy(), to_pixels(image, spec))
    # Nearest neighbours on pixels are known to reach 48.4% (5-way) and 29.9% (20-way), give or take the resize filter.
    five = nearest_neighbour(EpisodeSampler(classes, way=5, shot=1, queries=15), 300)
    twenty = nearest_neighbour(EpisodeSampler(classes, way=20, shot=1, queries=15), 60)
    assert five == pytest.approx(0.484, abs=0.025)
    assert twenty == pytest.approx(0.299, abs=0.025)


def open_tree_of(root: Path, half: str) -> contextlib.AbstractContextManager[Tree]:
    unpacked = root / half
    return open_tree(unpacked if unpacked.is_dir() else root / f"{half}.zip")


def test_lake_split_and_all(tmp_path: Path) -> None:
    for half, characters in CHARACTERS.items():
        write_half(tmp_path, half, characters=characters)
    source = f"omniglot:{tmp_path}"
    assert len(load_classes(source, spec=TINY, split="test", scheme="lake").names) == 659
    with pytest.raises(SplitUnknown, match=r"by lake \(train, test\), got 'val'"):
        load_classes(source, spec=TINY, split="val", scheme="lake")
    with pytest.raises(SplitUnknown, match=r"by vinyals \(train, val, test\), got 'background'"):
        load_classes(source, spec=TINY, split="background")
    with pytest.raises(OptionInvalid, match=r"\(vinyals, mixed, lake\), got 'ravi'"):
        load_classes(source, spec=TINY, scheme="ravi")


def test_a_missing_part_says_which(tmp_path: Path) -> None:
    with pytest.raises(
        SourceNotFound, match=r"images_background/ or images_background.zip .* kshot data omniglot --to"
    ):
        load_classes("omniglot", root=tmp_path, spec=TINY)
    write_half(tmp_path, "images_background", characters=3)
    with pytest.raises(CountMismatch, match=r"images_background.zip: expected 964 characters, got 3\. Fetch it again"):
        load_classes("omniglot", root=tmp_path, spec=TINY)
    write_half(tmp_path, "images_background", characters=964, drawings=1)
    with pytest.raises(CountMismatch, match="expected 20 drawings of each character; Alphabet00/character01 has 1"):
        load_classes("omniglot", root=tmp_path, spec=TINY)


def test_the_place_is_the_root_or_a_folder_in_it(tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    for arguments in ({"source": "omniglot"}, {"source": "omniglot:omniglot"}):
        with pytest.raises(SourceNotFound, match=f"in {tmp_path / 'omniglot'}, found neither"):
            load_classes(**arguments, root=tmp_path, spec=TINY)
