"""Full context embeddings: an example is embedded in the light of the others, a query in the light of them all.

    g(x_i) = h_fwd_i + h_bwd_i + x_i             a bidirectional LSTM over the support set in some order
    r_k  = sum_i softmax_i(f_k . g(x_i) / sqrt(d)) g(x_i)         f_0 = 0
    h_k+1, c_k+1 = LSTM([x, r_k], h_k, c_k)      f_k+1 = h_k+1 + x          f(x) = f_K: an LSTM that attends K times

x is the unit embedding times sqrt(d), so that its entries are of the size that an LSTM is made for. The paper's
recurrent state is h plus x; its attention is not divided by sqrt(d). What an LSTM says depends on the order: g is the
mean over several orders that follow from the content (orders.py), each read as a sequence of its own.

Reference: Vinyals et al., 2016, arXiv:1606.04080, appendix A.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kshot_models.context.orders import content_orders
from kshot_models.inner.lstm_cell import init_lstm_cell, lstm_cell
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, Params

__all__ = ["embed_queries", "embed_support", "init_full_context"]


def init_full_context(size: int, generator: torch.Generator) -> Params:
    """Weights of the three LSTMs for embeddings of `size` entries; `query` reads [x, r]."""
    return {
        **prefixed("forward.", init_lstm_cell(size, size, generator)),
        **prefixed("backward.", init_lstm_cell(size, size, generator)),
        **prefixed("query.", init_lstm_cell(2 * size, size, generator)),
    }


def embed_support(params: Params, features: Tensor, support: Examples, *, orders: int) -> Tensor:
    """g of the support embeddings.

    Args:
        params: as `init_full_context` makes them.
        features: (n, size), of length 1.
        support: the support set: its inputs say the orders, its weights what is padding.
        orders: sequences that are averaged over.

    Returns:
        (n, size); anything for padding.
    """
    own = features * math.sqrt(features.shape[1])
    order = content_orders(support.inputs, support.weights, orders)  # (orders, n)
    tokens, present = own[order], support.weights[order][..., None]
    states = _run(under("forward.", params), tokens, present) + _run(
        under("backward.", params), tokens.flip(1), present.flip(1)
    ).flip(1)
    back = order.argsort(1)[..., None].expand_as(states)
    return own + states.gather(1, back).mean(0)


def _run(weights: Params, tokens: Tensor, present: Tensor) -> Tensor:
    """States (orders, n, size) after each token; padding leaves the state as it is."""
    hidden = cell = tokens.new_zeros(tokens.shape[2], tokens.shape[0])  # cells have their cases last
    states = []
    for token, there in zip(tokens.unbind(1), present.unbind(1), strict=True):
        new_hidden, new_cell = lstm_cell(weights, token.mT, hidden, cell)
        hidden, cell = torch.lerp(hidden, new_hidden, there.mT), torch.lerp(cell, new_cell, there.mT)
        states.append(hidden.mT)
    return torch.stack(states, 1)


def embed_queries(params: Params, features: Tensor, known: Tensor, present: Tensor, *, reads: int) -> Tensor:
    """f of the query embeddings.

    Args:
        params: as `init_full_context` makes them.
        features: (q, size), of length 1.
        known: g of the support set, (n, size).
        present: (n,) 0 for padding.
        reads: K.

    Returns:
        (q, size).
    """
    size = features.shape[1]
    weights, own = under("query.", params), features * math.sqrt(size)
    state = torch.zeros_like(own)
    hidden = cell = state.mT
    for _ in range(reads):
        scores = (state @ known.T / math.sqrt(size)).masked_fill(present == 0, torch.finfo(own.dtype).min)
        seen = scores.softmax(1) @ known
        hidden, cell = lstm_cell(weights, torch.cat([own, seen], 1).mT, hidden, cell)
        state = hidden.mT + own
    return state
