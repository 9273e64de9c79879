"""Episodes: what is drawn, how it is laid out, and that nothing but seed and number decides it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_models.types import Episode
from kshot_training.data import EpisodeSampler, ImageClasses, Warp
from kshot_training.data.errors import EpisodeImpossible

MakeClasses = Callable[..., ImageClasses]


def read_off(inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class and image of `numbered` inputs (..., 1, 2, 2) that are not turned."""
    values = (inputs * 255).round().long().numpy()
    return values[..., 0, 0, 0], values[..., 0, 0, 1]


def bytes_of(episode: Episode) -> bytes:
    return b"".join(tensor.contiguous().numpy().tobytes() for examples in episode for tensor in examples)


def within_bounds(counts: np.ndarray) -> bool:
    """Whether equal frequencies explain the counts: chi-square within four standard deviations of its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return abs(((counts - expected) ** 2).sum() / expected - freedom) < 4 * np.sqrt(2 * freedom)


def test_shapes_labels_and_order(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([9] * 12), way=4, shot=3, queries=5)
    support, query = sampler.sample(0, 7)
    assert support.inputs.shape == (7, 12, 1, 2, 2)
    assert query.inputs.shape == (7, 20, 1, 2, 2)
    assert support.targets.dtype == torch.int64
    assert (support.targets == torch.arange(4).repeat_interleave(3)).all()  # class-major
    assert (query.targets == torch.arange(4).repeat_interleave(5)).all()
    assert support.weights.eq(1).all()
    assert query.weights.eq(1).all()


def test_every_target_is_one_class_and_classes_differ(numbered: MakeClasses) -> None:
    support, query = EpisodeSampler(numbered([9] * 12), way=4, shot=3, queries=5).sample(3, 50)
    in_support, in_query = read_off(support.inputs)[0].reshape(50, 4, 3), read_off(query.inputs)[0].reshape(50, 4, 5)
    assert (in_support == in_support[..., :1]).all()
    assert (in_query == in_support[..., :1]).all()
    assert all(len(set(row)) == 4 for row in in_support[..., 0])


def test_support_and_query_share_no_image(numbered: MakeClasses) -> None:
    support, query = EpisodeSampler(numbered([8] * 5), way=5, shot=3, queries=5).sample(0, 50)
    images = np.concatenate(
        [read_off(support.inputs)[1].reshape(50, 5, 3), read_off(query.inputs)[1].reshape(50, 5, 5)], axis=2
    )
    assert (np.sort(images, axis=2) == np.arange(8)).all()  # all eight of each class, each once


def test_classes_of_unequal_size(numbered: MakeClasses) -> None:
    counts = [3, 40, 7, 5]
    support, query = EpisodeSampler(numbered(counts), way=4, shot=1, queries=2).sample(0, 400)
    seen = np.zeros((4, 40), int)
    for examples in (support, query):
        np.add.at(seen, tuple(part.ravel() for part in read_off(examples.inputs)), 1)
    for row, count in zip(seen, counts, strict=True):
        assert row[:count].all()
        assert not row[count:].any()
        assert within_bounds(row[:count])


def test_classes_places_and_images_are_equally_frequent(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([6] * 20), way=5, shot=1, queries=1, seed=11)
    support, _ = sampler.sample(0, 4000)
    classes, images = read_off(support.inputs)
    by_place = np.stack([np.bincount(classes[:, place], minlength=20) for place in range(5)])
    assert all(within_bounds(counts) for counts in by_place)
    assert within_bounds(np.bincount(images.ravel(), minlength=6))


def test_rotations_count_as_classes_and_one_character_may_come_twice(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([4] * 3, rotations=True), way=12, shot=1, queries=1)
    indices = sampler.episode_indices(0, 5)
    assert (np.sort(indices.classes, axis=1) == np.arange(12)).all()
    support, query = sampler.sample(0, 5)
    upright = [
        torch.rot90(x[0], -int(turns)) for x, turns in zip(support.inputs[0], indices.classes[0] % 4, strict=True)
    ]
    classes, _ = read_off(torch.stack(upright)[:, None])
    assert classes.tolist() == (indices.classes[0] // 4).tolist()
    assert (indices.support.turns == indices.query.turns).all()
    assert not torch.equal(support.inputs, query.inputs)


def test_variable_way_and_shot_pad_with_weight_zero(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([9] * 12), way=(2, 6), shot=(1, 4), queries=3)
    support, query = sampler.sample(0, 300)
    assert sampler.way_at(0) == 6
    weights = support.weights.reshape(300, 6, 4)
    ways, shots = weights[..., 0].sum(1), weights[:, 0].sum(1)
    expected = (torch.arange(6)[:, None] < ways[:, None, None]) & (torch.arange(4) < shots[:, None, None])
    assert torch.equal(weights, expected.float())
    assert torch.equal(query.weights.reshape(300, 6, 3)[..., 0], weights[..., 0])
    assert support.inputs[support.weights == 0].eq(0).all()
    assert query.inputs[query.weights == 0].eq(0).all()
    assert within_bounds(np.bincount(ways.long().numpy(), minlength=7)[2:])
    assert within_bounds(np.bincount(shots.long().numpy(), minlength=5)[1:])


def test_way_and_shot_of_a_step_pad_nothing(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([9] * 12), way=(2, 6), shot=(1, 4), queries=3, vary="step")
    sizes = []
    for step in range(200):
        support, query = sampler.sample(step, 2)
        way = sampler.way_at(step)
        shot = support.targets.shape[1] // way
        sizes.append((way, shot))
        assert query.targets.shape == (2, way * 3)
        assert support.weights.min() == query.weights.min() == 1
        assert int(support.targets.max()) == way - 1
    assert set(sizes) == {(way, shot) for way in range(2, 7) for shot in range(1, 5)}


def test_an_episode_is_a_function_of_seed_and_number(numbered: MakeClasses) -> None:
    classes = numbered([9] * 12, rotations=True)
    sampler = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, seed=5, augment=Warp())
    resumed = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, seed=5, augment=Warp())
    run = [bytes_of(sampler.sample(step, 4)) for step in range(6)]
    assert len(set(run)) == 6
    # A run that starts in the middle, in any order, sees what the first one saw.
    assert [bytes_of(resumed.sample(step, 4)) for step in (5, 3, 4)] == [run[5], run[3], run[4]]
    other = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, seed=6, augment=Warp())
    assert bytes_of(other.sample(0, 4)) != run[0]


def test_the_size_of_the_meta_batch_only_cuts_the_same_episodes(numbered: MakeClasses) -> None:
    sampler = EpisodeSampler(numbered([9] * 12), way=(2, 5), shot=2, queries=2, augment=Warp())
    together = sampler.sample(3, 8)
    halves = [sampler.sample(6, 4), sampler.sample(7, 4)]
    for name in ("inputs", "targets", "weights"):
        for whole, first, second in zip(together, *halves, strict=True):
            parts = torch.cat([getattr(first, name), getattr(second, name)])
            torch.testing.assert_close(getattr(whole, name), parts, rtol=0, atol=1e-6)


PROGRAM = """
import hashlib, numpy as np, torch
from kshot_models.manifest import InputSpec
from kshot_training.data import EpisodeSampler, ImageClasses
spec = InputSpec(height=2, width=2, channels=1, mean=(0.0,), std=(1.0,))
groups = {f"class{c}": np.array([[c, i, 0, 1] for i in range(9)], np.uint8).reshape(9, 2, 2, 1) for c in range(12)}
sampler = EpisodeSampler(ImageClasses.of(groups, spec, rotations=True), way=(2, 5), shot=(1, 3), queries=2, seed=5)
episode = sampler.sample(12345, 4)
data = b"".join(t.contiguous().numpy().tobytes() for e in episode for t in e)
print(hashlib.sha256(data).hexdigest())
"""


def test_another_process_draws_the_same_bytes(numbered: MakeClasses) -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.strip()
    classes = numbered([9] * 12, rotations=True)
    sampler = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, seed=5)
    assert hashlib.sha256(bytes_of(sampler.sample(12345, 4))).hexdigest() == answer


def test_indices_name_the_images_of_the_sample(numbered: MakeClasses) -> None:
    classes = numbered([9, 7, 8, 9, 6], rotations=True)
    sampler = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, seed=5)
    indices = sampler.episode_indices(4, 3)
    for slots, examples in zip(indices[1:], sampler.sample(4, 3), strict=True):
        np.testing.assert_array_equal(slots.targets, examples.targets.numpy())
        np.testing.assert_array_equal(slots.filled, examples.weights.numpy() == 1)
        # What an HTTP client would send: pixels, one by one, from numpy alone.
        for task, place in zip(*np.nonzero(slots.filled), strict=True):
            row, turns = slots.images[task, place], slots.turns[task, place]
            pixels = np.rot90(classes.images[row].numpy(), turns)
            np.testing.assert_allclose(examples.inputs[task, place, 0].numpy(), pixels[..., 0] / np.float32(255))
            name = np.searchsorted(classes.starts, row, side="right") - 1
            assert indices.classes[task, slots.targets[task, place]] == name * 4 + turns


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_smallest_episodes(numbered: MakeClasses, tasks: int) -> None:
    support, query = EpisodeSampler(numbered([2] * 2), way=2, shot=1, queries=1).sample(0, tasks)
    assert support.targets.tolist() == query.targets.tolist() == [[0, 1]] * tasks


def test_inputs_are_laid_out_channels_last(numbered: MakeClasses) -> None:
    classes = numbered([9] * 12)
    spec = InputSpec(height=2, width=2, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    coloured = dataclasses.replace(classes, images=classes.images.repeat(1, 1, 1, 3), spec=spec)
    for augment, shot in ((None, 2), (None, (1, 2)), (Warp(), 2)):
        support, _ = EpisodeSampler(coloured, way=3, shot=shot, queries=2, augment=augment).sample(0, 2)
        assert support.inputs.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_double_precision(numbered: MakeClasses) -> None:
    support, _ = EpisodeSampler(numbered([3] * 3), way=2, shot=1, queries=1, dtype=torch.float64).sample(0, 2)
    assert support.inputs.dtype == support.weights.dtype == torch.float64


def test_augmentation_changes_inputs_and_nothing_else(numbered: MakeClasses) -> None:
    classes = numbered([9] * 12)
    plain = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2)
    changed = EpisodeSampler(classes, way=(2, 5), shot=(1, 3), queries=2, augment=Warp())
    for before, after in zip(plain.sample(2, 3), changed.sample(2, 3), strict=True):
        assert torch.equal(before.targets, after.targets)
        assert torch.equal(before.weights, after.weights)
        assert after.inputs[after.weights == 0].eq(0).all()
        assert not torch.equal(before.inputs, after.inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"way": 13, "shot": 1, "queries": 1}, "way 13 needs as many classes, got 12"),
        ({"way": 5, "shot": 5, "queries": 5}, "need 10 images of each class, got 9 of class0"),
        ({"way": (5, 2), "shot": 1, "queries": 1}, r"got way \(5, 2\)"),
        ({"way": 1, "shot": 1, "queries": 1}, "way of at least 2"),
        ({"way": 2, "shot": 0, "queries": 1}, "shot and queries of at least 1"),
        ({"way": 2, "shot": 1, "queries": 0}, "queries 0"),
        ({"way": 2, "shot": 1, "queries": 1, "seed": -1}, "a seed from 0"),
    ],
)
def test_impossible_episodes(numbered: MakeClasses, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(EpisodeImpossible, match=message):
        EpisodeSampler(numbered([9] * 12), **arguments)  # type: ignore[arg-type]
