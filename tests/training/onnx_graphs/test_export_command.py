"""`kshot export`: what it writes, what it says and its exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from kshot_models.artifact import load_artifact
from kshot_models.onnx_files import ADAPT, PREDICT
from kshot_training.commands import export


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    export.configure(parser)
    return export.run(parser.parse_args(arguments))


def test_it_writes_a_copy_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("omniglot-prototype", "--onnx", "--out", str(tmp_path)) == 0
    folder = tmp_path / "omniglot-prototype" / "1"
    assert {ADAPT, PREDICT} < load_artifact(folder).manifest.files.keys()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        str(folder / ADAPT),
        str(folder / PREDICT),
    ]


def test_what_cannot_be_exported_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("no-such", "--onnx", "--out", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("kshot export: expected an artifact folder")
    assert not list(tmp_path.iterdir())
