"""The stream API: texts that a model reads on and on, and weights that may change after every segment of them.

    Stream.look(displacements, memory, t)      weights = static + scale * displacement
        reads segment t from the memory that it is given, and returns the mean loss in nats per character and the memory
    DocumentStreams.draw(number, tasks)        training: stretches of documents, from places that the number decides
    whole_documents(...)                       measuring: each from its beginning

What an updater moves are displacements from the static weights, so that a step theta' = f theta - i grad of the
Meta-Learner LSTM is medium-term memory: f pulls back to the static weights, i writes, both learned (Wolf et al., 2018,
arXiv 1803.10631: copy, flush and update); and the linear rule (-rate, -decay) is dynamic evaluation (Krause et al.,
2018, arXiv 1709.07432). Scaled by scale^2 = 1 / (rms + epsilon), with the root mean square of each weight's gradient
over training text, plain descent on displacements is their RMS-scaled form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot_models.tree import tree_map
from kshot_models.types import Params
from kshot_training.data.draws import uniforms
from kshot_training.language.model import CharacterLSTM

__all__ = ["DocumentStreams", "Reader", "Stream", "gradient_rms", "rms_scale", "whole_documents"]

_PLACES = 41  # the stream of random numbers; see draws.py


@dataclass(frozen=True)
class Reader:
    """What reads: a model, where its weights start, and the units of displacements.

    Args:
        model: its form.
        static: weights, shaped as `model.init` shapes them.
        scale: what a displacement of 1 adds to each weight, shaped alike; None: 1.
        segment: characters that are read before the weights may change.
    """

    model: CharacterLSTM
    static: Params
    scale: Params | None
    segment: int

    def weights(self, displacements: Params) -> Params:
        """static + scale * displacement, (tasks, *shape) each."""
        if self.scale is None:
            return tree_map(torch.add, displacements, self.static)
        return tree_map(lambda moved, start, unit: start + unit * moved, displacements, self.static, self.scale)


@dataclass(frozen=True)
class Stream:
    """`tasks` texts being read side by side, each by weights of its own: an Optimizee (problems/base.py).

    Args:
        reader: what reads.
        characters: (tasks, length), int64, of at least one segment and the character before it.
    """

    reader: Reader
    characters: Tensor

    @property
    def segments(self) -> int:
        """How many there are; each asks for `segment` characters and the very first character is given."""
        return (self.characters.shape[1] - 1) // self.reader.segment

    @property
    def start(self) -> Params:
        """No displacement, (tasks, *shape) each."""
        tasks = len(self.characters)
        return tree_map(lambda leaf: leaf.new_zeros(tasks, *leaf.shape), self.reader.static)

    @property
    def memory(self) -> Params:
        """The LSTM's, of nothing read."""
        some = next(iter(self.reader.static.values()))
        return self.reader.model.blank(some, len(self.characters), 1)

    def look(self, params: Params, memory: Params, step: int) -> tuple[Tensor, Params]:
        """Mean losses (tasks,) over the characters of segment `step`, in nats, and the memory after it."""
        first = step * self.reader.segment
        characters = self.characters[:, first : first + self.reader.segment + 1]
        losses, after = self.reader.model.losses(self.reader.weights(params), memory, characters[..., None])
        return losses.mean((-1, -2)), after


@dataclass(frozen=True)
class DocumentStreams:
    """A family (problems/base.py) of stretches of documents.

    Args:
        reader: what reads.
        documents: (characters,) each, all of at least `segments` segments and one character.
        segments: of a stretch.
        seed: of the places.
    """

    reader: Reader
    documents: Sequence[Tensor]
    segments: int
    seed: int

    def draw(self, number: int, tasks: int) -> Stream:
        """Stretches that begin anywhere; a longer document is drawn in proportion to the places that it has."""
        length = self.segments * self.reader.segment + 1
        ends = torch.tensor([len(document) - length + 1 for document in self.documents]).cumsum(0)
        drawn = uniforms(self.seed, _PLACES, first=number * tasks, count=tasks, width=1)[:, 0]
        taken = []
        for place in (drawn * int(ends[-1])).astype(int).tolist():
            which = int(torch.searchsorted(ends, place, right=True))
            begin = place - (int(ends[which - 1]) if which else 0)
            taken.append(self.documents[which][begin : begin + length])
        return Stream(self.reader, torch.stack(taken))


def whole_documents(reader: Reader, documents: Sequence[Tensor], characters: int) -> Stream:
    """The first `characters` characters of each document, in whole segments.

    Raises:
        ValueError: a document is shorter.
    """
    length = characters // reader.segment * reader.segment + 1
    if short := [len(document) for document in documents if len(document) < length]:
        raise ValueError(f"expected documents of at least {length} characters, one has {min(short)}")
    return Stream(reader, torch.stack([document[:length] for document in documents]))


def gradient_rms(reader: Reader, documents: Sequence[Tensor], *, stretches: int, segments: int, seed: int) -> Params:
    """The root mean square of the gradient of a segment's mean loss, weight by weight, at the static weights.

    Args:
        reader: without a scale.
        documents: training text.
        stretches: places that are read from.
        segments: that are read from each, one after another.
        seed: of the places.

    Returns:
        shaped like the weights.
    """
    stream = DocumentStreams(reader, documents, segments, seed).draw(0, stretches)
    memory, squares = stream.memory, tree_map(torch.zeros_like, reader.static)
    for step in range(segments):
        leaves = tree_map(lambda leaf: leaf.requires_grad_(), stream.start)
        losses, memory = stream.look(leaves, memory, step)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        memory = tree_map(Tensor.detach, memory)
        for name, grad in zip(leaves, grads, strict=True):
            squares[name] += grad.square().mean(0) / segments
    return tree_map(torch.sqrt, squares)


def rms_scale(rms: Params, epsilon: float) -> Params:
    """1 / sqrt(rms + epsilon m), m the mean over all weights: those of rare characters do not move without bound."""
    everything = torch.cat([leaf.reshape(-1) for leaf in rms.values()])
    floor = epsilon * everything.mean()
    return tree_map(lambda leaf: (leaf + floor).rsqrt(), rms)
