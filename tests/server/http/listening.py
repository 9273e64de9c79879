"""Engines without an engine: what listens at their sockets, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from kshot_server.channel import Listener, socket_path
from kshot_server.engine.requests import AdaptRequest, Support
from kshot_server.messages import Messages

# An engine's process without an engine: it answers who it is, and nothing to requests for the session "held".
PROGRAM = """
import os, sys
from pathlib import Path
from kshot_server.channel import Listener, socket_path
from kshot_server.engine.requests import Adapted, Timings

listener = Listener(socket_path(Path(sys.argv[1]), int(sys.argv[2]), os.getpid()))
print("up", flush=True)

def take(sender, messages):
    for number, message in messages:
        if getattr(message, "session", "held") != "held":
            listener.reply(sender, number, Adapted(Timings(os.getpid())))

listener.serve(take)
"""


def request(session: str = "s_1") -> AdaptRequest:
    support = Support(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), 2)
    return AdaptRequest("digest", session, support, time.time() + 30)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


class Hearing:
    """A listener in this process, and what came to it."""

    def __init__(self, sockets: Path) -> None:
        self.parcels: list[Messages] = []
        self.senders: list[Any] = []
        self.listener = Listener(socket_path(sockets, 0, os.getpid()))
        threading.Thread(target=self.listener.serve, args=(self.take,), daemon=True).start()

    def take(self, sender: Any, messages: Messages) -> None:
        self.parcels.append(messages)
        self.senders.append(sender)

    def heard(self) -> Messages:
        return [numbered for parcel in self.parcels for numbered in parcel]
