"""Bits per character of texts that are read from their beginning, segment by segment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.types import Params
from kshot_training.language.streams import Reader, Stream, whole_documents
from kshot_training.unroll import optimize

__all__ = ["bits_of_documents", "read_static", "read_updated"]

_LN2 = math.log(2)


def read_static(stream: Stream) -> Tensor:
    """Bits per character by weights that stay as they are, (segments, tasks)."""
    params, memory, path = stream.start, stream.memory, []
    with torch.no_grad():
        for step in range(stream.segments):
            losses, memory = stream.look(params, memory, step)
            path.append(losses)
    return torch.stack(path) / _LN2


def read_updated(rule: InnerOptimizer, phi: Params, stream: Stream) -> Tensor:
    """The same while `rule` writes the weights after each segment; a segment is judged before it is learned from."""
    return optimize(rule, phi, stream, stream.segments - 1) / _LN2


def bits_of_documents(
    read: Callable[[Stream], Tensor], reader: Reader, documents: Sequence[Tensor], *, characters: int, together: int
) -> Tensor:
    """Read the first `characters` of every document, some at a time: (segments, documents)."""
    groups = [documents[begin : begin + together] for begin in range(0, len(documents), together)]
    return torch.cat([read(whole_documents(reader, group, characters)) for group in groups], 1)
