"""The distribution as a whole: names, commands, arrows between the packages, and what no file of it may do."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
ROOTS = [REPOSITORY / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]

# What takes long to import, or comes with an extra that a user of the client does not have.
HEAVY = {
    "fastapi",
    "litserve",
    "matplotlib",
    "onnxruntime",
    "pydantic",
    "safetensors",
    "starlette",
    "tensorboard",
    "torch",
    "uvicorn",
}
RUNS_BYTES_AS_CODE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def _sources() -> list[Path]:
    return sorted(path for root in ROOTS for path in root.rglob("*.py"))


def _module_name(path: Path) -> str:
    root = next(root for root in ROOTS if path.is_relative_to(root))
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [name for name in map(_module_name, _sources()) if not name.endswith("__main__")]


def _loaded_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after a statement."""
    report = "import json, sys; sys.stderr.write('LOADED' + json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    command = [sys.executable, "-c", f"{statement}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "LOADED" in done.stderr, done.stderr
    return set(json.loads(done.stderr.rsplit("LOADED", 1)[1]))


@pytest.mark.parametrize("name", MODULES)
def test_exported_names_exist_and_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    for member in exported:
        value = getattr(module, member)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{member} has no docstring"


def test_client_namespace_is_its_exported_names() -> None:
    kshot = importlib.import_module("kshot")
    public = {
        name for name in dir(kshot) if not name.startswith("_") and not inspect.ismodule(getattr(kshot, name))
    } - {"TYPE_CHECKING"}
    assert public == {name for name in kshot.__all__ if name != "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = kshot.Cleint


def test_the_command_waits_for_no_client() -> None:
    assert not {"httpx", "numpy", "PIL"} & _loaded_after("import kshot._cli")


def test_version_is_the_same_everywhere() -> None:
    kshot = importlib.import_module("kshot")
    assert kshot.__version__ == PROJECT["project"]["version"] == importlib.metadata.version("kshot")


def test_changelog_knows_the_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[({re.escape(PROJECT['project']['version'])}|Unreleased)\]", changelog, re.MULTILINE)


@pytest.mark.parametrize(
    "target", PROJECT["project"]["entry-points"]["kshot.commands"].items(), ids=lambda item: item[0]
)
def test_every_command_can_be_told_and_run(target: tuple[str, str]) -> None:
    name, path = target
    installed = {point.name: point.value for point in importlib.metadata.entry_points(group="kshot.commands")}
    assert installed[name] == path
    command = importlib.import_module(path)
    assert isinstance(command.HELP, str)
    assert command.HELP
    extras = {name.strip() for name in command.EXTRA.split(",") if name}
    assert extras <= PROJECT["project"]["optional-dependencies"].keys()
    assert callable(command.configure)
    assert callable(command.run)


def test_local_mode_is_found() -> None:
    (point,) = importlib.metadata.entry_points(group="kshot.local")
    assert callable(point.load())


def test_client_is_light() -> None:
    assert not _loaded_after("import kshot") & (HEAVY | {"kshot_models", "kshot_server", "kshot_training"})


def test_help_is_light() -> None:
    helped = "import contextlib, kshot._cli\nwith contextlib.suppress(SystemExit): kshot._cli.main(['--help'])"
    assert not _loaded_after(helped) & HEAVY


@pytest.mark.parametrize("name", ["manifest", "artifact", "pixels", "errors"])
def test_artifacts_are_read_without_torch(name: str) -> None:
    assert "torch" not in _loaded_after(f"import kshot_models.{name}")


STATE = """
def state():
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    modes = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads()
    signals = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    return dict(os.environ), numbers, modes, signals, sys.excepthook, list(logging.root.handlers)
"""


def test_importing_does_nothing() -> None:
    """An import changes no environment, seed, precision, gradient mode, thread count, signal or log handler."""
    # What LitServe and httpx (rich, for its command line) do on import is their own; they come before the first look.
    script = (
        f"import importlib, logging, os, random, signal, sys\nimport httpx, litserve, numpy as np, torch\n{STATE}\n"
        f"before = state()\nfor name in {MODULES!r}: importlib.import_module(name)\n"
        "assert state() == before, 'an import changed the process'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def _forbidden_in(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [f"import {name.name}" for name in node.names if name.name.split(".")[0] in RUNS_BYTES_AS_CODE]
        elif isinstance(node, ast.ImportFrom):
            found += [f"from {node.module}"] if (node.module or "").split(".")[0] in RUNS_BYTES_AS_CODE else []
            found += [
                f"torch.{name.name}" for name in node.names if node.module == "torch" and name.name in {"load", "save"}
            ]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += (
                [f"{node.value.id}.{node.attr}"]
                if (node.value.id, node.attr) in {("torch", "load"), ("torch", "save")}
                else []
            )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [f"{node.func.id}()"] if node.func.id in {"eval", "exec"} else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else ["allow_pickle"]
    return found


@pytest.mark.parametrize("path", _sources(), ids=_module_name)
def test_no_bytes_are_run_as_code(path: Path) -> None:
    """No pickle, torch.load, eval or exec: artifacts, checkpoints, records and requests are data."""
    assert _forbidden_in(path) == []


def test_constraints_are_what_runs() -> None:
    pins = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    for name, version in pins.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert installed.split("+")[0] == version, f"{name} {installed} is installed, constraints.txt pins {version}"


def test_constraints_pin_every_dependency() -> None:
    pins = {
        _canonical(line.split("==")[0])
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(text for extra in extras.values() for text in extra),
    ]
    names = {_canonical(re.split(r"[\[<>=!~; ]", text)[0]) for text in wanted} - {"kshot"}
    assert names <= pins


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
