"""Data-parallel training with real processes: the numbers of one process, and what happens when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from kshot_training.errors import RankLostError
from kshot_training.progress import bar_reporter
from kshot_training.ranks import Ranks
from kshot_training.recipe import Recipe
from kshot_training.recipe_files import read_recipe
from kshot_training.sampling import Place, recipe_episodes
from kshot_training.training_run import train

# Three steps of four meta-gradients in double precision; 3 tasks on 2 ranks are shares of 1 and 2.
WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from kshot_models.load import meta_to_arrays
from kshot_models.tree import meta_map
from kshot_training import build
from kshot_training.outer_loop import MetaBatch, outer_loop
from kshot_training.ranks import Ranks, data_parallel
from kshot_training.recipe import Recipe
from kshot_training.data import SinusoidSampler

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
ranks = None
if size > 1:
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), size), rank=rank, world_size=size)
    ranks = Ranks(rank, size, wished=lambda: rank == 1)
    ranks.agree(7)
sampler = SinusoidSampler(shot=6, queries=4, dtype=torch.float64)
ended = {}
for path in sorted(folder.glob("*.json")):
    recipe = Recipe.model_validate_json(path.read_text())
    learner = build.build_learner(recipe.learner, recipe.input)
    state = build.build_state(meta_map(lambda t: t.double(), build.fresh_meta(learner, seed=0)), recipe.outer)
    gradients = build.build_meta_gradient(recipe)
    if ranks is not None:
        gradients = data_parallel(gradients, ranks, skip=build.skip_draws(recipe))
    sample = lambda step: MetaBatch(sampler.sample(step, 3), 1)
    constant = build.build_schedule(recipe.outer.schedule, steps=3)
    for seen in outer_loop(state, learner, sample, gradients, steps=3, schedule=constant, seed=0):
        told = [seen.loss, seen.grad_norm, *seen.diagnostics.values()]
    ended |= {f"{path.stem}/{name}": tensor for name, tensor in meta_to_arrays(state.meta).items()}
    ended[f"{path.stem}/told"] = torch.tensor(told, dtype=torch.float64)
ended["stopping"] = torch.tensor(ranks is not None and ranks.stopping)
save_file(ended, folder / f"{rank}of{size}.safetensors")
if ranks is not None:
    dist.destroy_process_group()
"""

SINE = {
    "data": {"source": "sinusoids"},
    "input": {"height": 1, "width": 1, "channels": 1, "mean": [0.0], "std": [1.0]},
    "learner.type": "gradient_regression",
    "learner.norm": "none",
    "learner.network": {"type": "mlp", "hidden": [5], "activation": "tanh"},
    "learner.head": {"type": "linear", "way": 1},
}
GRADIENTS = {
    "maml": {"meta_gradient": {"type": "through_adaptation"}, "learner.inner": [{"type": "meta_sgd", "rate": 0.05}]},
    "imaml": {
        "meta_gradient": {"type": "imaml", "strength": 2.0},
        "learner.inner": [{"type": "proximal", "strength": 2.0}, {"type": "sgd", "rate": 0.1}],
    },
    "mamlpp": {  # whose running moments are counted by all ranks
        "meta_gradient": {"type": "through_adaptation", "multi_step_until": 2},
        "learner.inner": [{"type": "sgd", "rate": 0.05}],
        "learner.norm": "per_step",
        "learner.per_step_gains": True,
        "outer.optimizer": "sgd",  # a bias before a norm has no gradient but rounding, which Adam would make steps of
    },
    "reptile": {"meta_gradient": {"type": "reptile", "batch": 4}, "learner.inner": [{"type": "sgd", "rate": 0.05}]},
}


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(480)  # seconds alone; several processes that import torch on a busy machine are not
def test_two_ranks_are_one_in_double_precision(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, values in GRADIENTS.items():
        (tmp_path / f"{name}.json").write_text(make_recipe(**{**SINE, **values}).model_dump_json())
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), "2", str(tmp_path)], env=one_thread())
        for rank in (0, 1)
    ]
    monkeypatch.setattr(sys, "argv", ["worker", "0", "1", str(tmp_path)])
    exec(compile(WORKER, "worker", "exec"), {})  # a process alone is this one
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("0of1", "0of2", "1of2"))
    assert not alone.pop("stopping")
    assert first.pop("stopping")  # one rank was asked, both know
    assert second.pop("stopping")
    assert {name.partition("/")[0] for name in alone} == set(GRADIENTS)
    assert alone["mamlpp/stats/norm1.mean"].any()
    for name, tensor in alone.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)  # nothing drifts apart
        np.testing.assert_allclose(first[name], tensor, rtol=1e-12, atol=1e-13, err_msg=name)


def test_shares_are_all_tasks_once() -> None:
    for tasks in range(3, 9):
        shares = [Ranks(rank, 3).share(tasks) for rank in range(3)]
        assert [task for share in shares for task in share] == list(range(tasks))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(RankLostError, match="3 processes for 2 tasks an outer step: start at most 2"):
        Ranks(0, 3).share(2)


RECIPE = """
name = "shared"
seed = 3
checkpoint_every = 4
data = { source = "glyphs:classes=12,drawings=6" }
input = { height = 10, width = 10, channels = 1, mean = [0.9], std = [0.25] }
episodes = { way = 3, shot = 1, queries = 2, tasks = 2 }
meta_gradient = { type = "through_adaptation" }
artifact = { name = "shared", limits = { max_way = 5, max_support = 50 } }
validation = { every = 20, episodes = 4, queries = 2, settings = [{ way = 3, shot = 1 }] }

[learner]
type = "gradient"
network = { type = "conv4", channels = [4, 8] }
head = { type = "shared" }
inner = [{ type = "lslr", rate = 0.2, steps = 2 }]
steps = 2

[outer]
optimizer = "sgd"
learning_rate = 0.01
steps = 2000000
"""


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if any(int(path.name.partition("-")[2]) >= step for path in (folder / "checkpoints").glob("step-*")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of step {step} in {folder}")


@pytest.mark.timeout(480)
def test_a_killed_rank_ends_the_job_and_the_checkpoint_resumes(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kshot", "train"]
    where = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--threads", "1"]
    job = subprocess.Popen(
        [sys.executable, *launch, str(tmp_path / "recipe.toml"), *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=one_thread(),
    )
    try:
        wait_for_step(tmp_path / "run", 8)
        children = psutil.Process(job.pid).children(recursive=True)
        follower = next(child for child in children if child.environ().get("RANK") == "1")
        follower.send_signal(signal.SIGKILL)
        out, error = job.communicate(timeout=200)
    finally:
        job.kill()
    assert job.returncode != 0
    assert out == ""
    told = [line for line in error.splitlines() if line.startswith("kshot train: ")]
    assert len(told) == 1
    assert "another process of the job is gone" in told[0]
    assert "Start it again with --resume" in told[0]
    reached = max(int(path.name.partition("-")[2]) for path in (tmp_path / "run" / "checkpoints").glob("step-*"))

    recipe = read_recipe(str(tmp_path / "recipe.toml"))
    again = train(
        recipe,
        tmp_path / "run",
        recipe_episodes(recipe, Place(cache=tmp_path / "cache")),
        reporter=lambda done: bar_reporter(done=done, steps=recipe.outer.steps, tasks=2),
        stop=lambda: True,
        resume=True,
    )
    assert again.step == reached + 1
    assert again.notes == (f"resumed after outer step {reached}",)
