"""server/README.md: its example runs, and its map shows every file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kshot_models.artifact import list_artifacts, zoo_folder

SERVER = Path(__file__).resolve().parents[3] / "server"
README = (SERVER / "README.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    if not any(folder.parent.name == "omniglot" for folder in list_artifacts(zoo_folder())):
        pytest.skip("no model is shipped yet")
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['alpha', 'beta']\n"


def test_the_map_shows_every_file() -> None:
    told = set(re.findall(r"[\w/]+(?:\.py)?", README.split("## The map")[1].split("## To add")[0]))
    package = SERVER / "kshot_server"
    for path in package.rglob("*.py"):
        if path.name != "__init__.py":
            assert {path.name, str(path.relative_to(package))} & told, path
            assert path.parent == package or {f"{path.parent.name}/", str(path.relative_to(package))} & told, path
