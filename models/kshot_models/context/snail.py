"""SNAIL: the support set as a sequence of (embedding, label), the query behind it, attention and dilated convolutions.

    tokens (x_1, y_1) ... (x_n, y_n) (x, 0)
      ──> attention ──> temporal ──> attention ──> temporal ──> attention ──> linear ──> logits of x

A temporal block is a chain of dense blocks with dilations 2, 4, ... up to the longest sequence; see snail_blocks.py.

- **Any length.** Nothing has the length built in: shorter sequences are aligned at their end. `max_length` only says
  how far back the convolutions reach; attention reaches everything.
- **Any order.** Sequences stand in orders that follow from the images (orders.py), and logits are averaged over them.
- **Any labels.** In each sequence the classes are numbered as they first appear, so what a label is called means
  nothing, and the same holds in training. An output unit stands for such a number.

It starts as little more than matching: keys and queries are one projection, and the output units undo what the first
attention makes of labels. From fresh weights throughout, most of the training went into finding that.

Reference: Mishra et al., 2018, "A simple neural attentive meta-learner", arXiv:1707.03141.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_models.classes import class_members
from kshot_models.context.context import Context
from kshot_models.context.orders import content_orders
from kshot_models.context.snail_blocks import Block, attention_block, dense_block
from kshot_models.errors import WayUnsupported
from kshot_models.tree import prefixed, under
from kshot_models.types import Examples, Params

__all__ = ["class_numbers", "snail"]

LABEL_GAIN = 10.0  # logits that shares of attention, from 0 to 1, start as
LABEL_MARK = 0.75  # what having a label adds to a score, in units of a token's likeness to itself
PAPER_ATTENTION = ((64, 32), (256, 128), (512, 256))


def class_numbers(members: Tensor, slots: int) -> Tensor:
    """Number the classes by where they first appear.

    Args:
        members: (orders, n, way), above 0 where the example at a place is of the class.
        slots: how many numbers there are, at least the way.

    Returns:
        (orders, way, slots), rows of the unit matrix; classes that do not appear have the numbers behind the others.
    """
    n, way = members.shape[1:]
    places = torch.arange(n, device=members.device)[:, None]
    absent = n + torch.arange(way, device=members.device)
    first = torch.where(members > 0, places, absent).amin(1)  # (orders, way), all different
    number = (first[:, None, :] < first[:, :, None]).sum(2)
    return (number[..., None] == torch.arange(slots, device=members.device)).to(members.dtype)


def snail(
    features: int,
    *,
    max_way: int = 20,
    max_length: int = 128,
    filters: int = 128,
    attention: tuple[tuple[int, int], ...] = PAPER_ATTENTION,
    orders: int = 1,
) -> Context:
    """Read the support set as a sequence.

    Args:
        features: size of the embedding.
        max_way: output units; more classes are refused.
        max_length: tokens that the convolutions reach back over.
        filters: channels that each dense block adds.
        attention: keys and values of each attention block; temporal blocks stand between them.
        orders: sequences that are averaged over.

    Raises:
        ValueError: an option is below what makes sense.
    """
    if max_way < 2 or max_length < 2 or filters < 1 or not attention or orders < 1:
        raise ValueError("expected max_way and max_length from 2, filters, attention blocks and orders from 1")
    blocks = _blocks(features + max_way, attention, filters, max_length)
    outputs = list(blocks.values())[-1].outputs

    def init(generator: torch.Generator) -> Params:
        params: Params = {}
        for name, block in blocks.items():
            params |= prefixed(f"{name}.", block.init(generator))
        weight = (2 * torch.rand(max_way, outputs, generator=generator) - 1) / math.sqrt(outputs)
        _start_as_matching(params, weight, features)
        return params | {"output.weight": weight, "output.bias": torch.zeros(max_way)}

    def read(params: Params, features: Tensor, support: Examples, way: int) -> Params:
        if way > max_way:
            raise WayUnsupported(f"expected at most {max_way} classes, the output units of this SNAIL; got {way}")
        order = content_orders(support.inputs, support.weights, orders)
        members = class_members(support, way, features.dtype)[order]  # (orders, n, way)
        numbers, present = class_numbers(members, max_way), support.weights[order]
        tokens = torch.cat([_sized(features)[order], members @ numbers], 2)
        context = {"numbers": numbers, "present": present}
        for name, block in blocks.items():
            tokens, memory = block.read(under(f"{name}.", params), tokens * present[..., None], present)
            context |= prefixed(f"{name}.", memory)
        return context

    def answer(params: Params, context: Params, features: Tensor) -> Tensor:
        tokens = torch.cat([_sized(features), features.new_zeros(len(features), max_way)], 1)
        tokens = tokens.expand(orders, *tokens.shape)
        for name, block in blocks.items():
            memory = under(f"{name}.", context)
            tokens = block.answer(under(f"{name}.", params), memory, context["present"], tokens)
        units = tokens @ params["output.weight"].T + params["output.bias"]  # (orders, q, max_way)
        return (units @ context["numbers"].mT).mean(0)

    return Context(init, read, answer)


def _start_as_matching(params: Params, output: Tensor, features: int) -> None:
    """Make the first attention compare embeddings and read labels, and the output units tell these; in place.

    Where there are more keys than embedding entries, one direction beside the embedding marks tokens that have a label,
    so that a query looks at the examples rather than at itself.
    """
    query, key, value = (params[f"attention1.{name}"] for name in ("query", "key", "value"))
    keys = len(query)
    # At right angles: inner products of embeddings stay what they are, as far as `keys` has room for them.
    basis = torch.linalg.qr(query[:, : features + 1] if keys > features else query[:, :features].T)[0]
    query.zero_()
    query[:, :features] = basis[:, :features] if keys > features else basis[:, :keys].T * math.sqrt(features / keys)
    key.copy_(query)
    if keys > features:
        strength = math.sqrt(LABEL_MARK * features)
        key[:, features:] = strength * basis[:, features:]
        params["attention1.query_bias"].copy_(strength * basis[:, features])
    value[:, :features] = 0
    value[:, features:] = torch.eye(len(value), value.shape[1] - features)
    start = value.shape[1]
    output *= 0.01
    output[:, start : start + len(value)] = LABEL_GAIN * value[:, features:].T


def _sized(features: Tensor) -> Tensor:
    """Unit embeddings with entries of the size of 1, like those of a label."""
    return features * math.sqrt(features.shape[1])


def _blocks(inputs: int, attention: Sequence[tuple[int, int]], filters: int, max_length: int) -> dict[str, Block]:
    """The layers in their order, by name."""
    blocks: dict[str, Block] = {}
    for i, (keys, values) in enumerate(attention, start=1):
        block = blocks[f"attention{i}"] = attention_block(inputs, keys, values)
        if i == len(attention):
            break
        for j in range(1, math.ceil(math.log2(max_length)) + 1):
            block = blocks[f"temporal{i}.dense{j}"] = dense_block(block.outputs, filters, 2**j)
        inputs = block.outputs
    return blocks
