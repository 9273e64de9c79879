"""Every setting of the server, once. A field is a flag (`--max-inflight`) and a variable (`KSHOT_MAX_INFLIGHT`).

    flag  >  variable  >  default

The entry point reads them here and takes them apart; below it, functions get plain arguments. No heavy import: building
the command line must cost nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kshot_server.engine.executors.table import RUNTIMES

__all__ = ["PREFIX", "SettingError", "Settings", "add_flags", "flag_name", "read_settings", "variable_name"]

PREFIX = "KSHOT_"

# Variables of the other packages share the prefix; the server leaves them alone.
_OF_OTHERS = frozenset({"KSHOT_URL", "KSHOT_API_KEY", "KSHOT_OMNIGLOT"})

_MIB = 1 << 20


class SettingError(Exception):
    """A flag or variable that cannot be used. The message names it, says what was expected and what came."""


def _bounded(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"expected {'a whole number' if kind is int else 'a number'}, got {text!r}") from None
        if not low <= value <= high:
            raise ValueError(f"expected {low:g} to {high:g}, got {text}")
        return value

    return parse


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {text!r}")
        return text

    return parse


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in text.split(os.pathsep) if part)


def _switch(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.lower() not in known:
        raise ValueError(f"expected 1, true, yes, 0, false or no, got {text!r}")
    return known[text.lower()]


def _host(text: str) -> str:
    # What LitServe can bind; a name would have to be resolved, and "localhost" has one safe meaning.
    names = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0", "::": "::"}  # noqa: S104 - a choice, not a default
    if text not in names:
        raise ValueError(f"expected 127.0.0.1 (this machine only), 0.0.0.0 or :: (every interface), got {text!r}")
    return names[text]


def _setting(default: Any, parse: Callable[[str], Any], help_text: str, metavar: str = "") -> Any:
    return field(default=default, metadata={"parse": parse, "help": help_text, "metavar": metavar})


@dataclass(frozen=True)
class Settings:
    """What `kshot serve` can be told. Sizes are bytes, times are seconds."""

    models: tuple[Path, ...] = _setting(
        (),
        _folders,
        f"repositories, separated by {os.pathsep!r}: DIR/<name>/<version>/ (default: the models that ship with kshot)",
        "DIR",
    )
    host: str = _setting("127.0.0.1", _host, "address to bind: 127.0.0.1, 0.0.0.0 or ::", "HOST")
    port: int = _setting(8000, _bounded(int, 1024, 65535), "port to bind", "PORT")
    store: str = _setting(
        "memory", str, "where session records live: memory, sqlite:PATH or redis://HOST:PORT/DB", "URL"
    )
    # Long enough that a pause of a busy machine is not taken for an outage, which refuses new sessions for a second.
    store_timeout: float = _setting(
        0.5, _bounded(float, 0.01, 60), "longest wait for one answer of a remote store", "SECONDS"
    )
    store_bytes: int = _setting(
        1024 * _MIB, _bounded(int, _MIB, 1 << 50), "most bytes of session records that the memory store keeps", "BYTES"
    )
    record_cache_bytes: int = _setting(
        128 * _MIB,
        _bounded(int, 0, 1 << 50),
        "records kept beside a remote store, so that known sessions go on when it is down",
        "BYTES",
    )
    api_keys: str = _setting(
        "",
        str,
        "a file of `tenant:key` lines, or env:NAME to read them from a variable (default: no keys, loopback only)",
        "FILE",
    )
    rate_limit: float = _setting(
        0.0,
        _bounded(float, 0, 1e6),
        "requests a second for each tenant and API process, in bursts of twice that; 0 is no limit",
        "N",
    )
    timeout: float = _setting(30.0, _bounded(float, 0.05, 3600), "longest time that a request may take", "SECONDS")
    max_inflight: int = _setting(
        256, _bounded(int, 1, 100_000), "requests worked on at once; more are answered 503 at once", "N"
    )
    max_body_bytes: int = _setting(64 * _MIB, _bounded(int, 1024, 1 << 31), "largest request body", "BYTES")
    max_pixels: int = _setting(4_000_000, _bounded(int, 1, 89_000_000), "most pixels of one image", "N")
    ttl_seconds: int = _setting(
        86_400,
        _bounded(int, 1, 31_536_000),
        "how long a session lives after its last use, unless its request says otherwise",
        "SECONDS",
    )
    max_ttl_seconds: int = _setting(
        2_592_000, _bounded(int, 1, 31_536_000), "longest life that a request may ask for", "SECONDS"
    )
    device: str = _setting("auto", str, "auto, cpu, cuda, or cuda:0,cuda:1; one engine process for each", "DEVICE")
    runtime: str = _setting(
        "auto",
        _one_of("auto", *RUNTIMES),
        "torch, onnxruntime (for models that `kshot export --onnx` wrote), or auto: torch where it is installed",
        "NAME",
    )
    cache_bytes: int = _setting(256 * _MIB, _bounded(int, 0, 1 << 50), "adapted weights kept on each device", "BYTES")
    max_wait_ms: float = _setting(
        2.0, _bounded(float, 0, 1000), "longest wait for companions in a batch, in milliseconds", "MS"
    )
    allow_transductive: bool = _setting(
        False,  # noqa: FBT003 - the default of a switch
        _switch,
        "serve models whose answers depend on the other queries of a request (for evaluation)",
    )
    api_servers: int = _setting(
        1, _bounded(int, 1, 64), "HTTP processes; more than one needs a store that they share: sqlite or redis", "N"
    )
    decode_threads: int = _setting(
        0, _bounded(int, 0, 256), "threads that decode images in each API process; 0 is one for each core", "N"
    )
    drain_delay: float = _setting(
        0.0,
        _bounded(float, 0, 600),
        "after SIGTERM, how long to go on serving so that a load balancer sees /readyz turn 503; then it refuses",
        "SECONDS",
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"
    )
    log_format: str = _setting(
        "auto", _one_of("auto", "json", "text"), "json, text, or auto: text on a terminal", "FORMAT"
    )


def flag_name(name: str) -> str:
    """`max_inflight` -> `--max-inflight`."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """`max_inflight` -> `KSHOT_MAX_INFLIGHT`."""
    return PREFIX + name.upper()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each field of `Settings`. Texts stay text, so that flags and variables meet the same checks."""
    for item in dataclasses.fields(Settings):
        text = f"{item.metadata['help']} [{variable_name(item.name)}]{_default_text(item.default)}"
        if isinstance(item.default, bool):
            parser.add_argument(flag_name(item.name), dest=item.name, action="store_const", const="1", help=text)
        else:
            parser.add_argument(flag_name(item.name), dest=item.name, metavar=item.metadata["metavar"], help=text)


