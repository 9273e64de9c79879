"""The memory of an engine's process stays where it is while sessions of several sizes come and go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from kshot_models.manifest import Component, InputSpec, LearnerSpec

# A process of its own, as the settings of an allocator are a process's. Three sizes in turn, sixty sessions kept: with
# their weights among the activations, the heap grew by 175 MiB; with pages of their own by 22, of which they hold 10.
PROGRAM = """
import sys
from collections import deque
from pathlib import Path
import numpy as np, psutil
from kshot_models.allocator import keep_freed_memory
assert keep_freed_memory()
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Support

models, executor = ModelRepository([Path(sys.argv[1])]), CpuExecutor(threads=1)
executor.enter_lane(lambda works: None)
model = executor.open(models, models.find("large").digest)
random, process, kept = np.random.default_rng(0), psutil.Process(), deque(maxlen=60)
for i in range(180):
    way, shot = ((5, 1), (5, 4), (20, 2))[i % 3]
    images = random.integers(0, 256, (way * shot, 28, 28, 1), dtype=np.uint8)
    kept.extend(executor.adapt(model, [Support(images, np.repeat(np.arange(way), shot), way)]))
    if i == 2:
        before = process.memory_info().rss
print((process.memory_info().rss - before) / 2**20, sum(weights.size_bytes for weights in kept) / 2**20)
"""


def test_sessions_of_several_sizes_do_not_make_the_process_grow(tmp_path: Path, write_model: Any) -> None:
    spec = LearnerSpec(
        type="gradient",
        network=Component(type="conv4", channels=(48, 48)),
        head=Component(type="shared"),
        inner=(Component(type="sgd", rate=0.1),),
        steps=1,
    )
    image = InputSpec(height=28, width=28, channels=1, mean=(0.5,), std=(0.5,))
    write_model(tmp_path, "large", spec=spec, input=image)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    grown, kept = map(float, done.stdout.split())
    assert 5 < kept < 20
    assert grown < 80
