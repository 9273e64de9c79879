"""`kshot serve`: from the command line to a running server."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kshot_server.devices import choose_runtime
from kshot_server.engine.executors.table import RUNTIMES
from kshot_server.kernels import kernels_at_hand
from kshot_server.settings import SettingError, Settings, add_flags, read_settings
from kshot_server.template import FirstEngines, end_template, start_template

__all__ = ["EXTRA", "HELP", "configure", "run"]

_PREFIX = "kshot-serve-"

HELP = "serve models over HTTP"
EXTRA = "server,torch"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Serve models over HTTP. Without arguments: the models that ship with kshot, on http://127.0.0.1:8000. "
        "Every flag is also an environment variable; a flag wins."
    )
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after a clean end, 1 after a process was lost or when the server could not start, 2 for wrong settings.
    """
    try:
        settings = read_settings(vars(arguments), os.environ)
        settings = replace(settings, runtime=choose_runtime(settings.runtime))
    except SettingError as error:
        return _refuse(str(error), 2)
    folder = _own_folder()
    sockets, numbers = folder / "engines", folder / "metrics"
    sockets.mkdir()
    numbers.mkdir()
    # prometheus_client looks for this when it is imported, and engine processes inherit it.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(numbers)
    gc.disable()  # while everything is imported; see template_imports.py
    try:
        with kernels_at_hand(os.environ):
            start_template(settings.runtime)  # first: it works while this process imports what it needs itself
            return _serve(settings, sockets)
    finally:
        gc.enable()
        end_template()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(settings: Settings, sockets: Path) -> int:
    # Here and not above: `kshot --help` shall not wait for a web framework.
    from kshot_models.artifact import zoo_folder  # noqa: PLC0415 - see the line above
    from kshot_server.auth import load_api_keys  # noqa: PLC0415 - as above
    from kshot_server.devices import devices_of  # noqa: PLC0415 - as above
    from kshot_server.engine.repository import ModelRepository  # noqa: PLC0415 - as above
    from kshot_server.sessions.errors import StoreNotUsable  # noqa: PLC0415 - as above
    from kshot_server.sessions.stores.table import open_store  # noqa: PLC0415 - as above
    from kshot_server.shared_state import SharedState  # noqa: PLC0415 - as above
    from kshot_server.worker import EngineOptions, run_engine  # noqa: PLC0415 - as above

    settings = replace(settings, models=settings.models or (zoo_folder(),))
    try:
        keys = load_api_keys(settings.api_keys, os.environ)
        devices = devices_of(settings.device, os.environ, runtime=settings.runtime)
        store = open_store(settings.store, settings)
    except (SettingError, StoreNotUsable) as error:
        return _refuse(str(error), 2)
    models = ModelRepository(
        settings.models,
        allow_transductive=settings.allow_transductive,
        need_graphs=RUNTIMES[settings.runtime].needs_graphs,
    )
    if not models.list():
        return _refuse(_no_models(settings, models), 1)
    names = ", ".join(f"{entry.name}@{entry.version}" for entry in models.list())
    sys.stderr.write(f"kshot serves {names} at http://{settings.host}:{settings.port} (Ctrl-C ends it)\n")
    options = [EngineOptions.of(settings, sockets, device) for device in devices]
    shared = SharedState(len(devices))
    engines = FirstEngines([(run_engine, (index, own, shared)) for index, own in enumerate(options)])
    # Only now: while this process imports a web framework, the engines load their models.
    from kshot_server.app import StartFailed, serve  # noqa: PLC0415 - as it says

    try:
        return serve(settings, engines=engines, options=options, shared=shared, models=models, keys=keys, store=store)
    except StartFailed as error:
        return _refuse(str(error), 1)


def _own_folder() -> Path:
    """Make a folder for what this server's processes share, and remove those of servers that were killed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def _no_models(settings: Settings, models: object) -> str:
    folders = ", ".join(str(folder) for folder in settings.models)
    refused = "".join(f"; {item.folder}: {item.reason}" for item in getattr(models, "refused", ()))
    return f"no model to serve in {folders}: expected DIR/<name>/<version>/manifest.json{refused}"


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"kshot serve: {message}\n")
    return code
