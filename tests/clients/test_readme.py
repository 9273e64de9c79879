"""The README's examples run, and its map is the territory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    ("example", "shown"),
    [(EXAMPLES[0], r"((alpha|beta) [01]\.\d\d\n){2}"), (EXAMPLES[1], r"\[Prediction\(label='(alpha|beta)', .*\)\]\n")],
    ids=["blocking", "asyncio"],
)
def test_the_examples_run(example: str, shown: str, double: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        timeout=30,
        env={"KSHOT_URL": double.url},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(shown, done.stdout)


def test_the_map_shows_every_file() -> None:
    package = Path(__file__).resolve().parents[2] / "clients" / "python" / "kshot"
    told = README.split("## Map")[1]
    for path in package.iterdir():
        if path.name not in {"__init__.py", "__main__.py", "__pycache__", "py.typed", "_version.py"}:
            assert path.name in told, path.name
