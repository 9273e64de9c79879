"""models/README.md: its example runs as it stands there, and its map shows every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"
README = MODELS / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    exec(compile(example[1], str(README), "exec"), {})
    assert capsys.readouterr().out == "tensor([0, 1, 2, 3, 4])\n"


def test_the_map_shows_every_file() -> None:
    told = README.read_text(encoding="utf-8").partition("## The map")[2].partition("## To add")[0]
    words = set(re.findall(r"[\w.]+", told))
    files = [path for path in (MODELS / "kshot_models").rglob("*.py") if path.name != "__init__.py"]
    assert [path for path in files if path.name not in words] == []
