"""`kshot train` as a real process: killed at any moment or asked to stop, it goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot._cli import main
from kshot_models.artifact import load_artifact

Command = Callable[..., "subprocess.Popen[str]"]

RECIPE = """
name = "killed"
seed = 3
checkpoint_every = 4
data = { source = "glyphs:classes=12,drawings=6" }
input = { height = 10, width = 10, channels = 1, mean = [0.9], std = [0.25] }
episodes = { way = 3, shot = 1, queries = 2, tasks = 2 }
meta_gradient = { type = "through_adaptation" }

[learner]
type = "gradient"
network = { type = "conv4", channels = [4, 8] }
head = { type = "shared" }
inner = [{ type = "lslr", rate = 0.2, steps = 2 }]
steps = 2

[outer]
optimizer = "adam"
learning_rate = 0.01
steps = 60
average_decay = 0.9
schedule = { type = "cosine" }

[validation]
every = 10
episodes = 4
queries = 2
settings = [{ way = 3, shot = 1 }]

[artifact]
name = "killed"
limits = { max_way = 5, max_support = 50 }
"""


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Of `kshot train` into a folder: `arguments("run", "--resume")`."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    where = ["--cache", str(tmp_path / "cache"), "--threads", "2"]
    return lambda out, *more: ["train", str(recipe), *more, "--out", str(tmp_path / out), *where]


@pytest.fixture
def command(arguments: Callable[..., list[str]]) -> Command:
    """Starts it as a process."""

    def start(out: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "kshot", *arguments(out, *more)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    return out, error


def wait_for_checkpoint(folder: Path, *, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(int(path.name.partition("-")[2]) >= step for path in (folder / "checkpoints").glob("step-*")):
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint of step {step} in {folder}")


@pytest.mark.timeout(480)  # seconds alone; processes that import torch on a busy machine are not
def test_kill_resume_same_bits(command: Command, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    assert main(arguments("straight")) == 0  # in this process

    killed = command("killed")
    wait_for_checkpoint(tmp_path / "killed", step=8)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL

    asked = command("killed", "--resume")  # and once more, by a signal that asks
    wait_for_checkpoint(tmp_path / "killed", step=32)
    asked.send_signal(signal.SIGTERM)
    _, error = asked.communicate(timeout=60)
    assert asked.returncode == 130, error
    assert "resumed after outer step" in error
    assert "--resume goes on" in error
    assert not (tmp_path / "killed" / "killed").exists()

    finish(command("killed", "--resume"))
    straight, resumed = (load_artifact(tmp_path / name / "killed" / "1") for name in ("straight", "killed"))
    assert straight.arrays.keys() == resumed.arrays.keys()
    for name, array in straight.arrays.items():
        assert array.tobytes() == resumed.arrays[name].tobytes(), name
    last = "checkpoints/step-000000060/state.safetensors"
    assert (tmp_path / "straight" / last).read_bytes() == (tmp_path / "killed" / last).read_bytes()


def test_wrong_requests_are_told_in_one_message(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("out", "outer.learning_rte=1", "outer.steps=many")) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "outer.learning_rte: unknown key; did you mean 'learning_rate'?" in error
    assert "outer.steps: Input should be a valid integer" in error
