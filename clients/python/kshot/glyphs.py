"""Invented characters as a hand would draw them, by the thousand: a data set that needs no download.

    glyph number ──> skeleton ──> nodes moved ──> curves ──> page warped, ──> ink
                     (strokes)    by the hand                slanted, placed

A glyph is a class; a drawing is one hand's attempt at it. As with people who copied a whole alphabet, drawing 7 of
every glyph of a script is by the same hand: the same slant, size, pen and sloppiness.

    >>> from kshot.glyphs import draw_glyph
    >>> draw_glyph(3, 0).shape
    (105, 105)

Same seed, glyph, drawing and size: same bytes, on every machine (see `_glyphs/dice.py`). numpy only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot._glyphs.dice import Dice, Points
from kshot._glyphs.scripts import GLYPHS_PER_SCRIPT, skeleton
from kshot._glyphs.strokes import Stroke, leg_lengths

__all__ = ["GLYPHS_PER_SCRIPT", "draw_glyph", "glyph_name"]

_HAND, _DRAWING = 3, 4  # the streams of dice that this file throws
_BOX = 0.62  # the side of the skeleton's box, in page widths
_MARGIN = 0.04  # no ink nearer to the edge, in page widths
_WARP_CELLS = 3  # the page is warped by a lattice of 3 x 3 cells
_STEP = 0.7  # distance of the dots that make a line, in pixels


class _Hand(NamedTuple):
    """How one person draws. Lengths in page widths."""

    slant: float
    turn: float  # tangent of half the angle
    stretch: Points  # (2,)
    pen: float  # radius of the line
    pressure: float  # how much the radius changes along a stroke
    jitter: float  # how far nodes stray
    shift: float  # how far whole strokes stray
    warp: float  # how far straight lines bend
    rounding: float  # 0: sharp corners, towards 1: round


def glyph_name(glyph: int) -> str:
    """`script0002/glyph0061`: the class of a glyph, script first."""
    return f"script{glyph // GLYPHS_PER_SCRIPT:04d}/glyph{glyph:05d}"


def draw_glyph(glyph: int, drawing: int, *, seed: int = 0, size: int = 105) -> NDArray[np.uint8]:
    """Draw a character once.

    Args:
        glyph: which class, from 0.
        drawing: which attempt at it, from 0; it also names the hand.
        seed: another seed is another world of scripts, with other hands.
        size: side of the page in pixels, at least 8.

    Returns:
        uint8 (size, size), dark ink on white (255), anti-aliased.

    Raises:
        ValueError: for a negative number, or a page below 8 pixels.
    """
    if min(glyph, drawing, seed) < 0 or size < 8:
        raise ValueError(
            f"expected glyph, drawing and seed of at least 0 and size of at least 8, "
            f"got {glyph}, {drawing}, {seed} and {size}"
        )
    hand = _hand(Dice(seed, _HAND, glyph // GLYPHS_PER_SCRIPT, drawing))
    dice = Dice(seed, _DRAWING, glyph, drawing)
    strokes = _by_hand(skeleton(seed, glyph), hand, dice)
    points, pressure = _curves(strokes, hand, dice, size)
    points = _fit(_place(_warp(points, hand, dice), hand, dice))
    return _ink(points * size, pressure * (hand.pen * size), size)


def _hand(dice: Dice) -> _Hand:
    return _Hand(
        slant=0.13 * float(dice.bell()),
        turn=0.04 * float(dice.bell()),
        stretch=1.0 + 0.12 * dice.bell(2),
        pen=dice.between(0.013, 0.0195),
        pressure=dice.between(0.0, 0.35),
        jitter=dice.between(0.015, 0.038),
        shift=dice.between(0.006, 0.027),
        warp=dice.between(0.022, 0.052),
        rounding=dice.between(0.0, 0.35),
    )


def _by_hand(strokes: tuple[Stroke, ...], hand: _Hand, dice: Dice) -> list[Stroke]:
    """Move every node a little, every stroke a little, and stretch every stroke a little about its middle."""
    drawn = []
    for nodes, tension in strokes:
        middle = 0.5 * (nodes[0] + nodes[len(nodes) // 2])
        stretch = 1.0 + 2.0 * hand.shift * dice.bell(2)
        stray = hand.jitter * _room(nodes) * dice.bell(len(nodes), 2)
        moved = middle + (nodes - middle) * stretch + hand.shift * dice.bell(2) + stray
        rounded = tension * (1.0 - hand.rounding * dice.between(0.0, 1.0)) + (1.0 - tension) * dice.between(-0.1, 0.2)
        drawn.append(Stroke(moved, rounded))
    return drawn


def _room(nodes: Points) -> Points:
    """How freely each node may stray, (k, 1) up to 1: less near a neighbour, so that small parts keep their form."""
    lengths = leg_lengths(nodes)
    nearer = np.minimum(np.append(lengths, lengths[-1]), np.append(lengths[0], lengths))
    return np.asarray(np.minimum(nearer / 0.35, 1.0))[:, None]


def _curves(strokes: list[Stroke], hand: _Hand, dice: Dice, size: int) -> tuple[Points, Points]:
    """Points along the strokes, closer than a pixel: cubic Hermite curves with the tangents of a cardinal spline.

    Returns:
        (n, 2) points in the box and (n,) pen pressures about 1.
    """
    ends, tangents, weights = [], [], []
    for nodes, tension in strokes:
        around = np.concatenate([nodes[:1], nodes, nodes[-1:]])
        tangent = (1.0 - tension) * 0.5 * (around[2:] - around[:-2])
        ends.append(np.stack([nodes[:-1], nodes[1:]]))
        tangents.append(np.stack([tangent[:-1], tangent[1:]]))
        weight = 1.0 + hand.pressure * dice.uniform(-1.0, 1.0, len(nodes))
        weights.append(np.stack([weight[:-1], weight[1:]]))
    (p0, p1), (m0, m1), (w0, w1) = (np.concatenate(parts, axis=1) for parts in (ends, tangents, weights))
    across = np.maximum(np.abs(p1 - p0), 0.5 * (np.abs(m0) + np.abs(m1)))
    lengths = np.sqrt(across[:, 0] * across[:, 0] + across[:, 1] * across[:, 1]) * (_BOX * size)
    # Hermite curves run up to 1.5 times as fast in their middle as on average.
    counts = np.ceil(lengths * (1.5 / _STEP)).astype(np.int64) + 1
    segment = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    t = ((np.arange(len(segment)) - first[segment]) / counts[segment])[:, None]
    s = 1.0 - t
    p0, p1, m0, m1 = p0[segment], p1[segment], m0[segment], m1[segment]
    points = s * s * ((1.0 + 2.0 * t) * p0 + t * m0) + t * t * ((3.0 - 2.0 * t) * p1 - s * m1)
    return points, s[:, 0] * w0[segment] + t[:, 0] * w1[segment]


def _warp(points: Points, hand: _Hand, dice: Dice) -> Points:
    """Push the page about, smoothly, so that straight lines bend and strokes that meet go on meeting."""
    pushes = hand.warp * dice.bell(_WARP_CELLS + 1, _WARP_CELLS + 1, 2)
    scaled = np.clip(points, 0.0, 1.0) * _WARP_CELLS
    cell = np.minimum(scaled.astype(np.int64), _WARP_CELLS - 1)
    u = scaled - cell
    u = u * u * (3.0 - 2.0 * u)
    (x, y), (i, j) = u.T[..., None], cell.T
    top = (1.0 - x) * pushes[j, i] + x * pushes[j, i + 1]
    bottom = (1.0 - x) * pushes[j + 1, i] + x * pushes[j + 1, i + 1]
    return np.asarray(points + ((1.0 - y) * top + y * bottom))


def _place(points: Points, hand: _Hand, dice: Dice) -> Points:
    """Centre, stretch, slant and turn, and put it somewhere near the middle of the page."""
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    x, y = ((points - middle) * (hand.stretch * _BOX * (1.0 + 0.075 * float(dice.bell())))).T
    x = x - (hand.slant + 0.04 * float(dice.bell())) * y
    half = hand.turn + 0.025 * float(dice.bell())
    cosine, sine = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    where = 0.5 + 0.056 * dice.bell(2)
    return np.asarray(np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1) + where)


def _fit(points: Points) -> Points:
    """Shrink what is larger than the page and pull in what hangs over its edge."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = 1.0 - 2.0 * _MARGIN
    scale = room / max(float((high - low).max()), room)
    middle = 0.5 * (low + high)
    reach = 0.5 * scale * (high - low)
    centre = np.minimum(np.maximum(middle, _MARGIN + reach), 1.0 - _MARGIN - reach)
    return np.asarray(centre + (points - middle) * scale)


