"""The rule for labels. They are the user's words, in any script, and come back exactly as they were sent."""

from __future__ import annotations

import re

from kshot_server.errors import InputError

__all__ = ["MAX_LABEL_LENGTH", "check_label"]

MAX_LABEL_LENGTH = 256  # characters

# Unicode's categories Cc and Cs: control characters break logs, headers and terminals; a lone surrogate has no UTF-8
# form at all.
_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_label(label: object) -> str:
    """Return `label` if it can name a class.

    Raises:
        InputError: `invalid_label`: it is no string, empty, longer than 256 characters, or holds a control character or
            a lone surrogate.
    """
    expected = f"a string of 1 to {MAX_LABEL_LENGTH} characters, none of them a control character"
    if not isinstance(label, str):
        raise InputError("invalid_label", "A label is not a string.", expected, type(label).__name__)
    if not 0 < len(label) <= MAX_LABEL_LENGTH:
        raise InputError("invalid_label", "A label is empty or too long.", expected, f"{len(label)} characters")
    if refused := _REFUSED.search(label):
        kind = "a lone surrogate" if refused[0] >= "\ud800" else "a control character"
        received = f"{kind} (U+{ord(refused[0]):04X}) at position {refused.start()}"
        raise InputError("invalid_label", "A label holds a character that cannot be used.", expected, received)
    return label
