"""`kshot serve`: its messages, its exit codes, what it imports and what it logs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from kshot_server.commands.serve import _own_folder

from .watching import until


def kshot(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSHOT_")} | variables
    command = [sys.executable, "-m", "kshot", "serve", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_wrong_settings_are_one_line_and_2(models: Path) -> None:
    for arguments, variables, message in (
        (("--port", "1"), {}, "--port: expected 1024 to 65535, got 1"),
        ((), {"KSHOT_MAX_INFLIGT": "5"}, "did you mean KSHOT_MAX_INFLIGHT?"),
        (("--store", "ftp://x"), {}, "expected a store of memory"),
        (("--device", "tpu"), {}, "--device: expected"),
        (("--api-keys", "/no/such/file"), {}, "--api-keys /no/such/file: cannot be read"),
        (("--host", "0.0.0.0"), {}, "needs --api-keys"),
    ):
        done = kshot("--models", str(models), *arguments, **variables)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("kshot serve: ")
        assert message in done.stderr


def test_no_model_is_one_line_and_1(tmp_path: Path) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "manifest.json").write_text("{")
    done = kshot("--models", str(tmp_path), "--log-level", "error")
    assert done.returncode == 1
    assert "no model to serve in" in done.stderr
    assert "is no JSON" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_line_and_1(models: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = kshot("--models", str(models), "--port", str(other.getsockname()[1]), "--log-level", "error")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "cannot be bound: Address already in use; choose another with --port" in last
    assert "Traceback" not in done.stderr


def test_an_engine_that_cannot_start_is_1_and_leaves_nothing(models: Path, free_port: Callable[[], int]) -> None:
    done = kshot("--models", str(models), "--device", "cuda:99", "--port", str(free_port()))
    assert done.returncode == 1
    assert "no engine could start" in done.stderr.splitlines()[-1]


def test_folders_of_killed_servers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ("kshot-serve-999999999-x", f"kshot-metrics-{os.getpid()}-y", "kshot-metrics-z", "other")
    for name in names:
        (tmp_path / name).mkdir()
    made = _own_folder()
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], Path(made).name}


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import argparse, sys\n"
        "from kshot_server.commands import serve\n"
        "serve.configure(argparse.ArgumentParser())\n"
        "print(sorted({'torch', 'fastapi', 'litserve', 'numpy', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_local_mode_imports_no_litserve() -> None:
    program = "import sys, kshot_server.local\nprint('litserve' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_engine_imports_no_web_framework() -> None:
    program = (
        "import sys, kshot_server.worker, kshot_server.metrics\n"
        "print(sorted({'litserve', 'fastapi', 'starlette', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_api_process_imports_no_torch() -> None:
    program = "import sys, kshot_server.app\nprint('torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_logs_are_json_without_bodies_and_keys(
    serve: Any, models: Path, bodies: Callable[..., Any], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:0123456789abcdef\n")
    with serve("--models", str(models), "--api-keys", str(keys), "--log-format", "json") as server:
        headers = {"Authorization": "Bearer 0123456789abcdef", "X-Request-Id": "findme"}
        body = bodies(labels=("secret label", "b")).json
        assert httpx.post(f"{server.url}/v1/models/tiny/sessions", json=body, headers=headers, timeout=60).is_success
        httpx.post(f"{server.url}/v1/models/tiny/sessions", content=b"secret", headers={"X-API-Key": "secret"})
        assert server.stop() == 0
        text = server.log.read_text()
    first, *lines = text.splitlines()
    assert first.startswith("kshot serves tiny@10, wild@1 at http://127.0.0.1:")
    records = [json.loads(line) for line in lines]
    (taught,) = [record for record in records if record.get("request_id") == "findme"]
    assert taught["message"] == "POST /v1/models/{model}/sessions 201"
    assert taught["tenant"] == "alice"
    assert taught["adapt_ms"] > 0
    (refused,) = [record for record in records if record.get("problem") == "unauthorized"]
    assert refused["level"] == "info"
    assert "secret" not in text
    assert "0123456789abcdef" not in text
    assert not [record for record in records if record["level"] in {"warning", "error"}]


@pytest.mark.parametrize("servers", ["2"])
def test_several_api_processes_share_a_store(
    serve: Any, models: Path, bodies: Callable[..., Any], tmp_path: Path, servers: str
) -> None:
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    with serve("--models", str(models), "--api-servers", servers, "--store", store, "--log-level", "error") as server:
        body = bodies(queries=1)
        with httpx.Client(timeout=60) as client:
            made = client.post(f"{server.url}/v1/models/tiny/sessions", json={"support": body.json["support"]}).json()
        answers = []
        for _ in range(12):  # a connection each, so that both processes get some
            path = f"{server.url}/v1/sessions/{made['id']}/classify"
            answers.append(httpx.post(path, json=body.query_json, timeout=60))
        assert {answer.status_code for answer in answers} == {200}
        counted = 'route="/v1/sessions/{session}/classify",status="200"} 12.0'
        # What the other process counted is there a quarter of a second later.
        until(lambda: counted in httpx.get(f"{server.url}/metrics").text, seconds=5)
        assert server.stop() == 0
