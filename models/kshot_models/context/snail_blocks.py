"""The two blocks of SNAIL, each in two forms: over the support sequence, and for queries that come right behind it.

As both are causal, no support token depends on a query. So the support set is read once; of each block a session
keeps what a token behind the sequence looks at: keys and values, or the one token that a dilated convolution reaches.
Queries then cost no more the longer the sequence is, but for the attention itself.

    attention   concat(x, sum_j softmax_j(q . k_j / sqrt(size)) v_j)           over all tokens up to x
    dense       concat(x, tanh(f) * sigmoid(g))      f, g: convolutions of x and the token `dilation` before it

Sequences are aligned at their end: padding stands before the first token and is 0 at every layer, which is what a
convolution sees before the start of a shorter sequence; attention passes over it.

Reference: Mishra et al., 2018, "A simple neural attentive meta-learner", arXiv:1707.03141.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.types import Params

__all__ = ["Block", "attention_block", "dense_block"]


class Block(NamedTuple):
    """One layer; tokens are (orders, n, channels), of which it gives more channels."""

    outputs: int
    init: Callable[[torch.Generator], Params]
    read: Callable[
        [Params, Tensor, Tensor], tuple[Tensor, Params]
    ]  # params, tokens, present (orders, n) -> tokens, memory
    answer: Callable[[Params, Params, Tensor, Tensor], Tensor]  # params, memory, present, queries (orders, q, channels)


def attention_block(inputs: int, keys: int, values: int) -> Block:
    """Causal attention with one head.

    Keys start as the same projection as queries, one that keeps lengths, so that attention begins as a similarity of
    tokens; drawn apart, it begins as noise and takes long to find that like should look at like.
    A bias of the keys would change nothing.

    Args:
        inputs: channels of the tokens.
        keys: size of keys and queries.
        values: size of what is read, the added channels.
    """

    def init(generator: torch.Generator) -> Params:
        query = math.sqrt(3) * _linear(inputs, keys, generator)
        return {
            "query": query,
            "query_bias": torch.zeros(keys),
            "key": query.clone(),
            "value": _linear(inputs, values, generator),
            "value_bias": torch.zeros(values),
        }

    def project(params: Params, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = (tokens @ params["query"].T + params["query_bias"]) / math.sqrt(keys)
        return query, tokens @ params["key"].T, tokens @ params["value"].T + params["value_bias"]

    def read(params: Params, tokens: Tensor, present: Tensor) -> tuple[Tensor, Params]:
        query, key, value = project(params, tokens)
        n = tokens.shape[1]
        later = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu(1)
        # A token may always look at itself, so padding, which nobody looks at, has something to look at too.
        other = ~torch.eye(n, dtype=torch.bool, device=tokens.device)
        hidden = later | (other & (present == 0)[:, None, :])
        scores = (query @ key.mT).masked_fill(hidden, torch.finfo(tokens.dtype).min)
        return torch.cat([tokens, scores.softmax(2) @ value], 2), {"keys": key, "values": value}

    def answer(params: Params, memory: Params, present: Tensor, queries: Tensor) -> Tensor:
        query, key, value = project(params, queries)
        before = (query @ memory["keys"].mT).masked_fill((present == 0)[:, None, :], torch.finfo(queries.dtype).min)
        shares = torch.cat([before, (query * key).sum(2, keepdim=True)], 2).softmax(2)
        return torch.cat([queries, shares[..., :-1] @ memory["values"] + shares[..., -1:] * value], 2)

    return Block(inputs + values, init, read, answer)


def dense_block(inputs: int, filters: int, dilation: int) -> Block:
    """A gated causal convolution of kernel 2.

    Args:
        inputs: channels of the tokens.
        filters: added channels.
        dilation: how far back the second tap is.
    """

    def init(generator: torch.Generator) -> Params:
        # One matrix for both convolutions, filter then gate, and one for each tap.
        past, now = (_linear(inputs, 2 * filters, generator, fan_in=2 * inputs) for _ in range(2))
        return {"past": past, "now": now, "bias": torch.zeros(2 * filters)}

    def convolve(params: Params, past: Tensor, now: Tensor) -> Tensor:
        made, gate = (past @ params["past"].T + now @ params["now"].T + params["bias"]).chunk(2, 2)
        return torch.cat([now, made.tanh() * gate.sigmoid()], 2)

    def read(params: Params, tokens: Tensor, present: Tensor) -> tuple[Tensor, Params]:
        del present
        n = tokens.shape[1]
        gap = min(dilation, n)
        past = torch.cat([torch.zeros_like(tokens[:, :gap]), tokens[:, : n - gap]], 1)
        reached = tokens[:, n - dilation] if dilation <= n else torch.zeros_like(tokens[:, 0])
        return convolve(params, past, tokens), {"past": reached}

    def answer(params: Params, memory: Params, present: Tensor, queries: Tensor) -> Tensor:
        del present
        return convolve(params, memory["past"][:, None], queries)

    return Block(inputs + filters, init, read, answer)


def _linear(inputs: int, outputs: int, generator: torch.Generator, *, fan_in: int | None = None) -> Tensor:
    """Weights (outputs, inputs), uniform in +-1 / sqrt(fan_in), which is `inputs` unless said otherwise."""
    return (2 * torch.rand(outputs, inputs, generator=generator) - 1) / math.sqrt(fan_in or inputs)
