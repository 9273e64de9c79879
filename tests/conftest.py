"""What tests of several packages share: free ports, a real server in a process of its own, the Omniglot images."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import hypothesis
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from .ports import free_port

# Tests are small: on a machine with few cores, torch's threads wait for one another far longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 30.0

# How long one example takes is the machine's affair; pytest-timeout bounds the whole test.
hypothesis.settings.register_profile("kshot", deadline=None)
hypothesis.settings.load_profile("kshot")


@pytest.fixture(scope="session", name="free_port")
def _free_port() -> Callable[[], int]:
    """A function that answers a port of the loopback interface that nobody listens on."""
    return free_port


@dataclass(frozen=True)
class RunningServer:
    """A `kshot serve` that answers /readyz with 200."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """SIGKILL to the main process, as `kill -9 PID` does; the others have to notice it themselves."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def listens(self) -> bool:
        """Whether anybody still takes connections on the server's port."""
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{self.url}/livez", timeout=2)
            return True
        return False

    def stop(self) -> int:
        """SIGTERM to the main process, as a supervisor does; answers its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


Serve = Callable[..., contextlib.AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """A context manager around a real server: `with serve("--store", "memory") as server: ...`.

    Its arguments are flags of `kshot serve`; host, port and log level are given.
    Nothing of it is left running afterwards.
    """

    @contextlib.contextmanager
    def running(*flags: str) -> Iterator[RunningServer]:
        port = free_port()
        log = tmp_path_factory.mktemp("serve") / "log.txt"
        command = [sys.executable, "-m", "kshot", "serve", "--port", str(port), *flags]
        # A KSHOT_* variable of whoever runs the tests would be a flag that no test asked for.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KSHOT_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        server = RunningServer(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            # The whole process group: a test that failed must not leave a part of its server behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)

    return running


def _wait_until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            pytest.fail(
                f"kshot serve ended with {server.process.returncode} before it was ready:\n{server.log.read_text()}"
            )
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"kshot serve was not ready after {START_SECONDS:g} s:\n{server.log.read_text()}")


MakeEncoder = Callable[..., bytes]


@pytest.fixture(scope="session")
def make_encoder() -> MakeEncoder:
    """A function that makes a small encoder.onnx: a convolution, ReLU, and a product with a random matrix.

    `images`, `height`, `width` may be open (a name in place of a number); with `tokens` the output is
    (n, tokens, features); with `second_output` there is one more, and `weights` scales the convolution's.
    """

    def make(
        *,
        images: int | str = "n",
        channels: int = 1,
        height: int | str = 12,
        width: int | str = 12,
        features: int = 6,
        tokens: int = 0,
        second_output: bool = False,
        weights: float = 1.0,
        seed: int = 0,
    ) -> bytes:
        random = np.random.default_rng(seed)
        filters = weights * random.normal(size=(3, channels, 3, 3)).astype(np.float32)
        # A pool to 2 x 2 would need fixed sizes; a mean over space does not.
        matrix = random.normal(size=(3, max(tokens, 1) * features)).astype(np.float32)
        shape = np.array([0, tokens, features] if tokens else [0, features], np.int64)
        nodes = [
            helper.make_node("Conv", ["image", "filters"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["conv"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["product"]),
            helper.make_node("Reshape", ["product", "shape"], ["embedding"]),
        ]
        sizes = [images, tokens, features] if tokens else [images, features]
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, sizes)]
        if second_output:
            outputs.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [images, 3]))
        constants = [
            numpy_helper.from_array(values, name)
            for name, values in (("filters", filters), ("matrix", matrix), ("shape", shape))
        ]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [images, channels, height, width])
        graph = helper.make_graph(nodes, "encoder", [image], outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return bytes(model.SerializeToString(deterministic=True))

    return make


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder with the Omniglot images, zipped or unpacked; without them the test is skipped."""
    root = Path(os.environ.get("KSHOT_OMNIGLOT") or REPOSITORY.parent / "shared" / "data" / "omniglot")
    for half in ("images_background", "images_evaluation"):
        if not (root / half).is_dir() and not (root / f"{half}.zip").is_file():
            pytest.skip(
                f"no Omniglot images: {root} holds neither {half}/ nor {half}.zip; name their folder in KSHOT_OMNIGLOT"
            )
    return root
