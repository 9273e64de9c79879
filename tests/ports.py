"""Ports of the loopback interface that nobody listens on."""

from __future__ import annotations

import itertools
import os
import socket

_EACH = 1000
_FIRST = 10_000  # below those that the system gives to whoever asks for any
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

# Between the look at a port and the server that listens on it, seconds may pass: each worker of the suite has ports of
# its own, and begins anywhere among them, for another suite may run beside this one.
_numbers = itertools.count(os.getpid())


def free_port() -> int:
    """One that was free a moment ago, and is not given again for long."""
    while True:
        port = _FIRST + _EACH * (_WORKER % 20) + next(_numbers) % _EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
