"""Numbers so small that processors take many times longer on them: counted as 0 by the thread that asks for it.

Networks make them of blank images. torch has torch.set_flush_denormal; this is for threads of a process without torch.
"""

# llvmlite has few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kshot_models.native.jit import compiled

__all__ = ["flush_denormals"]

_X86 = platform.machine().lower() in {"x86_64", "amd64"}  # other processors lose less time, and stay as they are
_FLUSH = 0x8040  # of the control register MXCSR: results that are denormal, and arguments


@intrinsic
def _set_flags(context):
    def code(context, builder, signature, arguments):
        del signature, arguments
        if _X86:
            place = builder.alloca(ir.IntType(32))
            pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type])
            for name in ("stmxcsr", "ldmxcsr"):
                known = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")
                builder.call(known, [pointer])
                if name == "stmxcsr":
                    builder.store(builder.or_(builder.load(place), ir.Constant(ir.IntType(32), _FLUSH)), place)
        return context.get_dummy_value()

    del context
    return types.void(), code


@compiled
def flush_denormals() -> None:
    """From now on they are 0 on this thread."""
    _set_flags()  # type: ignore[call-arg] # Numba gives the context
