"""kshot's side of the comparisons: tasks go through the engine that `kshot serve` runs, as requests do."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kshot_bench.errors import BenchError
from kshot_bench.tasks import Task, draw_tasks, write_artifact
from kshot_bench.work import Work
from kshot_models.allocator import keep_freed_memory
from kshot_models.manifest import LearnerSpec
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import Executor
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Adapted, AdaptRequest, Classified, ClassifyRequest, Outcome, Support

__all__ = ["Served", "classified"]

_DIFFERENT_TASKS = 32


class Served:
    """An engine with the artifact of a work item. A context manager.

    Every task is a new session, so that nothing is found in the cache that was not put there on purpose.

    Args:
        work: sizes.
        spec: the learner.
        device: the engine's.
        threads: tasks side by side on a CPU; 0 leaves it to the engine.
        cache_bytes: for adapted weights.
        runtime: `torch`, or `onnxruntime` with the artifact's graphs.
        kernels: whether kshot's own kernels may take the place of these.
    """

    def __init__(
        self,
        work: Work,
        spec: LearnerSpec,
        *,
        device: str = "cpu",
        threads: int = 0,
        cache_bytes: int = 1 << 28,
        runtime: str = "torch",
        kernels: bool = True,
    ) -> None:
        keep_freed_memory()  # as an engine's process does; peers that run in this process have it too
        self.work = work
        self._folder = tempfile.TemporaryDirectory(prefix="kshot-bench-")
        root, graphs = Path(self._folder.name, "plain"), runtime == "onnxruntime"
        write_artifact(root, work, spec)
        models = ModelRepository([_with_graphs(root) if graphs else root], need_graphs=graphs)
        (entry,) = models.list()
        self.model = entry.digest
        self.tasks = draw_tasks(work, _DIFFERENT_TASKS)
        self._sessions = itertools.count()
        chosen = device == "cpu" and (threads > 0 or not kernels)
        executor = _executor(threads, runtime, kernels=kernels) if chosen else None
        self.engine = Engine(
            models, device=device, runtime=runtime, executor=executor, max_pending=1 << 20, cache_bytes=cache_bytes
        )
        if failed := self.engine.warm_up():
            self.close()
            raise BenchError(f"the engine cannot serve the work item: {failed}")

    def answer(self, task: Task) -> NDArray[np.float32]:
        """Adapt and classify in one request; probabilities (queries, way)."""
        return classified(self._submit(task).result()).probabilities

    def one_by_one(self, count: int) -> list[float]:
        """Seconds that each of `count` tasks takes when it is alone."""
        seconds = []
        for task in self._some(count):
            begun = time.perf_counter()
            self.answer(task)
            seconds.append(time.perf_counter() - begun)
        return seconds

    def together(self, count: int) -> float:
        """Seconds until `count` tasks that are submitted together are all answered."""
        begun = time.perf_counter()
        futures = [self._submit(task) for task in self._some(count)]
        for future in futures:
            classified(future.result())
        return time.perf_counter() - begun

    def adapt_sessions(self, count: int) -> list[str]:
        """Adapt `count` sessions and leave them in the cache; their ids."""
        ids = [self._session() for _ in range(count)]
        requests = [
            AdaptRequest(self.model, session, _support(task), math.inf)
            for session, task in zip(ids, self._some(count), strict=True)
        ]
        for outcome in [future.result() for future in [self.engine.submit(request) for request in requests]]:
            if not isinstance(outcome, Adapted):
                raise BenchError(f"the engine did not adapt: {outcome}")
        return ids

    def classify(self, session: str, queries: NDArray[np.uint8]) -> Future[Outcome]:
        """Ask a session that is in the cache."""
        return self.engine.submit(ClassifyRequest(self.model, session, queries, None, math.inf))

    def close(self) -> None:
        """Stop the engine and remove the artifact."""
        self.engine.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, task: Task) -> Future[Outcome]:
        return self.engine.submit(ClassifyRequest(self.model, self._session(), task.queries, _support(task), math.inf))

    def _session(self) -> str:
        return f"bench-{next(self._sessions)}"

    def _some(self, count: int) -> Sequence[Task]:
        return [self.tasks[number % len(self.tasks)] for number in range(count)]


def classified(outcome: Outcome) -> Classified:
    """An outcome that has to be an answer.

    Raises:
        BenchError: it is not.
    """
    if not isinstance(outcome, Classified):
        raise BenchError(f"the engine did not answer: {outcome}")
    return outcome


def _support(task: Task) -> Support:
    return Support(task.support, task.targets, int(task.targets.max()) + 1)


def _with_graphs(root: Path) -> Path:
    """A repository beside `root` with the same artifact and its ONNX graphs."""
    from kshot_training.onnx_graphs.writing import export_onnx  # noqa: PLC0415 - brings in onnx

    (folder,) = root.glob("*/*")
    return export_onnx(folder, root.with_name("graphs")).parents[1]


def _executor(threads: int, runtime: str, *, kernels: bool) -> Executor:
    from kshot_server.engine.executors.cpu import CpuExecutor  # noqa: PLC0415 - brings in torch
    from kshot_server.engine.executors.onnx_runtime import OnnxExecutor  # noqa: PLC0415 - brings in onnxruntime

    if runtime == "onnxruntime":
        return OnnxExecutor("cpu", threads=threads, kernels=kernels)
    return CpuExecutor(threads=threads)
