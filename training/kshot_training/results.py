"""Measured accuracies as committed JSON, and the table that is made of them.

kshot reproduce ─────────────────────────────────────┐
kshot evaluate --record training/results/RECIPE.json ─┴─> rows ──render──> RESULTS.md      (`make results`)

A row that has not been measured yet keeps its place with accuracy null and the command that would measure it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kshot_training.language.results import render_language
from kshot_training.optimizer_results import render_comparisons
from kshot_training.reproductions import read_reproductions, setting_rank

__all__ = ["Row", "hardware", "read_rows", "record", "render", "table_rows"]

Share = Annotated[float, Field(ge=0, le=1)]

HEAD = """# Results

Accuracy on classes that were never trained on: the mean over test episodes of one checkpoint, 15 queries per class
unless the command says otherwise, with half the width of the 95% interval. Norms: `support` uses the moments of the
support set, so that an answer depends on no other query; `transductive` those of the query batch, as many papers do;
`per_step` running ones of training, another set for each inner step; `population` those of all training images;
`group` those of each image alone.
A published figure stands beside the norm and the split that it was made with. Time is that of training, or of measuring
where nothing was trained; a figure without a time is that of the shipped artifact's manifest, which its training wrote.
What is not measured yet waits with its command.

Written by `make results` from `training/results/*.json`; do not edit.
"""

FIGURES = """
## What the meta-gradients have in common

![Coefficients of AvgGrad and AvgGradInner](training/results/figures/avg-grad.png)

Expected meta-gradients of k gradients with a small inner rate, as two terms of a series (Nichol et al., 2018,
arXiv:1803.02999, section 5): lines are the theory, points are measured in double precision.
`python -m kshot_training.average_gradients training/results/figures` measures and draws.

## What the implicit gradient is worth, and what it costs

![Error of meta-gradients](training/results/figures/implicit-error.png)

Relative to the exact implicit gradient, by a dense solve in double precision (Rajeswaran et al., 2019,
arXiv:1909.04630, section 5): a sine wave on a tanh network. MAML differentiates through the same inner steps.
`python -m kshot_training.implicit_error training/results/figures` measures and draws.

![Memory of meta-gradients](training/results/figures/adaptation-memory.png)

The most bytes of tensors alive at once in the meta-gradient of one 5-way 1-shot task on Conv4, by the number of inner
steps. `python -m kshot_training.adaptation_memory training/results/figures` counts and draws.
"""

ABOUT = {
    "omniglot": """
By alphabet, as in the file that Snell et al. (2017) published as the split of Vinyals et al. (2016): the alphabets of
the test are new.
""",
    "omniglot mixed": """
Characters at random, whatever their alphabet, as in the papers of MAML, Reptile, Meta-SGD, iMAML and MAML++: those of
the test are new, their alphabets are not, and there are about half as many errors. 1,100 to train on, 100 to validate,
423 to test; each counts four times, turned by quarters. One fixed draw, where each paper had its own.
""",
}

ERRORS = """
Mean squared error on the queries of waves with an amplitude from 0.1 to 5, a phase from 0 to pi and a frequency from
0.8 to 1.2, as in the table that is published. `error` is after the inner steps of the recipe: one, 32 of Reptile;
published figures are after one. The other columns may take more steps than was trained for, and some waves diverge.
"""

WAVES = """
![One sine wave, adapted to](training/results/figures/sine-adapted.png)

One wave that none of the models was trained on, and their answers along the inner steps, from the artifacts of the runs
above. `python -m kshot_training.sine_figure runs training/results/figures` adapts and draws.
"""

_OF_SOME_ROWS = frozenset({"over_http", "same_label", "mse", "mse_ci95", "mse_by_steps", "published_mse"})


class Row(BaseModel):
    """One measurement. Accuracies and shares are 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: str
    data: str
    way: int
    shot: int
    norm: str
    episodes: int
    accuracy: Share | None
    ci95: Share | None
    published: Share | None = None
    seed: int
    hardware: str
    seconds: float | None
    command: str
    over_http: Share | None = None  # the accuracy of the same episodes through a server
    same_label: Share | None = None  # the share of queries with the same label both ways
    mse: float | None = None  # of a regression, with half the width of its interval
    mse_ci95: float | None = None
    mse_by_steps: dict[str, float] | None = None  # after so many inner steps
    published_mse: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What a row is about: a new measurement of the same replaces the old one."""
        return (self.algorithm, self.data, self.norm, self.way, self.shot, self.seed)

    @property
    def measured(self) -> bool:
        """Whether there is a figure yet."""
        return self.accuracy is not None or self.mse is not None

    def dump(self) -> dict[str, Any]:
        """As it stands in a file: the keys that every row has, and those of its kind that have a value."""
        raw = self.model_dump()
        return {name: value for name, value in raw.items() if value is not None or name not in _OF_SOME_ROWS}


def hardware(device: str = "cpu") -> str:
    """This machine: its GPU, or its processor and how many cores this process may use."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415 - the table is written without it

        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def read_rows(path: Path) -> list[Row]:
    """The rows of one file; none if it is not there.

    Raises:
        ValueError: the file holds something else.
    """
    return [Row.model_validate(raw) for raw in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def record(path: Path, *new: Row) -> None:
    """Put rows into a file, in place of those about the same."""
    rows = {old.key: old for old in read_rows(path)} | {row.key: row for row in new}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    lines = json.dumps([r.dump() for r in rows.values()], indent=2, ensure_ascii=False)
    temporary.write_text(lines + "\n", encoding="utf-8")
    temporary.replace(path)


def render(rows: Iterable[Row]) -> str:
    """The text of RESULTS.md: a section for each data set, each kind of row in a table of its own.

    Args:
        rows: of all files, in the order that rows of one setting and algorithm keep.
    """
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.data.rpartition(" ")[0] or row.data, []).append(row)  # without the split
    return HEAD + "".join(_section(data, sections[data]) for data in sorted(sections, key=_section_rank)) + FIGURES


