"""Classes in memory: where each lies, how it is turned, how it becomes an input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_training.data import ImageClasses
from kshot_training.data.errors import ClassUnknown, OptionInvalid


def photographs() -> ImageClasses:
    spec = InputSpec(height=5, width=5, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (9, 5, 5, 3), np.uint8)
    return ImageClasses.of({"cat": pixels[:4], "dog": pixels[4:6], "eel": pixels[6:]}, spec)


def test_classes_lie_one_after_the_other() -> None:
    classes = photographs()
    assert classes.names == ("cat", "dog", "eel")
    assert classes.starts.tolist() == [0, 4, 6]
    assert classes.counts.tolist() == [4, 2, 3]
    assert (classes.num_classes, classes.num_images) == (3, 9)


def test_subset_keeps_the_order_asked_for() -> None:
    classes = photographs()
    some = classes.subset(["eel", "cat"])
    assert some.names == ("eel", "cat")
    assert some.starts.tolist() == [0, 3]
    assert some.counts.tolist() == [3, 4]
    assert torch.equal(some.images, torch.cat([classes.images[6:], classes.images[:4]]))
    assert some.spec is classes.spec


def test_subset_of_nothing_and_of_strangers() -> None:
    assert photographs().subset([]).num_images == 0
    with pytest.raises(ClassUnknown, match=r"among the 3 classes .*, got cow"):
        photographs().subset(["cat", "cow"])


@pytest.mark.parametrize("turns", range(4))
def test_turned_images_equal_numpy(turns: int) -> None:
    classes = photographs()
    turned = ImageClasses(classes.images, classes.starts, classes.counts, classes.names, classes.spec, rotations=True)
    rows = torch.tensor([[1, 8], [3, 0]])
    pixels = turned.pixels(rows, torch.full_like(rows, turns))
    assert pixels.dtype == torch.uint8
    expected = np.rot90(classes.images.numpy()[rows.numpy()], turns, axes=(2, 3))
    np.testing.assert_array_equal(pixels.numpy(), expected)


def test_each_image_is_turned_by_its_own_angle() -> None:
    classes = photographs()
    turned = ImageClasses(classes.images, classes.starts, classes.counts, classes.names, classes.spec, rotations=True)
    pixels = turned.pixels(torch.arange(4), torch.arange(4)).numpy()
    for i in range(4):
        np.testing.assert_array_equal(pixels[i], np.rot90(classes.images[i].numpy(), i))


@pytest.mark.parametrize("turn", range(8))
def test_mirror_images_are_classes_that_turn_too(turn: int) -> None:
    classes = dataclasses.replace(photographs(), rotations=True, mirrored=True)
    assert (classes.turns, classes.num_classes) == (8, 24)
    pixels = classes.pixels(torch.arange(4), torch.full((4,), turn)).numpy()
    images = classes.images[:4].numpy()
    expected = np.rot90(images[:, :, ::-1] if turn >= 4 else images, turn % 4, axes=(1, 2))
    np.testing.assert_array_equal(pixels, expected)
    told = ["cat", "cat@90", "cat@180", "cat@270"]
    told += ["cat@mirrored", "cat@mirrored@90", "cat@mirrored@180", "cat@mirrored@270"]
    assert classes.class_name(turn) == told[turn]


def test_images_that_are_not_square_have_mirror_images() -> None:
    spec = InputSpec(height=4, width=5, channels=1, mean=(0.0,), std=(1.0,))
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 1), np.uint8)
    classes = dataclasses.replace(ImageClasses.of({"a": images}, spec), mirrored=True)
    assert [classes.class_name(i) for i in range(classes.num_classes)] == ["a", "a@mirrored"]
    pixels = classes.pixels(torch.tensor([0, 1]), torch.tensor([0, 1])).numpy()
    np.testing.assert_array_equal(pixels, np.stack([images[0], images[1, :, ::-1]]))


def test_names_of_turned_classes() -> None:
    classes = photographs()
    assert [classes.class_name(i) for i in range(3)] == ["cat", "dog", "eel"]
    turned = ImageClasses(classes.images, classes.starts, classes.counts, classes.names, classes.spec, rotations=True)
    assert turned.num_classes == 12
    assert [turned.class_name(i) for i in (0, 1, 7, 8)] == ["cat", "cat@90", "dog@270", "eel"]


def test_inputs_are_normalised_and_channels_first() -> None:
    classes = photographs()
    inputs = classes.inputs(torch.tensor([2]), torch.tensor([0]), dtype=torch.float64)
    expected = (classes.images[2].numpy() / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(inputs[0].numpy(), expected.transpose(2, 0, 1), rtol=1e-12)


def test_only_squares_turn() -> None:
    spec = InputSpec(height=4, width=5, channels=1, mean=(0.0,), std=(1.0,))
    groups = {"a": np.zeros((1, 4, 5, 1), np.uint8)}
    assert ImageClasses.of(groups, spec).num_classes == 1
    with pytest.raises(OptionInvalid, match="square images, got 4 x 5"):
        ImageClasses.of(groups, spec, rotations=True)
