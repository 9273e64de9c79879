"""What a network is: a named pair of pure functions and the number of features that it ends in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from kshot_models.inner.transformation import Rates
from kshot_models.types import Examples, Params, Predictor

__all__ = ["Apply", "Descend", "Network", "Prepare", "Pull", "Pullback"]


class Apply(Protocol):
    """The forward pass of a network."""

    def __call__(
        self, params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        """Embed `inputs`.

        Args:
            params: by the names that `init` gave.
            inputs: (n, *x).
            weights: (n,) of the examples, for the moments; None where all count alike.
            moments: normalize with these; None to compute them from `inputs`.

        Returns:
            features (n, features), and the moments that were used (empty for norms that keep none).
        """
        ...


Pull: TypeAlias = Callable[[Tensor], Params]
"""The gradient of features -> that of the parameters."""


class Pullback(Protocol):
    """The forward pass of a network by moments of its own, with the way back: what needs no autograd."""

    def __call__(self, params: Params, inputs: Tensor, *, weights: Tensor | None) -> tuple[Tensor, Pull] | None:
        """Embed `inputs`; see Apply.

        Returns:
            features (n, features), and what gives the gradients; None where only autograd does.
        """
        ...


class Descend(Protocol):
    """Inner steps of gradient descent on a network and a linear head under cross-entropy, in one go."""

    def __call__(
        self,
        params: Params,
        head: Params,
        support: Examples,
        present: Tensor,
        rates: Callable[[str], Rates | None],
        *,
        moments: bool,
        first_order: bool,
    ) -> tuple[Params, Params] | None:
        """Take the steps; where gradients are enabled, plain autograd may differentiate them, once.

        Args:
            params: of the network, to start from.
            head: weight (way, features) and bias (way,) to start from.
            support: the examples, which all steps see.
            present: (way,) 1 for the classes that have examples.
            rates: of `body.NAME` and `head.NAME`; None for what stays as it is.
            moments: whether those of the support set under the new weights are wanted.
            first_order: whether the gradients of the steps count as constants.

        Returns:
            the weights that changed, by their names, and the moments, if wanted; None where this cannot be done.
        """
        ...


class Prepare(Protocol):
    """The forward pass of a network by given moments and a linear head, with all done that inputs do not change."""

    def __call__(self, params: Params, head: Params, moments: Params) -> Predictor | None:
        """Get ready.

        Args:
            params: of the network.
            head: weight (way, features) and bias (way,).
            moments: of the norms.

        Returns:
            inputs (n, *x) -> logits (n, way); None where nothing is to be gained.
        """
        ...


class Network(NamedTuple):
    """An embedding network."""

    init: Callable[[torch.Generator], Params]
    apply: Apply
    features: int
    pullback: Pullback | None = None
    descend: Descend | None = None
    prepare: Prepare | None = None
