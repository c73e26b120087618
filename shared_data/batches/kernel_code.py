"""The code of the compiled kernels (see `kernel`): plain loops that numba turns into machine code.

Each of them rounds as the torch path beside it does, operation by operation. Arrays are C-contiguous; only `rows` may be
read-only and begin at any byte, as rows inside a zip do. Slices would be shorter to write, and a quarter slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from shared_data.batches.frames import MOST_JOINTS

Kernel = Callable[..., None]

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def _array(kind: Any, axes: int) -> Any:
    return types.Array(kind, axes, "C")


_FLAGS, _NUMBERS, _INDICES = types.boolean, types.float32, types.int64
_ROWS = types.Array(_NUMBERS, 2, "C", readonly=True, aligned=False)


def _fused_multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """round(a * b + c), rounded once: the processor's own instruction, which plain Python code has no word for."""
    one = types.float32
    return one(one, one, one), lambda context, builder, signature, values: builder.fma(*values)


fma: Any = intrinsic(_fused_multiply_add)


def _blend(second: Any, share_second: Any, first: Any, share_first: Any) -> Any:
    """Two neighbours by their shares, rounded as `gather.blend_exact` rounds. One number: a function of whole rows is slower."""
    return fma(first, share_first, second * share_second)


blend: Any = njit(**_OPTIONS)(_blend)


def channels() -> Kernel:
    """kernel(rows (R, C), number (P, W, 2) int64, weight (P, W, 2), matrices (P, 3, 3) or (0, 3, 3), out (P, 3, W, C / 3)).

    All float32 but `number`; the second neighbour comes first. Frames are blended, turned and split into axes in one pass.
    """
    arguments = _ROWS, _array(_INDICES, 3), _array(_NUMBERS, 3), _array(_NUMBERS, 3), _array(_NUMBERS, 4)
    compiled: Kernel = njit(types.void(*arguments), **_OPTIONS)(_channels)
    return compiled


def _channels(rows: Any, number: Any, weight: Any, matrices: Any, out: Any) -> None:
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
                row[c] = blend(rows[second, c], share_second, rows[first, c], share_first)
            if turned:
                for v in range(joints):
                    x, y, z = row[3 * v], row[3 * v + 1], row[3 * v + 2]
                    out[p, 0, w, v] = xx * x + xy * y + xz * z
                    out[p, 1, w, v] = yx * x + yy * y + yz * z
                    out[p, 2, w, v] = zx * x + zy * y + zz * z
            else:
                for v in range(joints):
                    out[p, 0, w, v], out[p, 1, w, v], out[p, 2, w, v] = row[3 * v], row[3 * v + 1], row[3 * v + 2]


def views() -> Kernel:
    """kernel(rows, zero, step, base, extent, number, weight, swapped, mirror, matrices, hidden, out), for N views.

    rows, zero, step  (R, V * 3) float32, V <= MOST_JOINTS; the row of zeros; the rows from one frame of a person to the next
    base, extent      (N, M) int64, the row of each person's first frame, -1 for nobody; (N,) int64, frames stored
    number, weight    (N, W, 2) int64 and float32: the frames to blend, the second neighbour first
    swapped, mirror   (N,) bool, whether left and right joints exchange names; (V,) int64, the names
    matrices, hidden  (N, 3, 3, V) float32, for each joint; (N, W) bool, frames set to 0
    out               (N, 3, W, V * M) float32, zeros of absent people included
    """
    integer, whole, frames = types.int64, _array(_INDICES, 1), (_array(_INDICES, 3), _array(_NUMBERS, 3))
    changes = _array(_FLAGS, 1), whole, _array(_NUMBERS, 4), _array(_FLAGS, 2)
    arguments = _ROWS, integer, integer, _array(_INDICES, 2), whole, *frames, *changes, _array(_NUMBERS, 4)
    compiled: Kernel = njit(types.void(*arguments), **_OPTIONS)(_views)
    return compiled


def _views(  # noqa: PLR0912, PLR0917 - all in one place is what makes it fast
    rows: Any, zero: Any, step: Any, base: Any, extent: Any, number: Any, weight: Any,
    swapped: Any, mirror: Any, matrices: Any, hidden: Any, out: Any,
) -> None:  # fmt: skip
    people, columns = base.shape[1], rows.shape[1]
    joints = columns // 3
    row = np.empty(columns, np.float32)
    x = np.zeros((3, MOST_JOINTS), np.float32)
    m = np.zeros((3, 3, MOST_JOINTS), np.float32)
    result = np.zeros((people, 3, MOST_JOINTS), np.float32)
    for n in range(len(base)):
        for i in range(3):
            for j in range(3):
                for v in range(joints):
                    m[i, j, v] = matrices[n, i, j, v]
        for p in range(people):
            if base[n, p] < 0:
                for i in range(3):
                    for v in range(joints):
                        result[p, i, v] = 0
        for w in range(number.shape[1]):
            if hidden[n, w]:
                for i in range(3):
                    for v in range(joints * people):
                        out[n, i, w, v] = 0
                continue
            share_second, share_first = weight[n, w, 0], weight[n, w, 1]
            for p in range(people):
                if base[n, p] < 0:
                    continue
                second = base[n, p] + number[n, w, 0] * step if 0 <= number[n, w, 0] < extent[n] else zero
                first = base[n, p] + number[n, w, 1] * step if 0 <= number[n, w, 1] < extent[n] else zero
                for c in range(columns):
                    row[c] = blend(rows[second, c], share_second, rows[first, c], share_first)
                if swapped[n]:
                    for v in range(joints):
                        begin = 3 * mirror[v]
                        x[0, v], x[1, v], x[2, v] = row[begin], row[begin + 1], row[begin + 2]
                else:
                    for v in range(joints):
                        x[0, v], x[1, v], x[2, v] = row[3 * v], row[3 * v + 1], row[3 * v + 2]
                for i in range(3):
                    for v in range(MOST_JOINTS):  # a number known to the compiler: whole vectors, nothing left over
                        result[p, i, v] = m[i, 0, v] * x[0, v] + m[i, 1, v] * x[1, v] + m[i, 2, v] * x[2, v]
            if people == 2:  # known to the compiler, too
                for i in range(3):
                    for v in range(joints):
                        out[n, i, w, 2 * v], out[n, i, w, 2 * v + 1] = result[0, i, v], result[1, i, v]
            else:
                for i in range(3):
                    for v in range(joints):
                        for p in range(people):
                            out[n, i, w, v * people + p] = result[p, i, v]
