"""Invented characters: the same bytes everywhere, ink that looks like ink, classes as hard to tell as real ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.glyphs import GLYPHS_PER_SCRIPT, draw_glyph, glyph_name
from kshot_models.manifest import InputSpec
from kshot_training.data import EpisodeSampler, load_classes
from kshot_training.data.errors import OptionInvalid, SplitUnknown

PROGRAM = """
import hashlib, sys
from kshot.glyphs import draw_glyph
digest = hashlib.sha256()
for glyph in range(0, 300, 3):
    digest.update(draw_glyph(glyph, glyph % 20, seed=glyph % 5))
assert not {"torch", "kshot_models", "kshot_training"} & set(sys.modules)
print(digest.hexdigest())
"""
DIGEST = "e3cc978b97e9c7ea5e6e6e352b7adab2356f191dd027b8ff8c8ef67c40d58d9c"


def test_known_bytes() -> None:
    # If these change, every recorded accuracy belongs to other characters.
    digest = hashlib.sha256()
    for glyph in range(0, 300, 3):
        digest.update(draw_glyph(glyph, glyph % 20, seed=glyph % 5).tobytes())
    assert digest.hexdigest() == DIGEST


@pytest.mark.parametrize("features", ["", "AVX2 FMA3 AVX512F AVX512_SKX X86_V3 X86_V4"])
def test_another_process_and_processor_draw_the_same_bytes(features: str) -> None:
    # numpy takes other code paths without these instructions; names that it does not know are warnings.
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": features}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == DIGEST


def test_drawings_classes_and_seeds_differ() -> None:
    drawings = {draw_glyph(g, d, seed=s).tobytes() for g in range(30) for d in range(3) for s in range(2)}
    assert len(drawings) == 30 * 3 * 2


@pytest.mark.parametrize("size", [8, 28, 105, 300])
def test_ink_on_paper_at_any_size(size: int) -> None:
    for glyph in range(0, 400, 20):
        image = draw_glyph(glyph, 1, size=size)
        assert image.shape == (size, size)
        assert image.dtype == np.uint8
        ink = 1 - image / 255
        assert 0.01 < ink.mean() < 0.35
        if size >= 105:
            assert ink.max() > 0.95
            # Nothing is cut off by the edge of the page.
            assert max(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) == 0


def test_sizes_show_the_same_drawing() -> None:
    small = draw_glyph(42, 3, size=105)
    large = Image.fromarray(draw_glyph(42, 3, size=420)).resize((105, 105), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, float) - small).mean() < 4


def test_names_sort_by_script_and_number() -> None:
    assert glyph_name(0) == "script0000/glyph00000"
    assert glyph_name(GLYPHS_PER_SCRIPT * 2 + 1) == "script0002/glyph00051"


@pytest.mark.parametrize("arguments", [(-1, 0, 0, 105), (0, -1, 0, 105), (0, 0, -1, 105), (0, 0, 0, 7)])
def test_numbers_out_of_range(arguments: tuple[int, int, int, int]) -> None:
    glyph, drawing, seed, size = arguments
    with pytest.raises(ValueError, match="of at least 0 and size of at least 8"):
        draw_glyph(glyph, drawing, seed=seed, size=size)


def test_a_split_is_what_a_client_would_send(gray: InputSpec) -> None:
    classes = load_classes("glyphs:classes=3,drawings=4,seed=2", spec=gray)
    assert classes.names == tuple(glyph_name(glyph) for glyph in range(3))
    assert classes.counts.tolist() == [4, 4, 4]
    sent = Image.fromarray(draw_glyph(1, 2, seed=2)).resize((28, 28), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(classes.images[6, ..., 0].numpy(), np.asarray(sent))


def test_splits_share_no_script(gray: InputSpec) -> None:
    scripts = [
        {name.split("/")[0] for name in load_classes("glyphs:classes=60,drawings=1", spec=gray, split=split).names}
        for split in ("train", "val", "test")
    ]
    assert [len(some) for some in scripts] == [3, 3, 3]
    assert len(set.union(*scripts)) == 9


def test_options(gray: InputSpec, tmp_path: Path) -> None:
    plain = load_classes("glyphs", spec=gray, split="val", options={"classes": 2, "drawings": 3}, cache=tmp_path)
    assert plain.images.shape == (6, 28, 28, 1)
    again = load_classes("glyphs:classes=2,drawings=3", spec=gray, split="val", cache=tmp_path)
    assert again.images.equal(plain.images)
    assert len(list(tmp_path.iterdir())) == 1
    assert not load_classes("glyphs:classes=2,drawings=3,seed=1", spec=gray, split="val").images.equal(plain.images)
    for source, message in (
        ("glyphs:classes=0", "classes from 1"),
        ("glyphs:classes=many", "got 'many'"),
        ("glyphs:ink=3", "expected an option of glyphs .*, got 'ink'"),
    ):
        with pytest.raises(OptionInvalid, match=message):
            load_classes(source, spec=gray)
    with pytest.raises(OptionInvalid, match="got True"):
        load_classes("glyphs", spec=gray, options={"seed": True})
    with pytest.raises(SplitUnknown, match="got 'background'"):
        load_classes("glyphs", spec=gray, split="background")


def test_about_as_hard_as_omniglot(nearest_neighbour: Callable[[EpisodeSampler, int], float]) -> None:
    spec = InputSpec(height=28, width=28, channels=1, mean=(1.0,), std=(1.0,), resize="box")
    classes = load_classes("glyphs:classes=60", spec=spec, rotations=True)
    accuracy = nearest_neighbour(EpisodeSampler(classes, way=5, shot=1, queries=15), 300)
    assert accuracy == pytest.approx(0.484, abs=0.06)  # Omniglot's test characters by the same measure
