"""`kshot data` from its arguments to what it prints and writes."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.glyphs import draw_glyph, glyph_name
from kshot_training.commands import data


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="kshot data")
    data.configure(parser)
    return data.run(parser.parse_args(arguments))


def test_glyphs_then_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, sheet = tmp_path / "glyphs", tmp_path / "sheet.png"
    assert run("glyphs", "--to", str(folder), "--classes", "27", "--drawings", "3", "--size", "32", "--seed", "4") == 0
    assert capsys.readouterr().out == f"{folder}: 27 classes, 3 drawings of each\n"
    with Image.open(folder / glyph_name(26) / "0002.png") as image:
        np.testing.assert_array_equal(np.asarray(image), draw_glyph(26, 2, seed=4, size=32))
    assert run("info", f"folder:{folder}", "--rotations", "--size", "16", "--sheet", str(sheet)) == 0
    told = capsys.readouterr().out
    assert "classes     108 (27 x 4 rotations)" in told
    assert "images      81" in told
    assert "of a class  3 to 3, mean 3.0" in told
    assert "script0000/glyph00000" in told
    with Image.open(sheet) as image:
        assert image.size == (10 * 18 - 2, 12 * 18 - 2)
        assert np.asarray(image.convert("L")).min() < 100


def test_glyphs_do_not_mix_with_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run("glyphs", "--to", str(tmp_path), "--classes", "1") == 2
    assert "expected an empty folder or none" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_wrong_requests_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "mnist") == 2
    assert "kshot data: expected a data set (folder, glyphs, mini-imagenet, omniglot)" in capsys.readouterr().err
    assert run("omniglot", "--from", str(tmp_path)) == 2
    assert f"expected {tmp_path / 'images_background.zip'}, where there is nothing" in capsys.readouterr().err
    assert run("info", "glyphs:classes=2,drawings=1", "--sheet", str(tmp_path / "absent" / "sheet.png")) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--classes", "0"), ("--size", "4"), ("--seed", "-1"), ("--drawings", "x")])
def test_numbers_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("glyphs", "--to", str(tmp_path), *arguments)
    assert stop.value.code == 2
    assert f"got '{arguments[1]}'" in capsys.readouterr().err


@pytest.fixture
def roomy() -> Iterator[Path]:
    """A folder for tens of thousands of files: in memory where there is room, as disks are slow with them."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.omniglot
def test_omniglot_is_unpacked_once(omniglot_root: Path, roomy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (omniglot_root / "images_background.zip").is_file():
        pytest.skip(f"no zips in {omniglot_root}, only what they unpack to")
    assert run("omniglot", "--from", str(omniglot_root), "--to", str(roomy)) == 0
    told = capsys.readouterr().out
    assert f"{roomy / 'images_background'}: 964 characters, 20 drawings of each" in told
    assert f"{roomy / 'images_evaluation'}: 659 characters, 20 drawings of each" in told
    assert run("info", "omniglot", "--root", str(roomy), "--split", "val", "--size", "8") == 0
    assert "classes     172\nimages      3440" in capsys.readouterr().out
    assert run("omniglot", "--to", str(roomy)) == 0  # nothing to fetch, nothing to unpack
    next(roomy.glob("images_evaluation/*/character*/*.png")).unlink()
    assert run("omniglot", "--to", str(roomy)) == 2
    assert "expected 20 drawings of each character" in capsys.readouterr().err
    assert sorted(path.name for path in roomy.iterdir()) == ["images_background", "images_evaluation"]
