"""The parts of the demo: sources, episodes, the measurements, the table, the contact sheet."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot import InvalidInputError, Prediction
from kshot._demo.episodes import DrawnClass, Episode, Labelled, sample_episode
from kshot._demo.measurements import Latency, Measurements, Summary
from kshot._demo.sheet import _distinct_names, _font, _heading, _letter, contact_sheet
from kshot._demo.sources import open_source
from kshot._demo.table import LiveTable


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 2, (105, 105), dtype=np.uint8) * 255
    Image.fromarray(pixels).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["zip", "folder"])
def omniglot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two alphabets of the official layout, zipped or unpacked."""
    root = tmp_path / "omniglot"
    root.mkdir()
    for half, alphabet in (("images_background", "Greek"), ("images_evaluation", "Angelic")):
        files = {
            f"{half}/{alphabet}/character{c:02d}/{c:04d}_{d:02d}.png": png(100 * c + d)
            for c in (1, 2)
            for d in (2, 1, 3)
        }
        if request.param == "zip":
            with zipfile.ZipFile(root / f"{half}.zip", "w") as archive:
                archive.writestr("__MACOSX/._x.png", b"")
                for name, data in files.items():
                    archive.writestr(name, data)
        else:
            for name, data in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
    return root


def test_glyphs_are_of_another_world_for_another_seed() -> None:
    first, same, other = (open_source("glyphs", seed=seed).classes for seed in (0, 0, 1))
    assert len(first) == 1000
    assert first[7].name == "script0000/glyph00007"
    assert np.array_equal(first[7].image(3), same[7].image(3))
    assert not np.array_equal(first[7].image(3), other[7].image(3))
    assert not np.array_equal(first[7].image(3), first[7].image(4))


def test_omniglot_split(omniglot: Path) -> None:
    (omniglot / "splits").mkdir()
    (omniglot / "splits" / "vinyals_test.txt").write_text("Greek/character02\nAngelic/character01\n")
    source = open_source(f"omniglot:{omniglot}", seed=0)
    assert source.description == "Omniglot, the 2 test characters of Vinyals' split with their rotations"
    assert [one.name for one in source.classes][:5] == [
        *(f"Greek/character02/rot{degrees}" for degrees in ("000", "090", "180", "270")),
        "Angelic/character01/rot000",
    ]
    upright, turned = source.classes[0], source.classes[1]
    assert upright.size == 3
    expected = np.asarray(Image.open(io.BytesIO(png(201))).convert("L"))
    assert np.array_equal(upright.image(0), expected)
    assert np.array_equal(turned.image(0), np.rot90(expected))


def test_omniglot_without_the_split_says_what_it_uses(omniglot: Path) -> None:
    source = open_source(f"omniglot:{omniglot}", seed=0)
    assert "the 2 evaluation characters of Lake's split" in source.description
    assert "has learned from 236 of them" in source.description
    assert {one.name.split("/")[0] for one in source.classes} == {"Angelic"}


