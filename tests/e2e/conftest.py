"""Real redis-server and nginx processes, and characters to teach."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from kshot.glyphs import draw_glyph

DEPLOY = Path(__file__).resolve().parents[2] / "server" / "deploy"
START_SECONDS = 10.0


def _program(name: str) -> str:
    """The path of a system program; nginx lies in a folder that is not on everybody's PATH."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed; `make setup` installs it as root on Debian")
    return found


def _wait(ready: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.05)
    pytest.fail(f"{what} was not ready after {START_SECONDS:g} s:\n{log.read_text()}")


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    """The URL of a real redis-server that starts empty and keeps nothing on disk."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    log = folder / "log.txt"
    command = [_program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    ping = [_program("redis-cli"), "-p", str(port), "ping"]
    with _process(command, log):
        _wait(lambda: subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n", "redis-server", log)
        yield f"redis://127.0.0.1:{port}/0"


Balance = Callable[[Sequence[str]], contextlib.AbstractContextManager[str]]


@pytest.fixture
def balance(tmp_path: Path, free_port: Callable[[], int]) -> Balance:
    """A context manager: `with balance([url, ...]) as url:` runs nginx, as shipped, before these replicas.

    The configuration is as it ships; only what belongs to the machine is filled in: the port, the folder for temporary
    files, and in replicas.conf the addresses.
    """

    @contextlib.contextmanager
    def running(replicas: Sequence[str]) -> Iterator[str]:
        program, port, log = _program("nginx"), free_port(), tmp_path / "nginx.log"
        text = (DEPLOY / "nginx.conf").read_text()
        for shipped, here in (
            ("listen 8080;", f"listen 127.0.0.1:{port};"),
            (" /tmp/nginx", f" {tmp_path}/nginx"),
            ("worker_processes auto;", "worker_processes 1; daemon off;"),
        ):
            assert shipped in text
            text = text.replace(shipped, here)
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(text)
        lines = [f"server {replica.removeprefix('http://')} max_fails=0;\n" for replica in replicas]
        (tmp_path / "replicas.conf").write_text("".join(lines))
        with _process([program, "-p", str(tmp_path), "-c", str(configuration), "-e", str(log)], log):
            _wait(lambda: _answers(f"http://127.0.0.1:{port}/livez"), "nginx", log)
            yield f"http://127.0.0.1:{port}"

    return running


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code > 0
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Lesson:
    """What a session is taught and asked, as bodies of JSON requests."""

    support: dict[str, Any]
    queries: dict[str, Any]


def _image(glyph: int, drawing: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(draw_glyph(glyph, drawing)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def lesson() -> Callable[..., Lesson]:
    """A function of label -> glyph: `shot` drawings of each are the support, `queries` others are asked."""

    def make(glyphs: Mapping[str, int], *, shot: int = 1, queries: int = 3) -> Lesson:
        support = [{"label": label, "image": _image(glyph, i)} for label, glyph in glyphs.items() for i in range(shot)]
        asked = [{"image": _image(glyph, 100 + i)} for glyph in glyphs.values() for i in range(queries)]
        return Lesson({"support": support}, {"queries": asked})

    return make
