"""Between an API process and an engine: a socket that only processes of one server find, and parcels of messages on it.

    API process, on its loop                                                  engine, threads
    Channel.ask(message)  ─▶ all of this turn of the loop ─── one parcel ───▶ Listener ─▶ MessageHandler.take
    future ◀──────────────── data_received ◀───────── one parcel ──────────── gathering ◀─ reply

LitServe's own way is a queue in a third process, which takes each message twice through its threads: a millisecond each
way on a busy machine, and some six switches between processes. Here the two ends talk to each other. It also tells at
once that the engine has died: its end of the socket closes.

A parcel is its length (8 bytes, little-endian) and what parcels.py makes of messages. The socket lies in a folder that
no other user can enter, and who connects is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import BinaryIO, cast

from kshot_server.faults import Fault
from kshot_server.gathering import Gathering
from kshot_server.messages import Cancel, Message, Messages, Replies, Reply
from kshot_server.parcels import pack, unpack

__all__ = ["Channel", "Listener", "socket_path"]

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct("<Q")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def socket_path(folder: Path, engine: int, pid: int) -> Path:
    """Where the process `pid` of an engine listens."""
    return folder / f"{engine}-{pid}"


def _packed(parcel: Messages | Replies) -> bytes:
    content = pack(parcel)
    return _LENGTH.pack(len(content)) + content


class Channel(asyncio.Protocol):
    """The API process's end. Lives on its event loop.

    Attributes:
        closed: done once the other end is gone; every open request has ended by then with a Fault.
    """

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport | None = None
        self._number = 0
        self._open: dict[int, asyncio.Future[Reply]] = {}
        self._unsent: Messages = []
        self._came = bytearray()

    @staticmethod
    async def open(path: Path) -> Channel:
        """Connect to an engine.

        Raises:
            OSError: nobody listens there (any more).
        """
        _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, str(path))
        return channel

    async def ask(self, message: Message) -> Reply:
        """Send a message and wait for its reply.

        A request whose caller is cancelled (deadline passed, client gone) is cancelled in the engine too.

        Raises:
            Fault: `engine_unavailable`, the engine died with the message in its hands.
        """
        if self.closed.done():
            raise _lost()
        number = self._send(message)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            if not self.closed.done():
                self._send(Cancel(number))
            raise
        finally:
            self._open.pop(number, None)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, message: Message) -> int:
        """Send a message; its number."""
        number = self._number
        self._number += 1
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)  # with what else this turn of the loop sends
        self._unsent.append((number, message))
        return number

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and not self.closed.done():
            self._transport.write(_packed(unsent))

    # -- called by the loop --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._came += data
        start = 0
        while len(self._came) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._came, start)
            end = start + _LENGTH.size + length
            if len(self._came) < end:
                break
            self._deliver(unpack(self._came[start + _LENGTH.size : end]))
            start = end
        del self._came[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        del exc
        if not self.closed.done():
            self.closed.set_result(None)
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(_lost())

    def _deliver(self, replies: Replies) -> None:
        for number, reply in replies:
            answer = self._open.get(number)
            if answer is not None and not answer.done():  # else nobody waits any more
                answer.set_result(reply)


def _lost() -> Fault:
    return Fault(
        "engine_unavailable",
        "The engine that worked on this request has died; another is being started.",
        action="Send the request again; sessions are not lost.",
        retry_after=1,
    )


class Listener:
    """The engine's end: answers whoever connects, for as long as the process lives.

    Args:
        path: of the socket, which is made at once; who connects before `serve` waits.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()

    def serve(self, take: Callable[[Hashable, Messages], None]) -> None:
        """Hand on what comes: `take(sender, messages)`, from a thread for each sender; replies go through `reply`."""
        while True:
            link, _ = self._socket.accept()
            if not _is_of_our_user(link):
                link.close()
                continue
            threading.Thread(target=_read, args=(_Sender(link), take), name="engine-messages", daemon=True).start()

    @staticmethod
    def reply(sender: Hashable, number: int, reply: Reply) -> None:
        """Answer a message of `sender`; from any thread."""
        assert isinstance(sender, _Sender)
        sender.replies.add((number, reply))


class _Sender:
    """An API process as its engine sees it."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.replies: Gathering[tuple[int, Reply]] = Gathering(self._put, "engine-replies")

    def _put(self, replies: Replies) -> None:
        with contextlib.suppress(OSError):  # it has ended, and so have all who waited
            self.link.sendall(_packed(replies))


def _read(sender: _Sender, take: Callable[[Hashable, Messages], None]) -> None:
    try:
        with sender.link.makefile("rb") as stream:
            while (content := _content(stream)) is not None:
                take(sender, unpack(content))
    except Exception:  # noqa: BLE001 - whatever it is
        # Whoever waits for these messages would wait for ever. A new process will be there in a second.
        _log.exception("the engine cannot read its messages and ends")
        os._exit(1)


def _content(stream: BinaryIO) -> bytearray | None:
    """Of the next parcel; None if the sender has ended, be it in the middle of one."""
    with contextlib.suppress(OSError):
        header = stream.read(_LENGTH.size)
        if len(header) == _LENGTH.size:
            (length,) = _LENGTH.unpack(header)
            content = bytearray(length)
            return content if stream.readinto(content) == length else None  # type: ignore[attr-defined] # a reader has it
    return None


def _is_of_our_user(link: socket.socket) -> bool:
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.getuid())
