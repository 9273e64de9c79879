"""Importing this loads kshot's kernels, if there are any: for the template, whose engines then have them at once."""

from __future__ import annotations

from kshot_server.engine.executors.kernels import load_kernels

__all__: list[str] = []

load_kernels()
