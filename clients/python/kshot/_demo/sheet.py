"""The contact sheet of one episode: a column for each class, its support images on top, its queries below.

               A cat   B dog   C owl
taught         ┌────┐  ┌────┐  ┌────┐
               └────┘  └────┘  └────┘
asked          ┌────┐  ┌────┐  ┌────┐     a green frame: right, a red one: wrong;
               └────┘  └────┘  └────┘     below it the letter of the class that was
               A 0.98  B 0.99  A 0.51     answered, and its probability
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw, ImageFont, ImageOps

from kshot._images import Picture
from kshot._types import Prediction

from .episodes import Episode

__all__ = ["contact_sheet"]

_IMAGE = 84
_GAP = 10
_CAPTION = 18
_MARGIN = 16
_CELL = _IMAGE + _GAP
_BORDER = 3

_PAPER, _INK, _FAINT = "#ffffff", "#222222", "#777777"
_RIGHT, _WRONG = "#1a7f37", "#cf222e"

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Column(NamedTuple):
    """A class: what it was taught with, and what was answered for its queries."""

    label: str
    support: list[Picture]
    answers: list[tuple[Picture, Prediction]]


def contact_sheet(episode: Episode, predictions: Sequence[Prediction], *, title: str) -> Image.Image:
    """Draw an episode with its predictions.

    Args:
        episode: its queries are in the order of the predictions.
        predictions: one for each query.
        title: the line at the top.

    Returns:
        An RGB image.
    """
    columns = _columns(episode, predictions)
    labels = [column.label for column in columns]
    names = _distinct_names(labels)
    letters = {label: _letter(index) for index, label in enumerate(labels)}
    font, bold = _font(12), _font(15)
    taught_top = _MARGIN + 3 * _CAPTION
    asked_top = taught_top + max(len(column.support) for column in columns) * _CELL + 2 * _CAPTION
    rows = max(len(column.answers) for column in columns)
    width = max(len(columns) * _CELL, math.ceil(bold.getlength(title))) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, asked_top + rows * (_CELL + _CAPTION) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    right = sum(one.label == query.label for query, one in zip(episode.queries, predictions, strict=True))
    draw.text((_MARGIN, _MARGIN), title, _INK, bold)
    draw.text((_MARGIN, taught_top - 2 * _CAPTION + 4), "taught", _FAINT, font)
    asked = f"asked: {right} of {len(predictions)} right; with the letter answered, and its probability"
    draw.text((_MARGIN, asked_top - _CAPTION), asked, _FAINT, font)
    for index, column in enumerate(columns):
        left = _MARGIN + index * _CELL
        draw.text((left, taught_top - _CAPTION), _heading(letters[column.label], names[column.label], font), _INK, font)
        for row, picture in enumerate(column.support):
            sheet.paste(_thumbnail(picture), (left, taught_top + row * _CELL))
            draw.rectangle(_frame(left, taught_top + row * _CELL), outline=_FAINT)
        for row, (picture, prediction) in enumerate(column.answers):
            corner = (left, asked_top + row * (_CELL + _CAPTION))
            color = _RIGHT if prediction.label == column.label else _WRONG
            caption = f"{letters.get(prediction.label, '?')} {prediction.probability:.2f}"
            _draw_answer(sheet, corner, picture, caption, (color, font))
    return sheet


def _columns(episode: Episode, predictions: Sequence[Prediction]) -> list[_Column]:
    columns = {label: _Column(label, [], []) for label, _ in episode.support}
    for label, picture in episode.support:
        columns[label].support.append(picture)
    for (label, picture), prediction in zip(episode.queries, predictions, strict=True):
        columns[label].answers.append((picture, prediction))
    return list(columns.values())


def _draw_answer(
    sheet: Image.Image, corner: tuple[int, int], picture: Picture, caption: str, pen: tuple[str, Font]
) -> None:
    (left, top), (color, font) = corner, pen
    draw = ImageDraw.Draw(sheet)
    sheet.paste(_thumbnail(picture), corner)
    draw.rectangle(_frame(left, top), outline=color, width=_BORDER)
    draw.text((left, top + _IMAGE + 2), caption, color, font)


def _frame(left: int, top: int) -> tuple[int, int, int, int]:
    return left, top, left + _IMAGE - 1, top + _IMAGE - 1


def _thumbnail(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture)
    # As the server sees it: upright, and transparent parts white.
    seen = ImageOps.exif_transpose(image).convert("RGBA")
    paper = Image.new("RGBA", seen.size, _PAPER)
    paper.alpha_composite(seen)
    return paper.convert("RGB").resize((_IMAGE, _IMAGE), Image.Resampling.LANCZOS)


def _distinct_names(labels: Sequence[str]) -> dict[str, str]:
    """The last part of each label, with as many parts before it as it takes to tell all apart."""
    deepest = max(label.count("/") for label in labels) + 1
    for parts in range(1, deepest):
        names = {label: "/".join(label.split("/")[-parts:]) for label in labels}
        if len(set(names.values())) == len(labels):
            return names
    return {label: label for label in labels}


def _letter(index: int) -> str:
    """A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _heading(letter: str, name: str, font: Font) -> str:
    """Letter and name, cut at the name's front until both fit in a column: the ends of labels tell them apart."""
    cut, heading = name, f"{letter}  {name}"
    while font.getlength(heading) > _IMAGE and len(cut) > 1:
        cut = cut[1:]
        heading = f"{letter}  …{cut}"
    return heading


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