def _ink(points: Points, radii: Points, size: int) -> NDArray[np.uint8]:
    """Cover pixels by the discs around the points; a pixel's ink is its largest cover by any disc."""
    reach = int(np.ceil(radii.max() + 0.5))
    offsets = np.arange(-reach, reach + 1)
    corner = np.floor(points).astype(np.int64)
    columns, rows = corner[:, 0, None] + offsets, corner[:, 1, None] + offsets  # (n, window)
    dx, dy = columns + 0.5 - points[:, 0, None], rows + 0.5 - points[:, 1, None]
    distance = np.sqrt((dx * dx)[:, None, :] + (dy * dy)[:, :, None])  # (n, window, window)
    cover = np.clip(radii[:, None, None] + 0.5 - distance, 0.0, 1.0)
    inside_x, inside_y = (columns >= 0) & (columns < size), (rows >= 0) & (rows < size)
    cover *= inside_x[:, None, :] & inside_y[:, :, None]
    pixels = np.clip(rows, 0, size - 1)[:, :, None] * size + np.clip(columns, 0, size - 1)[:, None, :]
    ink = np.zeros(size * size)
    np.maximum.at(ink, pixels.ravel(), cover.ravel())
    return (255.0 - np.rint(255.0 * ink)).astype(np.uint8).reshape(size, size)
