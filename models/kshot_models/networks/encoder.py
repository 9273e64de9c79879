"""The network of a learner on an encoder's features: it has nothing to compute, and no weights.

The encoder itself runs before the learner, once for each image: see learners/frozen.py.
"""

from __future__ import annotations

from typing import Any

from kshot_models.encoder import EncoderOptions
from kshot_models.manifest import InputSpec, NormMode
from kshot_models.networks.identity import identity
from kshot_models.networks.network import Network

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

    return identity(EncoderOptions.model_validate(options).features)
