"""kshot's own kernels in a process without torch, where Numba has them compiled for this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kshot_models.manifest import Manifest

if TYPE_CHECKING:
    from kshot_models.native_learner import NativeLearner

__all__ = ["Kernels", "load_kernels"]

_logger = logging.getLogger(__name__)


def load_kernels() -> ModuleType | None:
    """The module of learners by kernels, which are loaded; None where Numba is missing or nothing is compiled."""
    try:
        from kshot_models import native_learner  # noqa: PLC0415 - brings in Numba
        from kshot_models.native.jit import all_kept  # noqa: PLC0415 - likewise
    except ImportError as error:
        _logger.info("models adapt by ONNX graphs: %s", error)
        return None
    if not all_kept():  # compiling takes minutes, for which a start does not wait
        _logger.info(
            "models adapt by ONNX graphs; kshot's kernels take a fraction of the time, once "
            "`python -m kshot_models.native` has compiled them for this machine"
        )
        return None
    native_learner.load_kernels()
    return native_learner


class Kernels:
    """The kernels, and the learners that they compute."""

    def __init__(self) -> None:
        self._module = load_kernels()

    def there(self) -> bool:
        """Whether there are any."""
        return self._module is not None

    def flush_denormals(self) -> None:
        """Count them as 0 on the calling thread."""
        if self._module is not None:
            self._module.flush_denormals()

    def learner(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> NativeLearner | None:
        """The learner of an artifact; None where kernels do not compute it, or are not there."""
        if self._module is None:
            return None
        found: NativeLearner | None = self._module.NativeLearner.of(manifest.learner, manifest.input, arrays)
        return found
