"""The CUDA path against the CPU's: the same labels, the same training."""

from __future__ import annotations

import numpy as np
import pytest

from kshot.glyphs import draw_glyph
from kshot_models.load import load, meta_to_arrays
from kshot_server.engine.executors.base import AdaptedWeights, Queries
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.requests import Support
from kshot_training import build
from kshot_training.device_loop import device_loop
from kshot_training.outer_loop import outer_loop
from kshot_training.recipe_files import read_recipe
from kshot_training.sampling import Place, recipe_episodes

WAY, QUERIES, TASKS = 5, 15, 40


def glyphs(characters: range, hands: range) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([np.asarray(draw_glyph(c, h, size=28), np.uint8)[..., None] for c in characters for h in hands])


@pytest.mark.parametrize("name", ["omniglot", "omniglot-prototype"])
def test_labels_are_the_cpus(name: str) -> None:
    loaded = load(name)
    gpu, cpu = CudaExecutor("cuda"), CpuExecutor(threads=1)
    on_gpu, on_cpu = gpu.prepare(load(name, device="cuda")), cpu.prepare(loaded)
    tasks = [range(task * WAY, (task + 1) * WAY) for task in range(TASKS)]
    supports = [Support(glyphs(task, range(1)), np.arange(WAY), WAY) for task in tasks]
    images = [glyphs(task, range(1, 1 + QUERIES)) for task in tasks]
    for _ in range(3):  # as it is, captured, and played again
        answers = []
        for executor, served in ((gpu, on_gpu), (cpu, on_cpu)):
            weights = executor.adapt(served, supports)
            asked = [Queries(w, i) for w, i in zip(weights, images, strict=True) if isinstance(w, AdaptedWeights)]
            assert len(asked) == TASKS
            answers.append(np.stack([np.asarray(a) for a in executor.predict(served, asked)]))
        same = (answers[0].argmax(-1) == answers[1].argmax(-1)).mean()
        assert same >= 0.999


def test_training_is_the_cpus() -> None:
    seen = {}
    for device, loop in (("cpu", outer_loop), ("cuda", outer_loop), ("cuda", device_loop)):
        recipe = read_recipe("glyphs-maml", ["meta_gradient.batching=vmap", "episodes.tasks=3"])
        learner = build.build_learner(recipe.learner, recipe.input)
        state = build.build_state(build.fresh_meta(learner, seed=0, device=device), recipe.outer)
        steps = loop(
            state,
            learner,
            recipe_episodes(recipe, Place(device=device)).train,
            build.build_meta_gradient(recipe),
            steps=3,
            schedule=build.build_schedule(recipe.outer.schedule, steps=10),
            seed=0,
            **({"at_once": 2} if loop is device_loop else {}),
        )
        seen[device, loop] = [row.loss for row in steps], meta_to_arrays(state.meta)
    (losses, first), *others = seen.values()
    for other, meta in others:
        assert other == pytest.approx(losses, rel=1e-3)
        assert all(float((meta[k].cpu() - v).norm() / v.norm().clamp_min(1e-3)) < 1e-2 for k, v in first.items())
