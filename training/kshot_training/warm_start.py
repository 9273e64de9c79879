"""Starting from another artifact's meta-parameters, such as a prototype-trained body under another head."""

from __future__ import annotations

from typing import NamedTuple

from kshot_models.load import load
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
    some of the same shape: inner rates belong to the inner optimizer that they were learned with.

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
        if source[name].shape != meta.init[name].shape:
            raise WarmStartError(
                f"init_from = {name_or_folder!r}: {name} is {tuple(source[name].shape)} there, the learner of this "
                f"recipe needs {tuple(meta.init[name].shape)}: make the networks and heads agree"
            )
    for name in shared:
        meta.init[name].copy_(source[name])
    for name, moments in meta.stats.items():
        if name in counted and counted[name].shape == moments.shape:
            moments.copy_(counted[name])
    return WarmStart(
        tuple(shared),
        tuple(name for name in meta.init if name not in source),
        tuple(name for name in source if name not in meta.init),
    )
