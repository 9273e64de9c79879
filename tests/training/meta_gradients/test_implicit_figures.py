"""The figures of the implicit gradient: what they show is true, and the committed ones are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kshot_training import adaptation_memory, implicit_error

COMMITTED = Path(__file__).parents[3] / "training" / "results" / "figures"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_errors_fall_with_inner_and_with_cg_steps_as_committed(tmp_path: Path) -> None:
    told = json.loads((COMMITTED / "implicit-error.json").read_text())
    inner, cg = told["inner_steps"], told["cg_steps"]
    task = implicit_error.problem()
    errors = implicit_error.measure(task, inner_steps=(4, 16), cg_steps=(2, 5), shown_inner=(16,), shown_cg=(10,))
    fresh, kept = errors["by inner steps"], told["errors"]["by inner steps"]
    for line in ("MAML", "FOMAML", "iMAML, 10 CG steps"):
        assert fresh[line] == pytest.approx([kept[line][inner.index(n)] for n in (4, 16)], rel=1e-3)
    column = told["errors"]["by CG steps"]["16 inner steps"]
    assert errors["by CG steps"]["16 inner steps"] == pytest.approx([column[cg.index(k)] for k in (2, 5)], rel=1e-3)
    assert min(fresh["FOMAML"]) > 0.3  # what second derivatives are worth here
    for line in ("MAML", "iMAML, 10 CG steps"):
        assert kept[line] == sorted(kept[line], reverse=True)
        assert kept[line][-1] < 1e-5  # two ways to the gradient that a dense solve gives
    implicit_error.draw(told["errors"], tmp_path / "errors.png")
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_flat_only_for_the_implicit_gradient(tmp_path: Path) -> None:
    fresh = adaptation_memory.measure((2, 16), channels=(4, 4))
    committed = json.loads((COMMITTED / "adaptation-memory.json").read_text())
    for few, many in ((fresh[0], fresh[1]), (committed[0], committed[-1])):
        assert many["iMAML"] == pytest.approx(few["iMAML"], rel=0.02)
        growth = {name: many[name] - few[name] for name in ("MAML", "MAML, recomputed")}
        assert growth["MAML"] > max(4 * growth["MAML, recomputed"], few["MAML"])
        assert many["iMAML"] < many["MAML, recomputed"] < 0.5 * many["MAML"]
    assert [row["steps"] for row in committed] == list(adaptation_memory.STEPS)
    adaptation_memory.draw(committed, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_write_json_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        implicit_error, "measure", lambda task: json.loads((COMMITTED / "implicit-error.json").read_text())["errors"]
    )
    monkeypatch.setattr(
        adaptation_memory, "measure", lambda: json.loads((COMMITTED / "adaptation-memory.json").read_text())
    )
    for module in (implicit_error, adaptation_memory):
        assert module.main([str(tmp_path)]) == 0
        made = (tmp_path / f"{module.NAME}.json").read_text()
        assert json.loads(made) == json.loads((COMMITTED / f"{module.NAME}.json").read_text())
        assert (tmp_path / f"{module.NAME}.png").exists()
