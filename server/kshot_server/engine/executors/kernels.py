"""kshot's own kernels in a process without torch, where Numba has them compiled for this machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kshot_models.manifest import Manifest

if TYPE_CHECKING:
    from kshot_models.native_learner import NativeLearner

__all__ = ["Kernels"]

_logger = logging.getLogger(__name__)


class Kernels:
    """The kernels, and the learners that they compute. They are loaded by a thread, from now on."""

    def __init__(self) -> None:
        self.flush_denormals: Callable[[], None] = lambda: None  # of the calling thread, once they are there
        self._module: ModuleType | None = None
        self._thread = threading.Thread(target=self._load, name="kshot-kernels", daemon=True)
        self._thread.start()

    def there(self) -> bool:
        """Whether there are any; waits until that is known."""
        self._thread.join()
        return self._module is not None

    def learner(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> NativeLearner | None:
        """The learner of an artifact; None where kernels do not compute it, or are not there."""
        if not self.there():
            return None
        assert self._module is not None
        found: NativeLearner | None = self._module.NativeLearner.of(manifest.learner, manifest.input, arrays)
        return found

    def _load(self) -> None:
        try:
            from kshot_models import native_learner  # noqa: PLC0415 - brings in Numba
            from kshot_models.native import denormals, jit  # noqa: PLC0415 - likewise
        except ImportError as error:
            _logger.info("models adapt by ONNX graphs: %s", error)
            return
        if not jit.all_kept():  # compiling takes minutes, for which a start does not wait
            _logger.info(
                "models adapt by ONNX graphs; kshot's kernels take a fraction of the time, once "
                "`python -m kshot_models.native` has compiled them for this machine"
            )
            return
        native_learner.load_kernels()
        self.flush_denormals = denormals.flush_denormals
        self._module = native_learner
