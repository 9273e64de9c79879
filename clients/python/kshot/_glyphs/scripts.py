"""What an invented character is, before any hand draws it: a few strokes through a lattice of anchors.

    seed ──> script (a family, a lattice, habits) ──> skeleton (its strokes, in the order in which they are drawn)

Glyphs of one script share its family of strokes, its lattice and its habits, and so look like one writing system.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kshot._glyphs.dice import Dice, Points
from kshot._glyphs.strokes import KINDS, Draft, Stroke, is_clear, leg_lengths

__all__ = ["GLYPHS_PER_SCRIPT", "skeleton"]

GLYPHS_PER_SCRIPT = 25
"""How many glyphs one invented script has."""

_SCRIPT, _GLYPH = 1, 2  # the streams of dice that this file throws
_TRIES = 8  # attempts at a stroke or glyph that is easy to tell from others; the last is taken as it is
_FLATTEST = 0.35  # the shorter side of a glyph by its longer one
_LEAST_INK, _MOST_INK = 1.5, 3.3  # lengths of all strokes together, in sides of the box


class _Family(NamedTuple):
    """A way of writing that scripts may follow."""

    kinds: Mapping[str, float]  # how much each kind of stroke is liked
    strokes: tuple[int, int]  # fewest and most in a glyph
    attach: float  # the probability that a stroke starts on an earlier one
    headline: float = 0.0  # the probability that all glyphs of a script hang from a bar


_FAMILIES = (
    _Family({"line": 6, "bend": 3, "zigzag": 2, "tick": 1}, (2, 4), 0.7),  # cut into wood
    _Family({"wave": 3, "loop": 3, "arc": 2, "hook": 3, "spiral": 1, "dot": 1}, (2, 3), 0.65),  # one flowing hand
    _Family({"arc": 3, "bowl": 4, "hook": 3, "line": 2, "loop": 1, "tick": 1}, (2, 4), 0.8, 0.5),  # bowls on staves
    _Family({"line": 4, "bend": 4, "box": 2, "tick": 2, "arc": 1}, (2, 5), 0.45),  # built in blocks
    _Family({"ring": 3, "line": 3, "arc": 2, "bowl": 2, "dot": 2, "tick": 1}, (2, 4), 0.6),  # rings and dots
    _Family({"hook": 3, "arc": 3, "wave": 2, "line": 2, "dot": 2, "bend": 2}, (2, 4), 0.5),  # brush
)


class _Script(NamedTuple):
    family: _Family
    kinds: tuple[str, ...]
    edges: tuple[float, ...]  # cumulative weights of the kinds
    headline: bool
    lattice: Points  # (12, 2)


@functools.lru_cache(maxsize=4096)
def skeleton(seed: int, glyph: int) -> tuple[Stroke, ...]:
    """The strokes of one glyph, in the order in which they are drawn.

    Args:
        seed: which world of scripts.
        glyph: which character of it; `glyph // GLYPHS_PER_SCRIPT` is its script.
    """
    script = _script(seed, glyph // GLYPHS_PER_SCRIPT)
    dice = Dice(seed, _GLYPH, glyph)
    for _ in range(_TRIES):
        strokes = _glyph(dice, script)
        nodes = np.concatenate([stroke.nodes for stroke in strokes])
        extent = nodes.max(axis=0) - nodes.min(axis=0)
        if float(extent.min()) >= _FLATTEST * float(extent.max()):
            break
    return tuple(strokes)


@functools.lru_cache(maxsize=256)
def _script(seed: int, number: int) -> _Script:
    dice = Dice(seed, _SCRIPT, number)
    family = _FAMILIES[dice.below(len(_FAMILIES))]
    total, edges = 0.0, []
    for liking in family.kinds.values():
        # Habits: each script likes some of its family's strokes more than others.
        total += liking * dice.between(0.2, 1.8)
        edges.append(total)
    columns = [0.0, dice.between(0.35, 0.65), 1.0]
    rows = [0.0, dice.between(0.25, 0.4), dice.between(0.6, 0.75), 1.0]
    lattice = np.array([[x, y] for y in rows for x in columns])
    return _Script(family, tuple(family.kinds), tuple(edges), dice.chance(family.headline), lattice)


def _glyph(dice: Dice, script: _Script) -> list[Stroke]:
    box = np.array([dice.between(0.6, 1.0), dice.between(0.65, 1.0)])
    fewest, most = script.family.strokes
    wanted = fewest + dice.below(most - fewest + 1)
    strokes: list[Stroke] = []
    if script.headline:
        strokes.append(Stroke(np.array([[-0.08, 0.0], [box[0] + 0.08, 0.0]]), 1.0))
    # Less than the least ink would be some other glyph's twin; more than the most is a scribble.
    while (len(strokes) < wanted and _length(strokes) < _MOST_INK) or _length(strokes) < _LEAST_INK:
        for _ in range(_TRIES):
            stroke = _stroke(dice, script, script.lattice * box, strokes)
            if is_clear(stroke, strokes):
                break
        strokes.append(stroke)
    return strokes


def _stroke(dice: Dice, script: _Script, lattice: Points, earlier: list[Stroke]) -> Stroke:
    pick = dice.between(0.0, script.edges[-1])
    kind = script.kinds[sum(pick >= edge for edge in script.edges[:-1])]
    draft = Draft(dice, lattice, lattice[0])
    if earlier and dice.chance(script.family.attach):
        start = _on(dice, earlier[dice.below(len(earlier))].nodes)
    else:
        start = draft.anchor()
    return KINDS[kind](draft._replace(start=start))


def _on(dice: Dice, nodes: Points) -> Points:
    """A place on a stroke: one of its nodes, the middle of a leg, or anywhere on a leg."""
    leg = dice.below(len(nodes) - 1)
    along = (0.0, 0.5, 1.0, dice.between(0.0, 1.0))[dice.below(4)]
    place: Points = nodes[leg] + along * (nodes[leg + 1] - nodes[leg])
    return place


def _length(strokes: list[Stroke]) -> float:
    total = 0.0
    for nodes, _ in strokes:
        for length in leg_lengths(nodes):
            total += float(length)
    return total
