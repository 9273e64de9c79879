"""Starting from another artifact's meta-parameters, such as a prototype-trained body under another head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.load import load
from kshot_models.per_step import is_norm
from kshot_models.types import MetaParams
from kshot_training.errors import WarmStartError

__all__ = ["WarmStart", "warm_start"]


class WarmStart(NamedTuple):
    """What was taken over and what was not, by tensor name."""

    copied: tuple[str, ...]
    fresh: tuple[str, ...]  # of the learner, unknown to the artifact
    unused: tuple[str, ...]  # of the artifact, unknown to the learner


def warm_start(meta: MetaParams, name_or_folder: str) -> WarmStart:
    """Copy the artifact's `init` tensors into those of the same name in `meta`, in place.

    Only where fast weights start is taken over, with the running moments that belong to it where the learner keeps
    some: inner rates belong to the inner optimizer that they were learned with. What the learner has for each inner
    step (per_step.py) all begins as the one that the artifact has.

    Raises:
        WarmStartError: No name agrees, or one does with another shape.
        ArtifactError: The artifact cannot be loaded.
    """
    source, _, counted = load(name_or_folder).meta_params
    shared = [name for name in meta.init if name in source]
    if not shared:
        raise WarmStartError(
            f"init_from = {name_or_folder!r}: it has {', '.join(sorted(source))}; the learner needs "
            f"{', '.join(sorted(meta.init))}. No name agrees: use a learner with the same network"
        )
    for name in shared:
        if _as_needed(name, source[name], meta.init[name].shape) is None:
            raise WarmStartError(
                f"init_from = {name_or_folder!r}: {name} is {tuple(source[name].shape)} there, the learner of this "
                f"recipe needs {tuple(meta.init[name].shape)}: make the networks and heads agree"
            )
    for there, of_artifact in ((meta.init, source), (meta.stats, counted)):
        for name, values in there.items():
            found = _as_needed(name, of_artifact[name], values.shape) if name in of_artifact else None
            if found is not None:
                values.copy_(found)
    return WarmStart(
        tuple(shared),
        tuple(name for name in meta.init if name not in source),
        tuple(name for name in source if name not in meta.init),
    )


def _as_needed(name: str, values: Tensor, shape: torch.Size) -> Tensor | None:
    """The same in that shape: itself, or of a norm a row for each inner step; None where neither fits."""
    if values.shape == shape:
        return values
    row = values[0] if values.dim() == 2 and len(values) == 1 else values
    return row.expand(shape) if is_norm(name) and row.dim() == 1 and row.shape == shape[1:] else None