def _section_rank(data: str) -> tuple[bool, str]:
    return not data.startswith("omniglot"), data


def _section(data: str, rows: list[Row]) -> str:
    served = [row for row in rows if row.over_http is not None]
    errors = [row for row in rows if row.mse is not None or row.data == "sinusoids"]
    plain = [row for row in rows if row not in served and row not in errors]
    text = f"\n## {data}\n{ABOUT.get(data, '')}"
    text += _accuracies(plain) if plain else ""
    text += _errors(errors) + WAVES if errors else ""
    return text + (_served(served) if served else "")


def _accuracies(rows: list[Row]) -> str:
    lines = [
        "| way, shot | algorithm | norm | accuracy | published | episodes | seed | time | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = [entry.algorithm for entry in read_reproductions()]
    for row in sorted(rows, key=lambda row: (setting_rank(row.way, row.shot), _index(order, row.algorithm))):
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%} ± {row.ci95 or 0:.2%}"
        cells = [f"{row.way}w{row.shot}s", row.algorithm, row.norm, accuracy, _percent(row.published)]
        cells += [f"{row.episodes:,}", str(row.seed), _trained(row), f"`{row.command}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n"


def _errors(rows: list[Row]) -> str:
    steps = sorted({int(step) for row in rows for step in row.mse_by_steps or {}})
    lines = [
        ERRORS,
        "| shot | algorithm | error | published | "
        + "".join(f"{n} steps | " for n in steps)
        + "episodes | seed | time | command |",
        "|---|---|---|---|" + "---|" * (len(steps) + 4),
    ]
    order = [entry.algorithm for entry in read_reproductions()]
    for row in sorted(rows, key=lambda row: (row.shot, _index(order, row.algorithm))):
        error = "" if row.mse is None else f"{row.mse:.3f} ± {row.mse_ci95 or 0:.3f}"
        cells = [str(row.shot), row.algorithm, error, "" if row.published_mse is None else f"{row.published_mse:.2f}"]
        by_steps = row.mse_by_steps or {}
        missing = "diverged" if row.measured else ""
        cells += [f"{by_steps[str(n)]:.3f}" if str(n) in by_steps else missing for n in steps]
        cells += [f"{row.episodes:,}", str(row.seed), _trained(row), f"`{row.command}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _served(rows: list[Row]) -> str:
    told = (
        '\nThe shipped artifacts through a running server; "same label" compares its answers with those computed in '
        "process, query by query.\n"
    )
    lines = [
        told,
        "| way, shot | artifact | norm | accuracy | over HTTP | same label | episodes | seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%} ± {row.ci95 or 0:.2%}"
        cells = [f"{row.way}w{row.shot}s", row.algorithm, row.norm, accuracy, _percent(row.over_http)]
        cells += [_percent(row.same_label, digits=3), f"{row.episodes:,}", str(row.seed)]
        lines.append(f"| {' | '.join(cells)} |")
    machines = "; ".join(sorted({row.hardware for row in rows}))
    commands = "\n".join(dict.fromkeys(row.command for row in rows))
    return "\n".join([*lines, f"\nMeasured on {machines}, with:\n", f"```sh\n{commands}\n```\n"])


def _index(order: list[str], algorithm: str) -> int:
    return order.index(algorithm) if algorithm in order else len(order)


def _trained(row: Row) -> str:
    """How long it took, and where."""
    return "" if row.seconds is None else f"{row.seconds / 3600:.2f} h, {row.hardware}"


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def table_rows(folder: Path) -> list[Row]:
    """All rows of a folder of results, those of each recipe together, in the order of the files' names."""
    return [row for path in sorted(folder.glob("*.json")) for row in read_rows(path)]


def main(arguments: list[str]) -> int:
    """Write RESULTS.md: python -m kshot_training.results FOLDER RESULTS.md."""
    folder, target = map(Path, arguments)
    comparisons = render_comparisons(sorted((folder / "optimizers").glob("*.json")))
    languages = render_language(sorted((folder / "language").glob("*.json")))
    target.write_text(render(table_rows(folder)) + comparisons + languages, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