def test_omniglot_that_is_not_whole(omniglot: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no Omniglot images"):
        open_source(f"omniglot:{tmp_path / 'nowhere'}", seed=0)
    (omniglot / "splits").mkdir()
    (omniglot / "splits" / "vinyals_test.txt").write_text("Latin/character01\nLatin/character02\n")
    with pytest.raises(InvalidInputError, match=r"lacks Latin/character01 \(and 1 more\)"):
        open_source(f"omniglot:{omniglot}", seed=0)
    (omniglot / "images_evaluation.zip").write_bytes(b"no zip")
    if not (omniglot / "images_evaluation").is_dir():
        with pytest.raises(InvalidInputError, match="is no zip"):
            open_source(f"omniglot:{omniglot}", seed=0)


def test_omniglot_without_its_evaluation_half(tmp_path: Path) -> None:
    (tmp_path / "images_background" / "Greek" / "character01").mkdir(parents=True)
    (tmp_path / "images_background" / "Greek" / "character01" / "1.png").write_bytes(png(1))
    with pytest.raises(InvalidInputError, match="lacks images_evaluation"):
        open_source(f"omniglot:{tmp_path}", seed=0)


def test_folder(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(png(1))
    source = open_source(f"folder:{tmp_path}", seed=0)
    assert [(one.name, one.size, one.image(0)) for one in source.classes] == [("a", 1, png(1)), ("b", 1, png(1))]
    assert "the 2 classes in" in source.description


@pytest.mark.parametrize("text", ["omniglot", "folder", "glyphs:somewhere", "imagenet:here", ""])
def test_sources_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--data"):
        open_source(text, seed=0)


def test_episodes_are_seeded_and_without_replacement() -> None:
    classes = [DrawnClass(str(c), 10, lambda i, c=c: np.full((1, 1), 10 * c + i, np.uint8)) for c in range(9)]
    classes.append(DrawnClass("too small", 3, lambda i: b""))

    def draw(seed: int) -> Episode:
        return sample_episode(classes, np.random.default_rng(seed), way=9, shot=2, queries=8)

    episode = draw(0)
    assert str(episode) == str(draw(0)) != str(draw(1))
    assert len(episode.support) == 18
    assert len(episode.queries) == 72
    drawn = [int(one.picture[0, 0]) for one in episode.support + episode.queries]  # type: ignore[index]
    assert sorted(drawn) == list(range(90))
    assert all(int(one.label) == int(one.picture[0, 0]) // 10 for one in episode.support)  # type: ignore[index]
    with pytest.raises(InvalidInputError, match=r"10-way .* there are 9 \(of 10\)"):
        sample_episode(classes, np.random.default_rng(0), way=10, shot=1, queries=3)


def test_measurements_against_the_formulas() -> None:
    measured = Measurements()
    measured.add(1.0, adapt_seconds=0.010, classify_seconds=0.1)
    assert math.isnan(measured.summary().ci95)
    assert measured.summary().as_data()["ci95"] is None
    measured.add(0.5, adapt_seconds=0.030, classify_seconds=0.2)
    measured.add(0.9, adapt_seconds=0.020, classify_seconds=0.3)
    summary = measured.summary()
    assert (summary.episodes, summary.accuracy) == (3, pytest.approx(0.8))
    assert summary.ci95 == pytest.approx(1.96 * math.sqrt((0.04 + 0.09 + 0.01) / 2) / math.sqrt(3))
    assert summary.adapt_ms == (pytest.approx(20.0), pytest.approx(29.8))
    assert json.loads(json.dumps(summary.as_data()))["classify_ms"]["p50"] == pytest.approx(200)


def summary(episodes: int, accuracy: float = 0.9876) -> Summary:
    return Summary(
        episodes, accuracy, math.nan if episodes == 1 else 0.0042, Latency(9.12, 14.2), Latency(12.3, 1234.5)
    )


class Terminal(io.StringIO):
    """A terminal that understands what the table writes: lines, cursor up, clear to the end of the line."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, row = [""], 0
        for part in self.getvalue().replace("\x1b[K", "").split("\n")[:-1]:
            up, _, content = part.rpartition("A\r") if part.startswith("\x1b[") else ("", "", part.removeprefix("\r"))
            row -= int(up.removeprefix("\x1b[") or 0)
            lines[row] = content
            row += 1
            lines += [""] * (row + 1 - len(lines))
        return lines[:-1]


def test_table_is_rewritten_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    table = LiveTable(terminal, total=40, support=5, queries=75)
    for episodes in (1, 2, 20, 40):
        table.show(summary(episodes))
        screen = terminal.screen()
        assert len(screen) == 4
        assert screen[0] == f"  episodes   {'█' * (episodes // 2)}{'░' * (20 - episodes // 2)}  {episodes} of 40"
    assert screen[1:] == [
        "  accuracy    98.76 ± 0.42 %   (95% interval)",
        "  adapt      p50     9.1 ms   p99    14.2 ms   5 images",
        "  classify   p50    12.3 ms   p99  1234.5 ms   75 images",
    ]
    assert max(map(len, screen)) < 80


@pytest.mark.parametrize("terminal", [io.StringIO, Terminal])
def test_table_without_a_terminal_is_a_few_rows(terminal: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = terminal()
    table = LiveTable(stream, total=100, support=5, queries=75)
    for episodes in range(1, 101):
        table.show(summary(episodes))
    header, *rows = stream.getvalue().splitlines()
    assert header == "  episodes   accuracy (95% CI)   adapt 5 images              classify 75 images"
    assert [int(row.split()[0]) for row in rows] == [1, *range(10, 101, 10)]
    assert rows[-1] == "       100    98.76 ± 0.42 %     9.1 ms / 14.2 ms            12.3 ms / 1234.5 ms"
    assert "\x1b" not in stream.getvalue()


def prediction(label: str, probability: float) -> Prediction:
    return Prediction(label, probability, {label: probability})


def test_contact_sheet_shows_right_and_wrong() -> None:
    black, white = np.zeros((9, 9), np.uint8), np.full((9, 9), 255, np.uint8)
    episode = Episode(
        [Labelled("x/a", black), Labelled("x/a", black), Labelled("x/b", white)],
        [Labelled("x/a", black), Labelled("x/b", white), Labelled("x/b", png(1))],
    )
    answers = [prediction("x/a", 0.9), prediction("x/a", 0.6), prediction("x/b" * 30, 0.5)]
    sheet = contact_sheet(episode, answers, title="A title that is a good deal wider than two columns of images are")
    colors = {color for _, color in sheet.getcolors(1 << 20) or []}
    green, red = (0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)
    assert {green, red, (0, 0, 0), (255, 255, 255)} <= colors
    right_half = sheet.crop((16 + 94, 0, 16 + 2 * 94, sheet.height))
    assert green not in {color for _, color in right_half.getcolors(1 << 20) or []}
    assert sheet.width > 400


def test_contact_sheet_grows_with_way_and_queries() -> None:
    image = np.zeros((9, 9), np.uint8)

    def size(way: int, queries: int) -> tuple[int, int]:
        labels = [f"class{c}" for c in range(way)]
        episode = Episode(
            [Labelled(label, image) for label in labels],
            [Labelled(label, image) for label in labels for _ in range(queries)],
        )
        return contact_sheet(episode, [prediction(label, 1.0) for label, _ in episode.queries], title="").size

    assert size(20, 1)[0] - size(10, 1)[0] == 940
    assert size(5, 15)[1] - size(5, 5)[1] == 10 * (94 + 18)


# What a viewer reads cannot be read back from pixels, so the words are asked for.


def test_names_are_as_long_as_it_takes() -> None:
    assert _distinct_names(["g/s0/a", "g/s1/b"]) == {"g/s0/a": "a", "g/s1/b": "b"}
    assert _distinct_names(["g/s0/a", "g/s1/a"]) == {"g/s0/a": "s0/a", "g/s1/a": "s1/a"}
    assert _distinct_names(["g/a", "h/a"]) == {"g/a": "g/a", "h/a": "h/a"}
    assert _distinct_names(["a", "b"]) == {"a": "a", "b": "b"}


def test_headings_fit_their_column() -> None:
    assert [_letter(index) for index in (0, 25, 26, 53)] == ["A", "Z", "A1", "B2"]
    assert _heading("A", "cat", _font(12)) == "A  cat"
    long = _heading("B", "character01/rot270", _font(12))
    assert long.startswith("B  …")
    assert long.endswith("rot270")
    assert _font(12).getlength(long) <= 84
    assert _heading("B" * 40, "cat", _font(12)).endswith("…t")
