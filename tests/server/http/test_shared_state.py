"""What all processes of a server share, and that none outlives the main one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kshot_server.shared_state import Phase, SharedState


def announce(shared: SharedState, index: int) -> None:
    shared.announce(index)


def test_shared_state_is_seen_by_spawned_and_forked_processes() -> None:
    shared = SharedState(2)
    for index, method in enumerate(("spawn", "fork")):
        child = multiprocessing.get_context(method).Process(target=announce, args=(shared, index))
        child.start()
        child.join()
        assert shared.pid(index) == child.pid


def test_phases_only_go_up() -> None:
    shared = SharedState(1)
    assert shared.phase is Phase.SERVING
    shared.phase = Phase.DRAINED
    shared.phase = Phase.DRAINING
    assert shared.phase is Phase.DRAINED


def test_a_child_ends_with_its_parent() -> None:
    program = (
        "import os, sys, time\n"
        "from kshot_server.orphans import forked_children_end_with\n"
        "forked_children_end_with(os.getpid())\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            os.kill(child, 0)
            time.sleep(0.05)
    assert time.monotonic() < deadline
