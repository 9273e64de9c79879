"""The moments of norm = "population": those of all training images, as in batch normalization itself.

Training normalizes by the batch at hand and keeps a running mean of its moments; in use they take the batch's place,
so that an embedding depends on no other image, not even of the support set. For learners without inner steps, whose
body is the same for all tasks.

Reference: Ioffe and Szegedy, 2015, arXiv:1502.03167 (population statistics).
"""

from __future__ import annotations

from kshot_models.manifest import NormMode
from kshot_models.per_step import fresh_moments, moments_at
from kshot_models.tree import under
from kshot_models.types import MetaParams, Params, TaskParams

__all__ = ["fresh_population", "population_moments", "query_moments"]


def fresh_population(layers: Params, norm: NormMode) -> Params:
    """`MetaParams.stats` before training: mean 0 and variance 1, (1, channels), of each norm; none in other modes."""
    return fresh_moments(layers, 1) if norm == "population" else {}


def population_moments(meta: MetaParams, norm: NormMode) -> Params | None:
    """Moments (channels,) to normalize every image by; None in other modes."""
    return moments_at(meta.stats, 0) if norm == "population" else None


def query_moments(meta: MetaParams, task: TaskParams, norm: NormMode) -> Params | None:
    """Moments (channels,) that a learner without inner steps normalizes queries by; None for those of their batch."""
    return under("moments.", task) if norm == "support" else population_moments(meta, norm)
