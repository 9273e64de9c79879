"""A character-level language model: one LSTM layer that has derivatives of any order (recurrence.py).

    p(x_{t+1} | x_1 ... x_t) = softmax(W_o h_t + b_o)          h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1})

Two of the three memories of Wolf et al. (2018, arXiv 1803.10631) are here: h and c, which last for some words, and
weights that are its own while a document is read. The third are the static weights, from which every document starts.

All tensors may have leading axes (*tasks) in common: as many models with weights of their own, each at its own texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.inner.lstm_cell import init_lstm_cell
from kshot_models.tree import prefixed
from kshot_models.types import Params
from kshot_training.language.recurrence import lstm_recurrence

__all__ = ["CharacterLSTM"]


@dataclass(frozen=True)
class CharacterLSTM:
    """The model's form.

    Args:
        symbols: numbers that a character can have.
        hidden: units.
    """

    symbols: int
    hidden: int

    def init(self, generator: torch.Generator) -> Params:
        """Fresh weights, float32: the cell's, output.weight (symbols, hidden) and output.bias (symbols,)."""
        cell = init_lstm_cell(self.symbols, self.hidden, generator, forget_bias=1.0)
        output = (2 * torch.rand(self.symbols, self.hidden, generator=generator) - 1) * self.hidden**-0.5
        return prefixed("lstm.", cell) | {"output.weight": output, "output.bias": torch.zeros(self.symbols)}

    def blank(self, like: Tensor, *shape: int) -> Params:
        """The memory before the first character of n texts: zeros (*tasks, hidden, n); `shape` is (*tasks, n)."""
        *tasks, n = shape
        zeros = like.new_zeros(*tasks, self.hidden, n)
        return {"hidden": zeros, "cell": zeros}

    def losses(self, params: Params, memory: Params, characters: Tensor) -> tuple[Tensor, Params]:
        """Read on, and be asked for each next character.

        Args:
            params: weights, (*tasks, *shape) each.
            memory: (*tasks, hidden, n) each.
            characters: (*tasks, length + 1, n), int64; the first one is given, the others are asked for.

        Returns:
            -ln p of the characters, (*tasks, length, n), and the memory after all but the last were read.
        """
        read, asked = characters[..., :-1, :], characters[..., 1:, :]
        *tasks, length, n = read.shape
        # The columns of the characters read, all at once: the product with their one-hot vectors.
        weight = params["lstm.weight_input"]
        chosen = read.reshape(*tasks, 1, length * n).expand(*tasks, weight.shape[-2], length * n)
        inputs = weight.gather(-1, chosen) + params["lstm.bias"][..., None]
        hidden, cell = lstm_recurrence(
            inputs.reshape(*inputs.shape[:-1], length, n),
            params["lstm.weight_hidden"],
            memory["hidden"],
            memory["cell"],
        )
        features = hidden.flatten(-2)  # (*tasks, hidden, length * n)
        logits = params["output.weight"] @ features + params["output.bias"][..., None]
        picked = logits.log_softmax(-2).gather(-2, asked.reshape(*tasks, 1, length * n))
        return -picked.reshape(*tasks, length, n), {
            "hidden": hidden[..., -1, :],
            "cell": cell[..., -1, :],
        }
