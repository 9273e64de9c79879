"""The example of training/README.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "training" / "README.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], str(README), "exec"), {})
    assert re.fullmatch(r"0\.\d+ ± 0\.\d+\n", capsys.readouterr().out)
    assert (tmp_path / "run" / "glyphs-protonet" / "1" / "manifest.json").is_file()
