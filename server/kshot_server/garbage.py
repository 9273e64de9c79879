"""How often a process of the server looks for garbage in cycles."""

from __future__ import annotations

import gc

__all__ = ["look_for_garbage_seldom"]

_NEW_OBJECTS = 20_000


def look_for_garbage_seldom() -> None:
    """To be called once all is there that stays.

    What libraries and models have made, half a million objects, is not looked at again; and what a request makes is
    freed by counting references, so that looking after every 700 objects, as by default, finds next to nothing: it took
    a fourteenth of an API process's time.
    """
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *older)
    gc.enable()  # a process that starts has none of it
