"""The first module that the template imports. There, and nowhere else, it takes a fifth off all imports after it.

Importing torch makes half a million objects that stay, and looking for garbage among them, again and again while they
come, finds none. Engines, which are forked from the template, look again (garbage.py).
"""

from __future__ import annotations

import gc
import os

__all__ = ["IN_TEMPLATE"]

IN_TEMPLATE = "KSHOT_IN_TEMPLATE"
"""The variable that a template starts with: the standard library lets it import modules, and call nothing."""

if os.environ.pop(IN_TEMPLATE, None):
    gc.disable()
