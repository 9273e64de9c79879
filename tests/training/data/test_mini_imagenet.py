"""mini-ImageNet's layout, made here: lists and images, whole and broken, from files to a training step."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot_models.manifest import InputSpec
from kshot_models.pixels import to_pixels
from kshot_training import build
from kshot_training.commands import data
from kshot_training.data import ImageClasses, load_classes
from kshot_training.data.errors import (
    CountMismatch,
    DataError,
    ListInvalid,
    OptionInvalid,
    SourceNotFound,
    SplitUnknown,
)
from kshot_training.data.mini_imagenet import CLASSES, IMAGES, check_counts, read_list
from kshot_training.outer_loop import outer_loop
from kshot_training.recipe_files import read_recipe
from kshot_training.sampling import Place, recipe_episodes

COLOUR = InputSpec(height=84, width=84, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
CLASSES_MADE = {"train": 6, "val": 5, "test": 5}
IMAGES_MADE = 4
Write = Callable[..., None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 classes of 4 photographs of their own colour, under ImageNet's kind of names."""
    root = tmp_path_factory.mktemp("data") / "mini-imagenet"
    (root / "images").mkdir(parents=True)
    generator = np.random.Generator(np.random.PCG64(2))
    synset = 1000
    for split, classes in CLASSES_MADE.items():
        lines = ["filename,label"]
        for _ in range(classes):
            synset += 7
            colour = generator.integers(0, 200, 3)
            for i in range(IMAGES_MADE):
                name = f"n{synset:08d}{i:08d}.jpg"
                pixels = colour + generator.integers(0, 56, (60 + i, 100, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / name)
                lines.append(f"{name},n{synset:08d}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def lists(tmp_path: Path, made: Path) -> Path:
    """A copy of the lists to spoil, beside the same images."""
    for split in CLASSES_MADE:
        (tmp_path / f"{split}.csv").write_bytes((made / f"{split}.csv").read_bytes())
    (tmp_path / "images").symlink_to(made / "images")
    return tmp_path


def load(root: Path, split: str | None = "train", **options: object) -> ImageClasses:
    return load_classes(f"mini-imagenet:{root}", spec=COLOUR, split=split, options={"partial": True, **options})


def test_classes_are_those_of_the_lists_and_pixels_those_of_serving(made: Path) -> None:
    for split, classes in CLASSES_MADE.items():
        assert load(made, split).num_classes == classes
    every = load(made, None)
    assert every.num_classes == sum(CLASSES_MADE.values())
    train = read_list(made / "train.csv")
    assert every.names[:6] == tuple(train)
    assert every.counts.tolist() == [IMAGES_MADE] * 16
    for row, name in enumerate(name for files in train.values() for name in files):
        with Image.open(made / "images" / name) as image:
            np.testing.assert_array_equal(every.images[row].numpy(), to_pixels(image, COLOUR))


def test_images_may_be_in_folders_of_a_zip(made: Path, lists: Path) -> None:
    (lists / "images").unlink()
    with zipfile.ZipFile(lists / "images.zip", "w") as archive:
        for path in (made / "images").iterdir():
            archive.write(path, f"images/{path.name[:9]}/{path.name}")
    assert torch.equal(load(lists).images, load(made).images)


def test_the_recipe_trains_on_it(made: Path) -> None:
    overrides = ["data.options.partial=true", "episodes.queries=1", "episodes.tasks=1", "validation.queries=2"]
    recipe = read_recipe("mini-imagenet-maml", [*overrides, "measure.queries=2", "outer.steps=1", "learner.steps=1"])
    episodes = recipe_episodes(recipe, Place(root=made.parent))
    learner = build.build_learner(recipe.learner, recipe.input)
    state = build.build_state(build.fresh_meta(learner, seed=0), recipe.outer)
    gradient = build.build_meta_gradient(recipe)
    schedule = build.build_schedule(recipe.outer.schedule, steps=1)
    (seen,) = outer_loop(state, learner, episodes.train, gradient, steps=1, schedule=schedule, seed=0)
    assert np.isfinite(seen.loss)
    assert sum(t.numel() for t in state.meta.init.values()) == 32_901 - 4 * 32  # the usual count has convolution biases


def test_the_whole_is_counted(made: Path) -> None:
    with pytest.raises(CountMismatch, match=r"train.csv: expected 64 classes, got 6: .*partial = true"):
        load_classes(f"mini-imagenet:{made}", spec=COLOUR, split="train")
    for split, classes in CLASSES.items():
        whole = {f"n{c}": [f"{c}-{i}.jpg" for i in range(IMAGES)] for c in range(classes)}
        check_counts(split, whole, where=made)
        whole["n3"][5] = whole["n3"][6]
        with pytest.raises(CountMismatch, match="expected 600 images of each class; n3 has 599"):
            check_counts(split, whole, where=made)


def no_list(root: Path) -> None:
    (root / "train.csv").unlink()


def no_images(root: Path) -> None:
    (root / "images").unlink()


def other_header(root: Path) -> None:
    (root / "train.csv").write_text("image,class\na.jpg,n1\n")


def empty(root: Path) -> None:
    (root / "train.csv").write_text("")


def one_column(root: Path) -> None:
    (root / "train.csv").write_text("filename,label\na.jpg\n")


def absent_image(root: Path) -> None:
    (root / "train.csv").write_text("filename,label\na.jpg,n1\n")


def no_text(root: Path) -> None:
    (root / "train.csv").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (no_list, SourceNotFound, "no train.csv"),
        (no_images, SourceNotFound, "expected images/ or images.zip beside the lists"),
        (other_header, ListInvalid, "expected the header filename,label, got image,class"),
        (empty, ListInvalid, "expected the header filename,label, got nothing"),
        (one_column, ListInvalid, r"entry 2: expected filename,label, got 'a.jpg'"),
        (absent_image, ListInvalid, r"name 1 images that are not in .*which has 64: a.jpg"),
        (no_text, ListInvalid, "is no list of images"),
    ],
)
def test_another_layout_is_told(spoil: Callable[[Path], None], error: type[DataError], told: str, lists: Path) -> None:
    spoil(lists)
    with pytest.raises(error, match=told):
        load(lists)


def test_splits_share_no_classes(lists: Path) -> None:
    (lists / "val.csv").write_bytes((lists / "train.csv").read_bytes())
    with pytest.raises(ListInvalid, match=r"val\.csv: class n00001007 is in another split too"):
        load(lists, None)


def test_wrong_requests(made: Path) -> None:
    with pytest.raises(SplitUnknown, match=r"\(train, val, test\), got 'validation'"):
        load(made, "validation")
    with pytest.raises(OptionInvalid, match="has the option partial, got whole"):
        load(made, whole=True)
    with pytest.raises(OptionInvalid, match="expected partial = true or false, got 'yes'"):
        load(made, partial="yes")


def test_the_command_checks_what_was_brought(made: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> int:
        parser = argparse.ArgumentParser()
        data.configure(parser)
        return data.run(parser.parse_args([str(argument) for argument in arguments]))

    assert call("mini-imagenet", "--from", made, "--partial") == 0
    assert f"{made / 'test.csv'}: 5 classes, every image is there" in capsys.readouterr().out
    assert call("mini-imagenet", "--from", made) == 2
    assert "expected 64 classes, got 6" in capsys.readouterr().err
    absent_image(lists)
    assert call("mini-imagenet", "--from", lists, "--partial") == 2
    assert "a.jpg" in capsys.readouterr().err
