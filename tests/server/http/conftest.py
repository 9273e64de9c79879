"""What the HTTP tests share: small untrained models on disk, images, bodies, and the application in this process."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from kshot_models.artifact import save_artifact
from kshot_models.load import meta_to_arrays
from kshot_models.manifest import Calibration, Component, InputSpec, LearnerSpec, Limits, Manifest
from kshot_models.registry import build_learner
from kshot_server.auth import ApiKeys
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Outcome
from kshot_server.local import open_application
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.settings import Settings

from .house import Engines, House
from .listening import PROGRAM

SIZE = 12


def write_model(
    root: Path,
    name: str,
    version: str = "1",
    *,
    rate: float = 0.3,
    steps: int = 2,
    norm: str = "support",
    **fields: Any,
) -> Manifest:
    spec = LearnerSpec(
        type="gradient",
        network=Component(type="conv4", channels=(8, 8)),
        head=Component(type="shared"),
        inner=(Component(type="sgd", rate=rate),),
        steps=steps,
        norm=norm,
    )
    image = InputSpec(height=SIZE, width=SIZE, channels=1, mean=(0.5,), std=(0.5,))
    manifest = Manifest(
        name=name,
        version=version,
        description=f"{name}, untrained",
        learner=spec,
        input=image,
        **({"limits": Limits(max_way=5, max_support=30, max_queries=50)} | fields),
    )
    meta = build_learner(spec, image).init(torch.Generator().manual_seed(3))
    arrays = {key: value.numpy() for key, value in meta_to_arrays(meta).items()}
    return save_artifact(root / name / version, manifest, arrays)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: `tiny` in versions 2 and 10, and `wild`, whose inner loop leaves the numbers at once."""
    root = tmp_path_factory.mktemp("models")
    for version in ("2", "10"):
        write_model(root, "tiny", version, calibration=Calibration(temperature=2.0))
    write_model(root, "wild", rate=1e30)
    return root


@pytest.fixture(scope="session")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one slow model, whose inner loop leaves the numbers on noise of full contrast only."""
    root = tmp_path_factory.mktemp("brittle")
    write_model(root, "brittle", rate=2.0, steps=10, norm="none")
    return root


def pixels(seed: int, count: int = 1, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)[0]).save(file, "PNG")
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="session")
def image() -> Callable[[int], bytes]:
    """Seed -> a PNG of random pixels."""
    return png


@dataclasses.dataclass(frozen=True)
class Bodies:
    """Bodies of the same support set, `shot` images of each label, in all three content types."""

    labels: Sequence[str] = ("ant", "bee", "cat")
    shot: int = 2
    seed: int = 0
    queries: int = 0

    @property
    def _seeds(self) -> list[tuple[str, int]]:
        return [(label, self.seed * 1000 + i * 50 + j) for i, label in enumerate(self.labels) for j in range(self.shot)]

    @property
    def _query_seeds(self) -> list[int]:
        return [self.seed * 1000 + 900 + i for i in range(self.queries)]

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "support": [{"label": label, "image": in_base64(png(seed))} for label, seed in self._seeds]
        }
        if self.queries:
            body["queries"] = [{"image": in_base64(png(seed))} for seed in self._query_seeds]
        return body

    @property
    def query_json(self) -> dict[str, Any]:
        return {"queries": self.json["queries"]}

    @property
    def files(self) -> list[tuple[str, tuple[str, bytes, str]]]:
        files = [(f"support[{label}]", ("a.png", png(seed), "image/png")) for label, seed in self._seeds]
        return files + [("queries", ("q.png", png(seed), "image/png")) for seed in self._query_seeds]

    @property
    def tensors(self) -> bytes:
        support = np.concatenate([pixels(seed) for _, seed in self._seeds])
        targets = np.repeat(np.arange(len(self.labels)), self.shot)
        tensors: dict[str, NDArray[Any]] = {"support": support, "targets": targets}
        if self.queries:
            tensors["queries"] = np.concatenate([pixels(seed) for seed in self._query_seeds])
        return save(tensors, metadata={"labels": json.dumps(list(self.labels))})


@pytest.fixture(scope="session")
def bodies() -> type[Bodies]:
    """Makes bodies: `bodies(labels=("a", "b"), shot=1, seed=3, queries=2).json`."""
    return Bodies


@pytest.fixture
def classes(bodies: Callable[..., Any]) -> list[dict[str, str]]:
    """Support of two classes, to which a test adds its bad part."""
    support: list[dict[str, str]] = bodies(labels=("ant", "bee"), shot=1).json["support"]
    return support


Application = Callable[..., httpx.Client]


@pytest.fixture
def application(models: Path) -> Iterator[Application]:
    """Opens the application in this process: `application(keys={...}, max_inflight=1)` answers a client of it."""
    opened: list[httpx.Client] = []

    def open_one(
        *, folder: Path = models, keys: dict[str, str] | None = None, store: SessionStore | None = None, **settings: Any
    ) -> httpx.Client:
        transport = open_application(
            Settings(**settings), ModelRepository([folder]), keys=ApiKeys(keys or {}), store=store
        )
        opened.append(httpx.Client(transport=transport, base_url="http://local", timeout=60))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx.Client]:
    """One application in this process, for all tests of a file that change nothing of it."""
    transport = open_application(Settings(), ModelRepository([models]))
    with httpx.Client(transport=transport, base_url="http://local", timeout=60) as opened:
        yield opened


@dataclasses.dataclass(frozen=True)
class Family:
    """The processes of a running server, as they were when this was made."""

    main: psutil.Process
    template: psutil.Process
    engines: list[psutil.Process]
    api: list[psutil.Process]
    manager: psutil.Process

    @property
    def all(self) -> list[psutil.Process]:
        return [self.main, self.template, *self.engines, *self.api, self.manager]

    def wait_until_gone(self, seconds: float) -> None:
        """Fail if one of them still runs after so long."""
        _, alive = psutil.wait_procs([p for p in self.all if p.is_running()], timeout=seconds)
        left = [
            p for p in alive if p.status() != psutil.STATUS_ZOMBIE
        ]  # the tests' process reaps main, init the others
        assert not left, f"still running: {left}"


@pytest.fixture(scope="session")
def family() -> Callable[[Any], Family]:
    """Tells the processes of a running server apart: the template and its engines, the manager, API processes."""

    def find(server: Any) -> Family:
        main = psutil.Process(server.process.pid)
        forked, templates = [], []
        for child in main.children():
            command = " ".join(child.cmdline())
            if "multiprocessing.forkserver" in command:
                templates.append(child)
            elif "resource_tracker" not in command:
                forked.append(child)
        (template,) = templates
        # The manager is forked first, before any engine is started.
        manager, *api = sorted(forked, key=lambda child: child.pid)
        return Family(main, template, template.children(), api, manager)

    return find


@pytest.fixture
def house(models: Path) -> Iterator[Callable[..., House]]:
    """Outcomes of its engines, settings -> the application around them."""
    built: list[House] = []

    def build(*outcomes: Outcome, **settings: Any) -> House:
        built.append(House(models, Engines(*outcomes), **settings))
        return built[-1]

    yield build
    for one in built:
        one.mounted.decoder.close()


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="kshot-test-") as folder:
        yield Path(folder)


@pytest.fixture
def processes(sockets: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that listen as an engine's does."""
    started: list[subprocess.Popen[str]] = []

    def start(index: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(sockets), str(index)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
