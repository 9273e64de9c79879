"""`kshot demo` as a whole, and that it leaves nothing running, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from kshot._cli import main
from kshot._demo.server import LocalServer, ServerFailedError

SMALL = ["--way", "2", "--shot", "1", "--queries", "2"]

# Stands in for `kshot serve`: the test server in a process of its own, with a child that is hard to end.
SERVE = f"""
import importlib.util, os, signal, subprocess, sys, threading
HELP, EXTRA = "serve", ""
def configure(parser):
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
def run(arguments):
    spec = importlib.util.spec_from_file_location("double", {str(Path(__file__).with_name("contract_server.py"))!r})
    sys.modules["double"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn])
    double = module.Double()
    double.max_queries = 1000
    limit = int(os.environ.get("DIES_AFTER", 10**9))
    answer = double.answer
    def counting(request):
        if len(double.received) >= limit:
            sys.stderr.write("a last word\\n")
            sys.stderr.flush()
            os._exit(7)
        if "FAILS" in os.environ and request.path.startswith("/v1/"):
            return module.Answer(500, module.problem(500))
        return answer(request)
    double.answer = counting
    assert not [name for name in os.environ if name.startswith("KSHOT_")]
    assert arguments.host == "127.0.0.1"
    with module.listening(double, arguments.port) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        with open(os.environ["PIDS"], "w") as file:
            file.write(f"{{os.getpid()}} {{child.pid}}")
        server.serve_forever(poll_interval=0.01)
    return 0
"""


@pytest.fixture
def pids(
    install_entry_point: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[int]]:
    """`kshot serve` is the test server; answers a function that tells its process ids."""
    folder = install_entry_point("kshot.commands", "serve = serve_double", serve_double=SERVE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("KSHOT_PORT", "1")  # must not reach the server
    return lambda: [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def gone(pids: list[int]) -> bool:
    """Whether no process of these is left, after at most a few seconds (a killed orphan waits for init to reap it)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not left:
            return len(pids) == 2
        time.sleep(0.02)
    return False