def _default_text(default: Any) -> str:
    return "" if default in ((), "", None) or isinstance(default, bool) else f" (default: {default})"


def read_settings(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Join flags and variables into one checked structure.

    Args:
        flags: field name -> text as given on the command line, None where not given.
        environment: normally `os.environ`.

    Raises:
        SettingError: an unknown KSHOT_* variable, a value that does not parse, or two that contradict each other.
    """
    values: dict[str, Any] = {}
    for item in dataclasses.fields(Settings):
        for source, text in (
            (flag_name(item.name), flags.get(item.name)),
            (variable_name(item.name), environment.get(variable_name(item.name))),
        ):
            if text is not None:
                try:
                    values[item.name] = item.metadata["parse"](text)
                except ValueError as error:
                    raise SettingError(f"{source}: {error}") from None
                break
    settings = Settings(**values)
    _refuse_unknown(environment, also=settings.api_keys.removeprefix("env:"))
    _refuse_contradictions(settings)
    return settings


def _refuse_unknown(environment: Mapping[str, str], also: str) -> None:
    known = {variable_name(item.name) for item in dataclasses.fields(Settings)}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known | _OF_OTHERS | {also}:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; `kshot serve --help` lists them"
            raise SettingError(f"the environment variable {name} is no setting of the server{hint}")


def _refuse_contradictions(settings: Settings) -> None:
    if settings.api_servers > 1 and settings.store == "memory":
        raise SettingError(
            "--api-servers above 1 needs a store that the processes share, for each would have a memory of its own: "
            "use --store sqlite:PATH or redis://HOST:PORT/DB"
        )
    if settings.ttl_seconds > settings.max_ttl_seconds:
        raise SettingError(
            f"--ttl-seconds {settings.ttl_seconds} is above --max-ttl-seconds {settings.max_ttl_seconds}"
        )
    if settings.host != "127.0.0.1" and not settings.api_keys:
        raise SettingError(
            f"--host {settings.host} can be reached from outside and needs --api-keys; "
            "without keys only 127.0.0.1 may be bound"
        )
