"""How the optional compiled kernels are obtained: one for `gather.channels`, one for the views of learning without labels.

They need numba (``pip install '.[fast]'``) and give the values of the torch paths to the last bit, faster; without numba nothing
is missing. Compiling takes a second or two, so it happens in a thread after the first few batches, which torch makes meanwhile.
The environment variable SAL_KERNEL=off forbids it, SAL_KERNEL=now compiles at the first batch. The code is in `kernel_code`.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable

import numpy as np
import torch

AFTER_BATCHES = 8
Kernel = Callable[..., None]


class Compiled:
    """A kernel of this process: asked for, being compiled, or there."""

    def __init__(self, compile_it: Callable[[], Kernel]) -> None:
        self._compile_it = compile_it
        self._lock = threading.Lock()
        self._asked = 0
        self._kernel: Kernel | None = None

    def get(self) -> Kernel | None:
        """The kernel if it is compiled already."""
        if self._kernel is not None:
            return self._kernel
        wish = os.environ.get("SAL_KERNEL", "")
        if wish == "off" or importlib.util.find_spec("numba") is None:
            return None
        with self._lock:
            self._asked += 1
            if wish == "now" and self._kernel is None:
                self._compile()
            elif self._asked == AFTER_BATCHES:
                threading.Thread(target=self._compile, name="kernel", daemon=True).start()
        return self._kernel

    def _compile(self) -> None:
        self._kernel = self._compile_it()


def _channels() -> Kernel:
    from shared_data.batches import kernel_code

    return kernel_code.channels()


def _views() -> Kernel:
    from shared_data.batches import kernel_code

    return kernel_code.views()


CHANNELS, VIEWS = Compiled(_channels), Compiled(_views)


def fused(rows: torch.Tensor | np.ndarray, compiled: Compiled | None = None) -> Kernel | None:
    """The kernel `compiled`, `CHANNELS` by default, if there is one for these rows: float32 in main memory."""
    fit = isinstance(rows, np.ndarray) and rows.dtype == np.float32
    return (compiled or CHANNELS).get() if fit else None
