"""All that a kshot artifact needs in order to run. Modules are imported by name, so that what needs no torch has none.

from kshot_models import load               # an artifact, learner or optimizer, ready for use; needs torch
from kshot_models.artifact import load_artifact
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time it is the module of that name, which can be called; see its end
    from kshot_models.load import load_any as load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
