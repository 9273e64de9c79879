"""All measurements in one command: `python -m kshot_bench.everything FOLDER [cpu|cuda] [FLAG ...]`.

Each bench is a process of its own; flags such as --allow-noise go to all of them. What the machine is too noisy for, or
what fails, is told at the end, and the others' reports stand.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from kshot_bench.render import COMMANDS

__all__ = ["commands", "main"]


def commands(folder: Path, device: str, flags: list[str]) -> dict[str, list[str]]:
    """The commands of a device by the name of the report that each writes."""
    return {
        name: [*shlex.split(command), *flags, "--json", str(folder / f"{name}.json")]
        for name, command in COMMANDS.items()
        if ("--device cuda" in command) == (device == "cuda")
    }


def main(arguments: list[str]) -> int:
    """Run them one after the other; the highest exit code."""
    folder, device, flags = Path(arguments[0]), *(arguments[1:2] or ["cpu"]), arguments[2:]
    codes = {}
    for name, command in commands(folder, device, flags).items():
        sys.stdout.write(f"\n$ {shlex.join(command)}\n")
        sys.stdout.flush()
        codes[name] = subprocess.run([sys.executable, "-m", *command], check=False).returncode  # noqa: S603 - our own
    for name, code in codes.items():
        if code:
            sys.stderr.write(f"{name}: not measured, exit code {code}\n")
    return max(codes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
