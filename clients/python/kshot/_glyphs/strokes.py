"""The kinds of strokes that invented characters are made of.

A kind is a function from a draft (where the stroke starts, which anchors there are) to its nodes. A new kind is one
function and one row in `KINDS`; it appears when a family in `scripts.py` names it. Lengths are in sides of the
character's box, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from kshot._glyphs.dice import Dice, Points

__all__ = ["KINDS", "Draft", "Stroke", "is_clear", "leg_lengths"]

_CLEARANCE = 0.13  # strokes closer than this for long read as one


class Stroke(NamedTuple):
    """One movement of the pen: a curve through its nodes."""

    nodes: Points  # (k, 2), k >= 2
    tension: float  # 0: smooth through every node, 1: straight from node to node


class Draft(NamedTuple):
    """What a stroke is drawn from."""

    dice: Dice
    lattice: Points  # (m, 2) where strokes of this script like to start and end
    start: Points  # (2,)

    def anchor(self) -> Points:
        """Some anchor, roughly."""
        nearest: Points = self.lattice[self.dice.below(len(self.lattice))]
        return nearest + 0.05 * self.dice.bell(2)

    def away(self, least: float = 0.33) -> Points:
        """An anchor this far from the start, or among the farthest; rather straight across or down than aslant."""
        gaps = np.abs(self.lattice - self.start)
        squares = gaps[:, 0] * gaps[:, 0] + gaps[:, 1] * gaps[:, 1]
        far = squares >= min(least * least, 0.7 * float(squares.max()))
        straight = far & (gaps.min(axis=1) < 0.12)
        chosen = straight if straight.any() and self.dice.chance(0.55) else far
        return self._replace(lattice=self.lattice[chosen]).anchor()


def is_clear(stroke: Stroke, earlier: Sequence[Stroke]) -> bool:
    """Whether the stroke can be told from the earlier ones: it may touch and cross them, but not run along them."""
    if not earlier:
        return True
    gaps = _samples([stroke])[:, None] - _samples(earlier)
    near = (gaps[..., 0] * gaps[..., 0] + gaps[..., 1] * gaps[..., 1]).min(axis=1) < _CLEARANCE * _CLEARANCE
    return int(near.sum()) <= 0.34 * len(near)


def leg_lengths(nodes: Points) -> Points:
    """Distances (k - 1,) from each node to the next."""
    legs = nodes[1:] - nodes[:-1]
    return np.asarray(np.sqrt(legs[:, 0] * legs[:, 0] + legs[:, 1] * legs[:, 1]))


def _samples(strokes: Sequence[Stroke]) -> Points:
    """Eight points on each leg of each stroke."""
    along = ((np.arange(8) + 0.5) / 8.0)[:, None, None]
    return np.concatenate([(s.nodes[:-1] + along * (s.nodes[1:] - s.nodes[:-1])).reshape(-1, 2) for s in strokes])


def _across(vector: Points) -> Points:
    """The vector, turned by a quarter."""
    return np.array([-vector[1], vector[0]])


def _polyline(draft: Draft, legs: int) -> Stroke:
    nodes = [draft.start]
    for _ in range(legs):
        here = draft._replace(start=nodes[-1])
        there = here.away()
        if len(nodes) > 1 and not is_clear(Stroke(np.array([nodes[-1], there]), 1.0), [Stroke(np.array(nodes), 1.0)]):
            there = here.away()
        nodes.append(there)
    return Stroke(np.array(nodes), 1.0)


def _line(draft: Draft) -> Stroke:
    return _polyline(draft, 1)


def _bend(draft: Draft) -> Stroke:
    return _polyline(draft, 2)


def _zigzag(draft: Draft) -> Stroke:
    return _polyline(draft, 3)


def _tick(draft: Draft) -> Stroke:
    dice, start = draft.dice, draft.start
    step = np.array([dice.between(0.1, 0.22) * dice.sign(), dice.between(-0.2, 0.2)])
    return Stroke(np.array([start, start + step]), 1.0)


def _dot(draft: Draft) -> Stroke:
    # Beside the strokes, not on them, where it would not show.
    place = draft.away(0.25)
    return Stroke(np.array([place, place + np.array([0.03, 0.02])]), 1.0)


def _arc(draft: Draft) -> Stroke:
    dice, start, end = draft.dice, draft.start, draft.away()
    bulge = dice.sign() * dice.between(0.2, 0.45) * _across(end - start)
    return Stroke(np.array([start, start + 0.5 * (end - start) + bulge, end]), 0.0)


def _bowl(draft: Draft) -> Stroke:
    dice, start = draft.dice, draft.start
    chord = np.array([dice.between(-0.12, 0.12), dice.between(0.35, 0.6) * dice.sign()])
    out = dice.sign() * dice.between(0.6, 1.0) * _across(chord)
    nodes = [start, start + 0.08 * chord + 0.7 * out, start + 0.5 * chord + out, start + 0.92 * chord + 0.7 * out]
    return Stroke(np.array([*nodes, start + chord]), 0.0)


def _hook(draft: Draft) -> Stroke:
    dice, start, end = draft.dice, draft.start, draft.away(0.45)
    way = end - start
    side = dice.sign() * dice.between(0.22, 0.4) * _across(way)
    tip = end - dice.between(0.1, 0.35) * way + side
    return Stroke(np.array([start, start + 0.45 * way, start + 0.85 * way, end + 0.45 * side, tip]), 0.0)


def _wave(draft: Draft) -> Stroke:
    dice, start = draft.dice, draft.start
    way = draft.away(0.5) - start
    side = dice.sign() * dice.between(0.15, 0.35) * _across(way)
    humps = 2 + dice.below(3)
    middle = [start + (k + 0.5) / humps * way + (side if k % 2 else -side) for k in range(humps)]
    return Stroke(np.array([start, *middle, start + way]), 0.0)


def _loop(draft: Draft) -> Stroke:
    dice, start = draft.dice, draft.start
    way = draft.away(0.45) - start
    side = dice.sign() * dice.between(0.35, 0.6) * _across(way)
    nodes = [start, start + 0.6 * way, start + 0.75 * way + 0.6 * side, start + 0.45 * way + side]
    return Stroke(np.array([*nodes, start + 0.2 * way + 0.55 * side, start + 0.45 * way, start + way]), 0.0)


def _compass() -> Points:
    """The eight directions, and the first again."""
    s = 0.7071067811865476
    return np.array([[1, 0], [s, s], [0, 1], [-s, s], [-1, 0], [-s, -s], [0, -1], [s, -s], [1, 0]])


def _ring(draft: Draft) -> Stroke:
    dice = draft.dice
    radii = dice.between(0.13, 0.32) * np.array([1.0, dice.between(0.75, 1.25)])
    first = 2 * dice.below(4)  # touches what it is attached to at one of four sides
    round_about = np.concatenate([_compass()[first:-1], _compass()[: first + 1]])
    return Stroke(draft.start + (round_about - round_about[0]) * radii, 0.0)


def _spiral(draft: Draft) -> Stroke:
    dice = draft.dice
    first = 2 * dice.below(4)
    turns = np.concatenate([_compass()[first:-1], _compass()[:-1], _compass()])[:12]
    shrink = (1.0 - (1.0 - dice.between(0.25, 0.45)) * (np.arange(12) / 11.0))[:, None]
    nodes = turns * shrink * np.array([dice.sign(), 1.0]) * dice.between(0.25, 0.38)
    return Stroke(draft.start + nodes - nodes[0], 0.0)


def _box(draft: Draft) -> Stroke:
    dice, start = draft.dice, draft.start
    across = np.array([dice.between(0.25, 0.6) * dice.sign(), 0.0])
    down = np.array([0.0, dice.between(0.25, 0.6) * dice.sign()])
    return Stroke(np.array([start, start + across, start + across + down, start + down, start]), 1.0)


KINDS: Mapping[str, Callable[[Draft], Stroke]] = MappingProxyType(
    {
        "arc": _arc,
        "bend": _bend,
        "bowl": _bowl,
        "box": _box,
        "dot": _dot,
        "hook": _hook,
        "line": _line,
        "loop": _loop,
        "ring": _ring,
        "spiral": _spiral,
        "tick": _tick,
        "wave": _wave,
        "zigzag": _zigzag,
    }
)
"""Every kind of stroke, by the name that families use."""
