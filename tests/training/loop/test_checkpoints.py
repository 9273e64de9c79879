"""Checkpoints: whole or not there, the newest two, and an error for each way of being wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kshot_training.checkpoint import TENSORS, VALUES, Checkpoint, load_newest, save_checkpoint
from kshot_training.errors import CheckpointError


def checkpoint(step: int, recipe: str = "r") -> Checkpoint:
    tensors = {"meta/init/w": torch.tensor([step, float("nan")]), "optimizer/step": torch.tensor(float(step))}
    return Checkpoint(step, recipe, tensors, {"best": None, "optimizer": {"a": 1}})


def test_round_trip_keeps_bits_and_values(tmp_path: Path) -> None:
    saved = checkpoint(3)
    save_checkpoint(tmp_path, saved)
    loaded = load_newest(tmp_path, recipe_digest="r")
    assert loaded is not None
    assert (loaded.step, loaded.values) == (3, saved.values)
    for name, tensor in saved.tensors.items():
        assert tensor.numpy().tobytes() == loaded.tensors[name].numpy().tobytes()


def test_the_newest_two_are_kept_in_numeric_order(tmp_path: Path) -> None:
    for step in (999_999_999, 1_000_000_000, 1_000_000_001):
        save_checkpoint(tmp_path, checkpoint(step))
    assert {path.name for path in tmp_path.iterdir()} == {"step-1000000000", "step-1000000001"}
    loaded = load_newest(tmp_path, recipe_digest="r")
    assert loaded is not None
    assert loaded.step == 1_000_000_001


def test_what_a_killed_writer_left_is_ignored_and_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    half = tmp_path / ".step-000000002.99.tmp"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    loaded = load_newest(tmp_path, recipe_digest="r")
    assert loaded is not None
    assert loaded.step == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert not half.exists()


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, Checkpoint(1, "r", {"w": torch.ones(1)}))
    loaded = load_newest(tmp_path, recipe_digest="r")
    assert loaded is not None
    assert loaded.tensors.keys() == {"w"}


def test_none_yet(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nowhere", recipe_digest="r") is None


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    with pytest.raises(CheckpointError, match="written by another recipe"):
        load_newest(tmp_path, recipe_digest="other")


@pytest.mark.parametrize("damage", ["tensors", "values", "missing", "format"])
def test_damage_is_told(damage: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(1))
    told = "cannot be read"
    if damage == "tensors":
        data = bytearray((folder / TENSORS).read_bytes())
        data[-1] ^= 1
        (folder / TENSORS).write_bytes(data)
        told = "is not what"
    elif damage == "values":
        (folder / VALUES).write_text("{")
    elif damage == "missing":
        (folder / TENSORS).unlink()
    else:
        values = json.loads((folder / VALUES).read_text())
        (folder / VALUES).write_text(json.dumps(values | {"format": 2}))
        told = "format 2"
    with pytest.raises(CheckpointError, match=told):
        load_newest(tmp_path, recipe_digest="r")
