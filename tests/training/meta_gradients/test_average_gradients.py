"""The coefficients of Nichol et al., 2018, section 5: expected meta-gradients, to first order in the inner rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kshot_training.average_gradients import ALGORITHMS, POINTS, expected, main, measure

COMMITTED = Path(__file__).parents[3] / "training" / "results" / "figures"


@pytest.mark.parametrize("k", range(1, POINTS + 1))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_coefficients_are_those_of_the_series(algorithm: str, k: int) -> None:
    rate = 1e-5
    seen, theory = measure(algorithm, k, rate), expected(algorithm, k, rate)
    assert seen.grad == pytest.approx(theory.grad, abs=1e-6)
    assert seen.inner / rate == pytest.approx(theory.inner / rate, abs=5e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_left_is_of_second_order(algorithm: str) -> None:
    def error(rate: float) -> float:
        return abs(measure(algorithm, 3, rate).inner - expected(algorithm, 3, rate).inner)

    assert error(1e-3) / error(5e-4) == pytest.approx(4, rel=0.1)


def test_the_committed_figure_is_made_of_these(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "avg-grad.png").read_bytes().startswith(b"\x89PNG")
    fresh, committed = (json.loads((folder / "avg-grad.json").read_text()) for folder in (tmp_path, COMMITTED))
    assert len(fresh) == len(committed) == len(ALGORITHMS) * POINTS
    for row, kept in zip(fresh, committed, strict=True):
        assert row["algorithm"] == kept["algorithm"]
        assert row["grad"] == pytest.approx(kept["grad"], abs=1e-6)
        assert row["inner"] == pytest.approx(kept["inner"], abs=1e-7)
