"""Logs: one JSON object a line on stderr, or plain text on a terminal. The request id rides in a context variable.

What is logged of a request: method, route, status, times, id, tenant. Never a body, a label, a key or a query string.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from pydantic_core import to_json

from kshot_server.timestamps import rfc3339

__all__ = ["configure_logs", "log_plainly", "request_id_var"]

request_id_var: ContextVar[str] = ContextVar("kshot_request_id", default="")

# LogRecord's own attributes; whatever else a record has came in by `extra` and is a field of its own.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _as_json(line: dict[str, Any]) -> str:
    try:
        return to_json(line, fallback=str).decode()  # a quarter of the time
    except ValueError:  # half of a surrogate pair, as paths may hold
        return json.dumps(line, ensure_ascii=False, default=str)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if request_id := request_id_var.get():
            line["request_id"] = request_id
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _as_json(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        parts = [rfc3339(record.created)[11:23], record.levelname.lower().ljust(7), record.getMessage(), extra]
        text = " ".join(part for part in parts if part)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logs(level: str, format_name: str) -> None:
    """Send the logs of this process to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
        format_name: "json", "text", or "auto": text if stderr is a terminal.
    """
    as_text = format_name == "text" or (format_name == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if as_text else _JsonFormatter())
    # LitServe says some things through the root logger; nobody else does.
    handler.addFilter(lambda record: record.name != "root")
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # LitServe hangs a handler of its own on stdout and cuts propagation, both when it is imported and when it starts.
    for name in ("litserve", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # At warning LitServe tells that API processes have ended, which is what we made them do.
        logger.setLevel(logging.ERROR)
    # httpx and asyncio tell every request and every slow callback; at info that is noise.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def log_plainly(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """As `logger.log(level, message, extra=fields)`, but where in the program that was is not looked up.

    To be called if the level is enabled.
    """
    record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
    vars(record).update(fields)
    logger.handle(record)
