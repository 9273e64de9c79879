"""Where threads that compute one thing together wait for one another, in the middle of a kernel."""

# Numba and llvmlite have few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kshot_models.native.jit import Indices

__all__ = ["call_off", "meet"]

_COUNT = ir.IntType(64)
_LOOKS = 200  # before another thread gets the core: some tenths of a microsecond
_ALIGNED = 8


@intrinsic
def _meet(context, arrivals, members):
    del context, arrivals, members

    def generate(context, builder, signature, arguments):
        del signature
        address, members = arguments
        arrivals = builder.inttoptr(address, _COUNT.as_pointer())
        one = _COUNT(1)
        before = builder.atomic_rmw("add", arrivals, one, "seq_cst")
        # Nobody arrives again before all have arrived: the count says which meeting this is.
        last = builder.mul(builder.add(builder.udiv(before, members), one), members)
        looks = cgutils.alloca_once_value(builder, _COUNT(0))
        builder.store(_COUNT(0), looks)
        look, again, rest, end = (
            builder.append_basic_block(f"meet.{name}") for name in ("look", "again", "rest", "end")
        )
        builder.branch(look)
        builder.position_at_end(look)
        there = builder.load_atomic(arrivals, "acquire", _ALIGNED)
        off = builder.icmp_signed("<", there, _COUNT(0))
        builder.cbranch(builder.or_(off, builder.icmp_signed(">=", there, last)), end, again)
        builder.position_at_end(again)
        looked = builder.add(builder.load(looks), one)
        builder.store(looked, looks)
        builder.cbranch(builder.icmp_unsigned("<", looked, _COUNT(_LOOKS)), look, rest)
        builder.position_at_end(rest)
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        builder.branch(look)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


# The compiler gives it its first argument; callers do not.
meet = cast("Callable[[int, int], None]", _meet)
"""(arrivals, members): go on when all members have come as often as this one. `arrivals` is the address of their count,
an int64 that begins as 0. What each wrote before is seen by all after it. Who waits long lets other threads have the
core."""


def call_off(arrivals: Indices) -> None:
    """Let nobody wait any longer, nor later: a member has failed, and what the others make is of no use."""
    arrivals[0] = np.iinfo(np.int64).min // 2
