"""Training text in lanes: how the static weights are learned, by truncated backpropagation through long texts.

lane 1   ──segment──segment──segment── ...       an outer step reads the next segment of every lane;
lane 2   ──segment──segment──segment── ...       what the LSTM remembers goes on, gradients do not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kshot_models.tree import tree_map
from kshot_models.types import MetaParams, Params
from kshot_training.data.draws import uniforms
from kshot_training.language.model import CharacterLSTM
from kshot_training.meta_gradients.base import Metrics

__all__ = ["Lanes"]

_SHIFT = 42  # the stream of random numbers; see draws.py


class Lanes:
    """The gradient of one segment after another by the weights, `meta.init`.

    Args:
        model: its form.
        documents: (characters,) each; they are read one after another, as one ring.
        lanes: read side by side, from places that lie as far apart as can be.
        length: characters of a segment.
        seed: of the place where the first lane begins.
    """

    def __init__(
        self, model: CharacterLSTM, documents: Sequence[Tensor], *, lanes: int, length: int, seed: int
    ) -> None:
        self._model, self._length = model, length
        self._text = torch.cat(list(documents))
        shift = int(uniforms(seed, _SHIFT, first=0, count=1, width=1)[0, 0] * len(self._text))
        self._begins = shift + torch.arange(lanes) * (len(self._text) // lanes)
        self._memory: Params | None = None

    def gradient(self, meta: MetaParams, step: int) -> tuple[MetaParams, Metrics]:
        """The gradient of the mean loss, in nats per character, of segment `step`."""
        params = tree_map(lambda leaf: leaf.detach().requires_grad_(), meta.init)
        memory = self._memory
        if memory is None:
            memory = self._model.blank(params["output.bias"], len(self._begins))
        places = self._begins + step * self._length + torch.arange(self._length + 1)[:, None]
        losses, after = self._model.losses(params, memory, self._text[places % len(self._text)])
        loss = losses.mean()
        grads = torch.autograd.grad(loss, list(params.values()))
        self._memory = tree_map(Tensor.detach, after)
        told = Metrics(loss.detach(), loss.new_full((), torch.nan), {})
        return MetaParams(dict(zip(params, grads, strict=True)), {}, {}), told

    def tensors(self) -> tuple[Params, dict[str, int]]:
        """What the lanes remember, for a checkpoint."""
        return self._memory or {}, {}

    def load(self, tensors: Params, values: Mapping[str, Any]) -> None:
        """Put back what `tensors` returned."""
        del values
        self._memory = dict(tensors) or None
