"""Committed measurements and the table made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from kshot_training.language.results import render_language
from kshot_training.optimizer_results import render_comparisons
from kshot_training.results import Row, hardware, main, read_rows, record, render, table_rows

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
    record(tmp_path / "maml.json", ROW, ROW.model_copy(update={"way": 20, "accuracy": None, "ci95": None}))
    assert main([str(tmp_path), str(tmp_path / "RESULTS.md")]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "## omniglot\n" in text
    machine = "0.00 h, a machine, 2 cores"
    command = "`kshot evaluate maml`"
    assert f"| 5w1s | maml | support | 98.77% ± 0.12% | 98.70% | 2,000 | 0 | {machine} | {command} |" in text
    assert f"| 20w1s | maml | support |  | 98.70% | 2,000 | 0 | {machine} | {command} |" in text


def test_what_was_measured_through_a_server_has_its_own_table() -> None:
    text = render([ROW.model_copy(update={"over_http": 0.98765, "same_label": 0.99994})])
    assert "| 5w1s | maml | support | 98.77% ± 0.12% | 98.77% | 99.994% | 2,000 | 0 |" in text
    assert "Measured on a machine, 2 cores, with:\n\n```sh\nkshot evaluate maml\n```" in text


def test_regressions_have_errors_by_steps() -> None:
    sine = ROW.model_copy(update={"data": "sinusoids", "way": 1, "shot": 10, "norm": "none", "accuracy": None})
    seen = {"mse": 0.7654, "mse_ci95": 0.02, "mse_by_steps": {"0": 3.0, "1": 0.7654}, "published_mse": 0.77}
    text = render([sine.model_copy(update=seen), sine.model_copy(update={"shot": 5})])
    assert "| 10 | maml | 0.765 ± 0.020 | 0.77 | 3.000 | 0.765 | 2,000 | 0 |" in text
    assert "| 5 | maml |  |  |  |  | 2,000 | 0 |" in text


def test_settings_stand_in_the_order_of_training() -> None:
    settings = [(20, 5), (5, 1), (7, 3), (5, 5), (20, 1)]
    text = render(ROW.model_copy(update={"way": way, "shot": shot}) for way, shot in settings)
    places = [text.index(f"| {way}w{shot}s |") for way, shot in [(5, 1), (20, 1), (5, 5), (20, 5), (7, 3)]]
    assert places == sorted(places)


def test_a_row_has_the_keys_of_its_kind() -> None:
    every = "algorithm data way shot norm episodes accuracy ci95 published seed hardware seconds command"
    assert " ".join(ROW.dump()) == every
    assert " ".join(ROW.model_copy(update={"mse": 0.5}).dump()) == every + " mse"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{**ROW.model_dump(), "accuracy": 98.7}]))
    with pytest.raises(ValidationError, match="accuracy"):
        read_rows(tmp_path / "x.json")


def test_the_machine_is_named() -> None:
    assert hardware().endswith(" cores")
    assert len(hardware()) > len(", 2 cores")


def test_the_committed_table_is_the_one_that_the_committed_measurements_make() -> None:
    rows = table_rows(REPOSITORY / "training" / "results")
    assert rows
    comparisons = render_comparisons(sorted((REPOSITORY / "training/results/optimizers").glob("*.json")))
    languages = render_language(sorted((REPOSITORY / "training/results/language").glob("*.json")))
    assert (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8") == render(rows) + comparisons + languages
