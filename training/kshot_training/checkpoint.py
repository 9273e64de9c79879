"""Checkpoints: all that is needed to go on as if nothing had happened, and nothing that a pickle could hide.

    FOLDER/step-000001000/state.safetensors     tensors: meta/..., average/..., best/..., optimizer/LEAF/KEY
                          state.json            step, recipe digest, sha256 of the tensors, other values

A checkpoint is written beside its name, synced and renamed: under its name it is whole or not there, whenever the
process dies. Training is resumed from the newest; the two newest are kept. An artifact, in contrast, holds what is
needed to *use* the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from kshot_models.synced_files import write_synced
from kshot_models.types import Params
from kshot_training.errors import CheckpointError

__all__ = ["FORMAT", "TENSORS", "VALUES", "Checkpoint", "load_newest", "save_checkpoint"]

FORMAT = 1
TENSORS = "state.safetensors"
VALUES = "state.json"
_NAME = re.compile(r"^step-(\d{9,})$")


@dataclass(frozen=True)
class Checkpoint:
    """What training has come to after `step` outer steps."""

    step: int
    recipe_digest: str  # of the settings that decide the result, see Recipe.digest
    tensors: Params
    values: dict[str, Any] = field(default_factory=dict)  # JSON only


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint whole or not at all, then drop all but the newest `keep`.

    Returns:
        The folder of this checkpoint.
    """
    target = folder / f"step-{checkpoint.step:09d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    _remove_temporaries(folder)
    temporary.mkdir(parents=True)
    data = save_tensors({name: tensor.contiguous() for name, tensor in sorted(checkpoint.tensors.items())})
    values = {
        "format": FORMAT,
        "step": checkpoint.step,
        "recipe": checkpoint.recipe_digest,
        "sha256": hashlib.sha256(data).hexdigest(),
        "values": checkpoint.values,
    }
    write_synced(temporary / TENSORS, data)
    write_synced(temporary / VALUES, json.dumps(values, indent=1).encode())
    _sync_folder(temporary)
    if target.exists():  # the same step again, after a resume without a step taken
        shutil.rmtree(target)
    temporary.rename(target)
    _sync_folder(folder)
    for _, old in sorted(_steps(folder))[:-keep]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path, *, recipe_digest: str) -> Checkpoint | None:
    """Read the newest checkpoint of `folder`; None if there is none.

    Raises:
        CheckpointError: It is broken, of another format, or of another recipe.
    """
    steps = sorted(_steps(folder))
    if not steps:
        return None
    path = steps[-1][1]
    checkpoint = _read(path)
    if checkpoint.recipe_digest != recipe_digest:
        raise CheckpointError(
            f"{path} was written by another recipe (digest {checkpoint.recipe_digest[:12]}, now {recipe_digest[:12]}): "
            "resume with the recipe and overrides of that run, or start afresh in another --out"
        )
    return checkpoint


def _read(path: Path) -> Checkpoint:
    try:
        values = json.loads((path / VALUES).read_bytes())
        if values["format"] != FORMAT:
            raise CheckpointError(f"{path} has checkpoint format {values['format']}, this version reads {FORMAT}")
        data = (path / TENSORS).read_bytes()
        if hashlib.sha256(data).hexdigest() != values["sha256"]:
            raise CheckpointError(
                f"{path}: {TENSORS} is not what {VALUES} vouches for; remove this folder to resume earlier"
            )
        return Checkpoint(values["step"], values["recipe"], load_tensors(data), values["values"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove this folder to resume from an earlier one"
        ) from error


def _steps(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if found := _NAME.match(path.name):
            yield int(found[1]), path


def _remove_temporaries(folder: Path) -> None:
    # Left by a killed process; a run folder belongs to one run at a time.
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
