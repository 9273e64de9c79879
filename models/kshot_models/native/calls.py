"""Kernels that call kernels by their addresses: one call of Python's for many, with nothing of it compiled twice.

Between calls a thread would ask for the interpreter's lock, and wait for whoever has it.
"""

# Numba has few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["call"]


@intrinsic
def _call(context, address, arguments):
    del context

    def generate(context, builder, signature, given):
        kinds = signature.args[1].types
        place, packed = given
        values = [builder.extract_value(packed, number) for number in range(len(kinds))]
        form = context.call_conv.get_function_type(types.none, kinds)
        kernel = builder.inttoptr(place, form.as_pointer())
        status, _ = context.call_conv.call_function(builder, kernel, types.none, kinds, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(address, arguments), generate


call = cast("Callable[[int, tuple[Any, ...]], None]", _call)
"""Call the kernel that returns nothing, whose `entry` (jit.py) is this address, with a tuple of just what it takes.

Numba cannot check that: integers have to be int64, and arrays as they are annotated there.
"""
