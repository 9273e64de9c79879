"""Worker processes that do one job together: peers get one process for each core, with one thread each."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from types import TracebackType
from typing import Self

from kshot_bench.errors import WorkerFailed
from kshot_bench.jobs import Job

__all__ = ["Crew"]

_END_SECONDS = 10.0


class Crew:
    """As many processes as told. A context manager: none is left when it is.

    Args:
        size: processes.
        threads: of torch, in each.
    """

    def __init__(self, size: int, *, threads: int = 1) -> None:
        command = [sys.executable, "-m", "kshot_bench.worker", str(threads)]
        self._workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own interpreter
            for _ in range(size)
        ]

    def __len__(self) -> int:
        return len(self._workers)

    def perform(self, job: Job) -> list[float]:
        """Have every worker do the job at the same time; one value from each.

        Raises:
            WorkerFailed: one has ended, or what it said when it raised.
        """
        line = job.model_dump_json() + "\n"
        for worker in self._workers:
            assert worker.stdin is not None  # opened above
            try:
                worker.stdin.write(line)
                worker.stdin.flush()
            except BrokenPipeError:
                raise _ended(worker) from None
        return [_read(worker) for worker in self._workers]

    def rate(self, job: Job, count: int) -> float:
        """Items per second of all workers, each at a job of `count` items that answers its seconds."""
        return sum(count / seconds for seconds in self.perform(job))

    def close(self) -> None:
        """End all. May be called more than once."""
        for worker in self._workers:
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        for worker in self._workers:
            try:
                worker.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(worker: subprocess.Popen[str]) -> float:
    assert worker.stdout is not None  # opened by Crew
    line = worker.stdout.readline()
    if not line:
        raise _ended(worker)
    answer = json.loads(line)
    if "error" in answer:
        raise WorkerFailed(f"a worker of the benchmark raised:\n{answer['error']}")
    return float(answer["value"])


def _ended(worker: subprocess.Popen[str]) -> WorkerFailed:
    return WorkerFailed(f"a worker of the benchmark ended with exit code {worker.wait(_END_SECONDS)}; see above")
