"""training/README.md: its example runs as it stands there, and its map shows every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TRAINING = Path(__file__).parents[2] / "training"
README = TRAINING / "README.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], str(README), "exec"), {})
    assert re.fullmatch(r"0\.\d+ ± 0\.\d+\n", capsys.readouterr().out)
    assert (tmp_path / "run" / "glyphs-protonet" / "1" / "manifest.json").is_file()


def test_the_map_shows_every_file() -> None:
    """A command goes by its own name, all other modules by their files."""
    told = README.read_text(encoding="utf-8").partition("## An outer step")[2].partition("## To add")[0]
    words = set(re.findall(r"[\w.]+", told))
    files = [path for path in (TRAINING / "kshot_training").rglob("*.py") if path.name != "__init__.py"]
    missing = [path for path in files if (path.stem if path.parent.name == "commands" else path.name) not in words]
    assert missing == []
