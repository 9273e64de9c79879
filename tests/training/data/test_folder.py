"""Folders and zips of class folders, and the pixels that come of them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot_models.manifest import InputSpec
from kshot_models.pixels import to_pixels
from kshot_training.data import load_classes
from kshot_training.data.errors import (
    ArchiveInvalid,
    ClassUnknown,
    ImageUnreadable,
    OptionInvalid,
    SourceNotFound,
    SplitUnknown,
)

COLOUR = InputSpec(height=6, width=9, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, resize="box")


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """cat: 3 images, dog: 2, eel: 1, of several formats and sizes, with the clutter of real folders."""
    root = tmp_path / "animals"
    generator = np.random.Generator(np.random.PCG64(1))
    for name in ("cat/1.png", "cat/2.jpg", "cat/3.WEBP", "dog/a.bmp", "dog/b.gif", "eel/only.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (11, 7, 3), np.uint8)).save(path)
    (root / "cat/readme.txt").write_text("no image")
    (root / "cat/.hidden.png").write_bytes(b"no image")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/1.png").write_bytes(b"no image")
    (root / "train.txt").write_text("dog\n\ncat\n")
    return root


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                out.write(file, prefix + file.relative_to(folder).as_posix())
    return archive


def test_classes_are_folders_and_pixels_are_those_of_serving(animals: Path) -> None:
    classes = load_classes(f"folder:{animals}", spec=COLOUR)
    assert classes.names == ("cat", "dog", "eel")
    assert classes.counts.tolist() == [3, 2, 1]
    for row, name in enumerate(("cat/1.png", "cat/2.jpg", "cat/3.WEBP", "dog/a.bmp", "dog/b.gif", "eel/only.png")):
        with Image.open(animals / name) as image:
            np.testing.assert_array_equal(classes.images[row].numpy(), to_pixels(image, COLOUR))


def test_a_zip_reads_like_its_folder(animals: Path, tmp_path: Path) -> None:
    folder = load_classes(f"folder:{animals}", spec=COLOUR)
    for prefix in ("", "wrapped/twice/"):
        archive = zipped(animals, tmp_path / "animals.zip", prefix)
        classes = load_classes(f"folder:{archive}", spec=COLOUR)
        assert classes.names == folder.names
        assert classes.images.equal(folder.images)


def test_split_files(animals: Path, tmp_path: Path) -> None:
    assert load_classes(f"folder:{animals}", spec=COLOUR, split="train").names == ("dog", "cat")
    archive = zipped(animals, tmp_path / "animals.zip")
    (tmp_path / "test.txt").write_text("eel\n")
    assert load_classes(f"folder:{archive}", spec=COLOUR, split="test").names == ("eel",)


def test_nested_classes_keep_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("all/greek/alpha", "all/greek/beta", "all/latin/a"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    assert load_classes("folder:.", root=tmp_path, spec=COLOUR).names == ("greek/alpha", "greek/beta", "latin/a")
    assert load_classes("folder:all/greek", root=tmp_path, spec=COLOUR).names == ("alpha", "beta")


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="there is nothing"):
        load_classes(f"folder:{tmp_path / 'absent'}", spec=COLOUR)
    with pytest.raises(SourceNotFound, match="found no image in a folder"):
        load_classes(f"folder:{tmp_path}", spec=COLOUR)
    with pytest.raises(SourceNotFound, match="expected folder:PATH"):
        load_classes("folder", spec=COLOUR)


def test_splits_that_are_wrong(animals: Path) -> None:
    with pytest.raises(SplitUnknown, match="the splits there: train"):
        load_classes(f"folder:{animals}", spec=COLOUR, split="val")
    (animals / "val.txt").write_text("cow\ncat\n")
    with pytest.raises(ClassUnknown, match=r"val.txt names cow, .* 3 classes: cat, dog, eel"):
        load_classes(f"folder:{animals}", spec=COLOUR, split="val")
    with pytest.raises(SplitUnknown):
        load_classes(f"folder:{animals}", spec=COLOUR, split="../animals/train")


def test_files_that_are_no_images(animals: Path, tmp_path: Path) -> None:
    (animals / "dog/c.png").write_bytes((animals / "cat/1.png").read_bytes()[:40])
    with pytest.raises(ImageUnreadable, match=r"dog/c.png cannot be decoded: .*remove the file"):
        load_classes(f"folder:{animals}", spec=COLOUR)
    text = tmp_path / "words.zip"
    text.write_text("words")
    with pytest.raises(ArchiveInvalid, match=r"words.zip is neither"):
        load_classes(f"folder:{text}", spec=COLOUR)


def test_a_zip_with_a_damaged_member(animals: Path, tmp_path: Path) -> None:
    archive = zipped(animals, tmp_path / "animals.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(b"BM") + 60] ^= 0xFF  # a pixel of the stored bitmap
    archive.write_bytes(data)
    with pytest.raises(ArchiveInvalid, match=r"dog/a.bmp: Bad CRC-32 .*Fetch the archive again"):
        load_classes(f"folder:{archive}", spec=COLOUR)


def test_what_a_folder_does_not_take(animals: Path) -> None:
    with pytest.raises(OptionInvalid, match="folder takes no options, got classes"):
        load_classes(f"folder:{animals}", spec=COLOUR, options={"classes": 3})
    with pytest.raises(OptionInvalid, match="one way of splitting, got scheme 'lake'"):
        load_classes(f"folder:{animals}", spec=COLOUR, scheme="lake")


def test_the_cache_gives_the_same_pixels_and_is_used(animals: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = load_classes(f"folder:{animals}", spec=COLOUR)
    first = load_classes(f"folder:{animals}", spec=COLOUR, cache=cache)
    (entry,) = cache.iterdir()
    assert first.images.equal(plain.images)
    # Same names, sizes and times, other bytes: only a reader of the cache does not notice.
    stat = (animals / "eel/only.png").stat()
    (animals / "eel/only.png").write_bytes(b"\0" * stat.st_size)
    os.utime(animals / "eel/only.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load_classes(f"folder:{animals}", spec=COLOUR, cache=cache).images.equal(plain.images)
    entry.unlink()
    with pytest.raises(ImageUnreadable):
        load_classes(f"folder:{animals}", spec=COLOUR, cache=cache)


def test_the_cache_knows_other_files_and_other_inputs(animals: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_classes(f"folder:{animals}", spec=COLOUR, cache=cache)
    larger = COLOUR.model_copy(update={"width": 10})
    assert load_classes(f"folder:{animals}", spec=larger, cache=cache).images.shape[2] == 10
    Image.new("RGB", (20, 20)).save(animals / "eel/only.png")
    changed = load_classes(f"folder:{animals}", spec=COLOUR, cache=cache)
    assert changed.images[-1].eq(0).all()
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_cache_is_built_again(animals: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = load_classes(f"folder:{animals}", spec=COLOUR, cache=cache)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    for damage in (b"", whole[:200], b"\x93NUMPY nonsense"):
        entry.write_bytes(damage)
        assert load_classes(f"folder:{animals}", spec=COLOUR, cache=cache).images.equal(plain.images)
        assert entry.read_bytes() == whole
