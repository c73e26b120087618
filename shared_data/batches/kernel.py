"""The optional compiled kernel of `gather.channels`: frames are blended, turned by a matrix and split into axes in one pass.

It needs numba (``pip install '.[fast]'``) and gives the bits of the torch path, about twice as fast; without numba nothing is
missing. Compiling takes a second, so it happens in a thread after the first few batches, which torch makes meanwhile.
The environment variable SAL_KERNEL=off forbids it, SAL_KERNEL=now compiles at the first batch.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

AFTER_BATCHES = 8
Kernel = Callable[..., None]


class _Compiled:
    """The kernel of this process: asked for, being compiled, or there."""

    def __init__(self) -> None:
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
        kernel = _compile()
        for aligned in (True, False):  # the kinds of rows there are
            memory = np.zeros(3 * 4 + 64, np.uint8)
            begin = -memory.ctypes.data % 64 + (0 if aligned else 1)
            rows = memory[begin : begin + 12].view(np.float32).reshape(1, 3)
            rows.flags.writeable = False
            number, weight = np.zeros((1, 1, 2), np.int64), np.zeros((1, 1, 2), np.float32)
            for matrices in (np.zeros((1, 3, 3), np.float32), np.zeros((0, 3, 3), np.float32)):
                kernel(rows, number, weight, matrices, np.zeros((1, 3, 1, 1), np.float32))
        self._kernel = kernel


_COMPILED = _Compiled()


def fused(rows: torch.Tensor | np.ndarray) -> Kernel | None:
    """The kernel, if there is one for these rows: float32 in main memory.

    kernel(rows (R, C) read-only, number (P, W, 2) int64, weight (P, W, 2), matrices (P, 3, 3) or (0, 3, 3),
    out (P, 3, W, C / 3)), all float32 but `number`; the second neighbour comes first in number and weight.
    """
    return _COMPILED.get() if isinstance(rows, np.ndarray) and rows.dtype == np.float32 else None


def _compile() -> Kernel:
    from numba import njit, types
    from numba.extending import intrinsic

    def fused_multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
        """round(a * b + c), rounded once: the processor's own instruction, which plain Python code has no word for."""
        one = types.float32
        return one(one, one, one), lambda context, builder, signature, values: builder.fma(*values)

    fma: Any = intrinsic(fused_multiply_add)

    def kernel(rows: Any, number: Any, weight: Any, matrices: Any, out: Any) -> None:
        people, window = number.shape[0], number.shape[1]
        columns = rows.shape[1]
        joints = columns // 3
        row = np.empty(columns, np.float32)
        turned = matrices.shape[0] > 0
        for p in range(people):
            if turned:
                m = matrices[p]
                xx, xy, xz, yx, yy, yz, zx, zy, zz = (
                    m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2], m[2, 0], m[2, 1], m[2, 2],
                )  # fmt: skip
            for w in range(window):
                second, first = number[p, w, 0], number[p, w, 1]
                share_second, share_first = weight[p, w, 0], weight[p, w, 1]
                for c in range(columns):
                    row[c] = fma(rows[first, c], share_first, rows[second, c] * share_second)
                if turned:
                    for v in range(joints):
                        x, y, z = row[3 * v], row[3 * v + 1], row[3 * v + 2]
                        out[p, 0, w, v] = xx * x + xy * y + xz * z
                        out[p, 1, w, v] = yx * x + yy * y + yz * z
                        out[p, 2, w, v] = zx * x + zy * y + zz * z
                else:
                    for v in range(joints):
                        out[p, 0, w, v], out[p, 1, w, v], out[p, 2, w, v] = row[3 * v], row[3 * v + 1], row[3 * v + 2]

    compiled: Kernel = njit(nogil=True, error_model="numpy")(kernel)
    return compiled
