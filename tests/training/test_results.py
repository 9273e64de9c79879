"""Committed measurements and the table made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from kshot_training.results import Row, hardware, main, read_rows, record, render

REPOSITORY = Path(__file__).parents[2]
ROW = Row(
    algorithm="maml",
    data="omniglot test",
    way=5,
    shot=1,
    norm="support",
    episodes=2000,
    accuracy=0.98765,
    ci95=0.0012,
    published=0.987,
    seed=0,
    hardware="a machine, 2 cores",
    seconds=12.5,
    command="kshot evaluate maml",
)


def test_a_new_measurement_of_the_same_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results" / "maml.json"
    other = ROW.model_copy(update={"shot": 5})
    for row in (ROW, other, ROW.model_copy(update={"accuracy": 0.5})):
        record(path, row)
    assert read_rows(path) == [ROW.model_copy(update={"accuracy": 0.5}), other]
    assert [p.name for p in path.parent.iterdir()] == ["maml.json"]


def test_the_table_has_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    record(tmp_path / "maml.json", ROW.model_copy(update={"over_http": 0.98765, "same_label": 0.99994}))
    record(tmp_path / "maml.json", ROW.model_copy(update={"way": 20, "accuracy": None, "ci95": None}))
    assert main([str(tmp_path), str(tmp_path / "RESULTS.md")]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "## maml" in text
    measured = "| omniglot test | 2,000 | support | 5w1s | 98.77% ± 0.12% | 98.70% | 98.77% | 99.994% | 0 |"
    assert measured in text
    assert "| 20w1s | not measured | 98.70% |" in text
    assert "a machine, 2 cores, with:" in text


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{**ROW.model_dump(), "accuracy": 98.7}]))
    with pytest.raises(ValidationError, match="accuracy"):
        read_rows(tmp_path / "x.json")


def test_the_machine_is_named() -> None:
    assert hardware().endswith(" cores")
    assert len(hardware()) > len(", 2 cores")


def test_the_committed_table_is_the_one_that_the_committed_measurements_make() -> None:
    files = sorted((REPOSITORY / "training" / "results").glob("*.json"))
    assert files
    assert (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8") == render(files)
