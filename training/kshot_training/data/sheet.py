"""A contact sheet: what a data set looks like, classes down and images across."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from kshot_training.data.dataset import ImageClasses
from kshot_training.data.draws import choose_distinct, uniforms

__all__ = ["contact_sheet"]

_GAP = 2  # pixels between images


def contact_sheet(classes: ImageClasses, *, rows: int = 12, columns: int = 10, seed: int = 0) -> Image.Image:
    """Draw random classes.

    Args:
        classes: the data set.
        rows: how many classes, at most.
        columns: how many images of each, at most: its first ones.
        seed: which classes.
    """
    rows = min(rows, classes.num_classes)
    draws = uniforms(seed, 0, first=0, count=1, width=2 * rows)[0]
    chosen = choose_distinct(draws[:rows], draws[rows:], np.array(classes.num_classes))
    height, width = classes.spec.height, classes.spec.width
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, (160, 160, 160))
    for row, index in enumerate(chosen.tolist()):
        name, turn = index // classes.turns, index % classes.turns
        images = torch.arange(min(columns, int(classes.counts[name]))) + int(classes.starts[name])
        turns = torch.full_like(images, turn)
        pixels = classes.pixels(images.to(classes.device), turns.to(classes.device)).cpu().numpy()
        for column, image in enumerate(pixels):
            tile = Image.fromarray(image[..., 0] if classes.spec.channels == 1 else image)
            sheet.paste(tile.convert("RGB"), (column * (width + _GAP), row * (height + _GAP)))
    return sheet
