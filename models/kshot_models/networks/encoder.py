"""The network of a learner on an encoder's features: it has nothing to compute, and no weights.

The encoder itself runs before the learner, once for each image: see learners/frozen.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_models.encoder import EncoderOptions
from kshot_models.manifest import InputSpec, NormMode
from kshot_models.networks.network import Network
from kshot_models.types import Params

__all__ = ["encoder"]


def encoder(input: InputSpec, norm: NormMode, **options: Any) -> Network:  # noqa: A002 - the manifest's word
    """Pass features (n, features) on as they are.

    Args:
        input: the artifact's input; that of the encoder.
        norm: must be "none": an encoder brings its own.
        options: see EncoderOptions.

    Raises:
        ValueError: another norm, or options that do not fit.
    """
    del input
    if norm != "none":
        raise ValueError(f"expected norm = 'none', as an encoder brings its own norms; got {norm!r}")

    def init(generator: torch.Generator) -> Params:
        del generator
        return {}

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        del params, weights, moments
        return inputs, {}

    return Network(init, apply, EncoderOptions.model_validate(options).features)
