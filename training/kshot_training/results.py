"""Measured accuracies as committed JSON, and the table that is made of them.

kshot evaluate --record training/results/RECIPE.json ──> rows ──render──> RESULTS.md      (`make results`)

A row that has not been measured yet keeps its place with accuracy null and the command that would measure it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Row", "hardware", "read_rows", "record", "render"]

Share = Annotated[float, Field(ge=0, le=1)]

HEAD = """# Results

Accuracy on classes that were never trained on: the mean over test episodes of one checkpoint, 15 queries per class
unless the command says otherwise, with half the width of the 95% interval. Norms: `support` uses the moments of the
support set, so that an answer depends on no other query; `transductive` those of the query batch, as many papers do.
"Same label" compares the answers of a running server with those computed in process, query by query.

Written by `make results` from `training/results/*.json`; do not edit.
"""


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

    @property
    def key(self) -> tuple[object, ...]:
        """What a row is about: a new measurement of the same replaces the old one."""
        return (self.algorithm, self.data, self.norm, self.way, self.shot, self.seed)


def hardware() -> str:
    """This machine: its processor and how many cores this process may use."""
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


def record(path: Path, row: Row) -> None:
    """Put a row into a file, in place of the one about the same."""
    rows = {old.key: old for old in read_rows(path)} | {row.key: row}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    lines = json.dumps([r.model_dump() for r in rows.values()], indent=2, ensure_ascii=False)
    temporary.write_text(lines + "\n", encoding="utf-8")
    temporary.replace(path)


def render(files: Iterable[Path]) -> str:
    """The text of RESULTS.md.

    Args:
        files: of rows, in the order of the sections.
    """
    return HEAD + "".join(_section(path.stem, read_rows(path)) for path in files)


def _section(title: str, rows: list[Row]) -> str:
    lines = [
        f"\n## {title}\n",
        "| data | episodes | norm | way, shot | accuracy | published | over HTTP | same label | seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = "not measured" if row.accuracy is None else f"{row.accuracy:.2%} ± {row.ci95 or 0:.2%}"
        cells = [row.data, f"{row.episodes:,}", row.norm, f"{row.way}w{row.shot}s", accuracy]
        cells += [_percent(row.published), _percent(row.over_http), _percent(row.same_label, digits=3), str(row.seed)]
        lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({row.hardware for row in rows})
    commands = "\n".join(dict.fromkeys(row.command for row in rows))
    return "\n".join([*lines, f"\nMeasured on {'; '.join(machines)}, with:\n", f"```sh\n{commands}\n```\n"])


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def main(arguments: list[str]) -> int:
    """Write RESULTS.md: python -m kshot_training.results FOLDER RESULTS.md."""
    folder, target = map(Path, arguments)
    target.write_text(render(sorted(folder.glob("*.json"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