def test_with_a_server_of_its_own(pids: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main(["demo", "--episodes", "3", "--out", str(sheet), *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "model   omniglot@2 (gradient learner, 5 inner steps)" in shown
    assert "data    invented characters, which no training has seen" in shown
    assert "tasks   2-way 1-shot tasks, 2 queries a class" in shown
    assert shown.splitlines()[-1] == f"the first task, drawn: {sheet}"
    assert [line.split()[0] for line in shown.splitlines() if "±" in line] == ["1", "2", "3"]
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    assert gone(pids())
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_with_a_running_server(double: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(seed: int) -> dict[str, Any]:
        out = ["--out", str(tmp_path / "demo.png"), "--url", double.url, "--json", "--seed", str(seed)]
        assert main(["demo", "--episodes", "4", *out, *SMALL]) == 0
        captured = capsys.readouterr()
        assert "episodes   accuracy" in captured.err
        answer: dict[str, Any] = json.loads(captured.out)
        return answer

    first, again = told(3), told(3)
    assert (first["model"], first["way"], first["episodes"], first["seed"]) == ("omniglot", 2, 4, 3)
    assert 0 <= first["accuracy"] <= 1
    assert first["accuracy"] == again["accuracy"]
    assert 0 < first["adapt_ms"]["p50"] <= first["adapt_ms"]["p99"]
    assert double.sessions == {}  # what was taught is forgotten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--way", "1"], "--way must be at least 2"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--out", "demo.jpg"], "expected a .png file"),
        (["--out", "no/such/folder/demo.png"], "in a folder that exists"),
        (["--data", "imagenet"], "expected glyphs, omniglot:DIR or folder:DIR"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_server_that_dies_in_the_middle(
    pids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIES_AFTER", "20")
    assert main(["demo", "--out", str(tmp_path / "demo.png"), *SMALL]) == 1
    shown = capsys.readouterr().err
    assert "kshot: error: the server has ended with exit code 7. The end of its log:\n    a last word\n" in shown
    assert gone(pids())


def test_an_error_of_a_living_server_is_told_as_it_is(
    pids: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--model", "nothing", "--out", str(tmp_path / "demo.png")]) == 1
    assert "404 model_not_found" in capsys.readouterr().err
    assert gone(pids())
    monkeypatch.setenv("FAILS", "yes")
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 1
    assert "500 some_code" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: int, pids: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kshot", "demo", "--episodes", "1000000", "--out", str(tmp_path / "demo.png")]
    with subprocess.Popen([*command, *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while "±" not in child.stdout.readline():
            pass
        child.send_signal(number)
        _, error = child.communicate(timeout=20)
    assert child.returncode == 130
    assert error == ""
    assert gone(pids())


def test_interrupted_while_the_server_starts(tmp_path: Path, pids: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent.py"
    silent.write_text(
        f"import os, time\nopen({str(tmp_path / 'started')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    # A shell starts what it puts in the background with SIGINT ignored, and these tests may be in the background.
    script = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += f"from kshot._demo.server import *\nwith LocalServer([{sys.executable!r}, {str(silent)!r}]): pass"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as child:
        while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in error
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))


def server_of(tmp_path: Path, source: str, *, start_seconds: float = 20) -> LocalServer:
    script = tmp_path / "server.py"
    script.write_text(source)
    return LocalServer([sys.executable, str(script), "{port}"], start_seconds=start_seconds)


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    server = server_of(tmp_path, "print('what is wrong', flush=True)\nraise SystemExit(3)")
    with pytest.raises(ServerFailedError, match=r"exit code 3\. The end of its log:\n    what is wrong$"), server:
        pass


def test_a_server_that_is_never_ready(tmp_path: Path) -> None:
    server = server_of(tmp_path, "import time\ntime.sleep(600)", start_seconds=0.3)
    with pytest.raises(ServerFailedError, match=r"not ready after 0\.3 s\. The end of its log: \(nothing\)$"), server:
        pass
    assert not Path(server._folder.name).exists()


def test_a_command_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), LocalServer([str(tmp_path / "no-such-program")]):
        pass


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kshot._demo.server._STOP_SECONDS", 0.2)
    source = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
    with server_of(tmp_path, source) as server:
        assert server._process is not None
        server.check()
        pid = server._process.pid
    assert server._process.returncode == -signal.SIGKILL
    assert not psutil.pid_exists(pid)


def test_in_a_thread_where_no_handler_can_be_set(pids: Any, tmp_path: Path) -> None:
    codes: list[int] = []
    arguments = ["demo", "--episodes", "1", "--out", str(tmp_path / "demo.png"), *SMALL]
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert gone(pids())


def test_a_signal_in_the_midst_of_the_start_is_obeyed_after_it(tmp_path: Path) -> None:
    """The log is a pipe without a reader: starting waits for one, and the signal comes while it does."""
    server = server_of(tmp_path, "import time\ntime.sleep(600)")
    os.mkfifo(server._log)
    ordinary = signal.getsignal(signal.SIGINT)

    def interrupt_then_read() -> None:
        while signal.getsignal(signal.SIGINT) is ordinary:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        server._log.read_bytes()

    thread = threading.Thread(target=interrupt_then_read)
    thread.start()
    with pytest.raises(KeyboardInterrupt), server:
        pass
    thread.join()
    assert server._process is not None
    assert server._process.returncode == -signal.SIGTERM


def test_sigterm_is_an_interrupt(double: Any, tmp_path: Path) -> None:
    def terminate() -> None:
        while len(double.received) < 10:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    arguments = ["--episodes", "100000", "--out", str(tmp_path / "demo.png"), "--url", double.url]
    assert main(["demo", *arguments, *SMALL]) == 130
    thread.join()
