"""The tour of README.md, done as a reader would: every block in order, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _tour() -> list[tuple[str, str]]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.split("## A tour in 60 seconds", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```(python|sh)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_tour_runs_as_written(serve: Any, tmp_path: Path) -> None:
    interpreter = {"python": [sys.executable, "-c"], "sh": ["bash", "-euo", "pipefail", "-c"]}
    printed = []
    with serve() as server:
        for language, block in _tour():
            done = subprocess.run(
                [*interpreter[language], block.replace("http://127.0.0.1:8000", server.url)],
                cwd=tmp_path,
                env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            printed.append(done.stdout)
    _, by_curl, by_client = printed
    assert re.findall(r'"label": ?"(\w+)"', by_curl) == ["alpha", "beta"]
    assert [line.split()[0] for line in by_client.splitlines()[:2]] == ["alpha", "beta"]
    assert by_client.splitlines()[2] == "{'alpha': 1, 'beta': 2}"


def test_makefile_has_the_targets_that_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    documents = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
    named = {
        target for path in documents for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    }
    assert named <= targets


def test_links_lead_somewhere() -> None:
    parts = ("clients", "models", "training", "server", "tests")
    readmes = [path for part in parts for path in (REPOSITORY / part).rglob("README.md")]
    for path in [*REPOSITORY.glob("*.md"), *readmes]:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.relative_to(REPOSITORY)} links to {link}"


def test_paths_in_contributing_exist() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:clients|models|training|server|tests)/[\w/.]+)`", text))
    assert {path for path in named if "NAME" not in path and not (REPOSITORY / path).exists()} == set()


def test_tables_of_contributing_are_where_it_says() -> None:
    """`TABLE` in `FILE`, wherever that is written with a whole path: the file assigns that name, or has that class."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)` in `((?:clients|models|training|server|tests)/[\w/]+\.py)`", text)
    assert len(named) > 15
    for table, path in named:
        code = (REPOSITORY / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:{table}\b.*=|class {table}\b|def {table}\b)", code, re.MULTILINE), f"{table} in {path}"
