"""kshot's own kernels in a process without torch: loaded beside the work, so that no start waits for them.

Importing Numba and loading what was compiled takes a second of a core. Until that is done, and where Numba is missing
or nothing is compiled for this machine, there are no learners here, and the caller has another way.
"""

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
    """The kernels, and the learners that they compute."""

    def __init__(self) -> None:
        self._learners: dict[str, NativeLearner | None] = {}  # by digest
        self._module: ModuleType | None = None
        self.flush_denormals: Callable[[], None] = lambda: None  # of the calling thread, once there are learners
        self._thread = threading.Thread(target=self._load, name="kshot-kernels", daemon=True)

    def start(self) -> None:
        """Begin to load them; once, however often it is called."""
        if self._thread.ident is None:
            self._thread.start()

    def wait(self) -> bool:
        """Wait until they are there, or will not be; whether they are."""
        self.start()
        self._thread.join()
        return self._module is not None

    def learner(self, digest: str, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> NativeLearner | None:
        """The learner of an artifact; None where kernels do not compute it, or are not there yet."""
        module = self._module
        if module is None:
            return None
        if digest not in self._learners:
            self._learners[digest] = module.NativeLearner.of(manifest.learner, manifest.input, arrays)
        return self._learners[digest]

    def _load(self) -> None:
        try:
            from kshot_models import native_learner  # noqa: PLC0415 - brings in Numba
            from kshot_models.native import denormals, jit  # noqa: PLC0415 - likewise
        except ImportError as error:
            _logger.info("models adapt by ONNX graphs: %s", error)
            return
        if not jit.all_kept():
            _logger.info(
                "models adapt by ONNX graphs; kshot's kernels take a fraction of the time, once "
                "`python -m kshot_models.native` has compiled them for this machine"
            )
            return
        jit.compile_all()  # which loads them
        self.flush_denormals = denormals.flush_denormals
        self._module = native_learner
