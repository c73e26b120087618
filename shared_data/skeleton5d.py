"""The five-dimensional layout: NPZ with x (N, 3, T, V, M), y integers (N,) or one-hot.

Source: the layout of AGCN and its successors.
"""

from __future__ import annotations

from pathlib import Path

from shared_data.errors import DataError
from shared_data.fingerprint import array_orders
from shared_data.fourkeys import check_x, read_four_keys
from shared_data.npz import Npz
from shared_data.ragged import SinkMaker, in_memory
from shared_data.skeletons import NTU25, SKELETONS
from shared_data.source import Progress, Source

EXPECTED = "(N, 3, T, 25, M): clips, xyz, frames, joints, people (M from 1 to 8)"
MAX_PEOPLE = 8


def read(
    path: Path,
    *,
    reason: str = "asked for",
    num_classes: int | None = None,
    sinks: SinkMaker = in_memory,
    progress: Progress | None = None,
) -> Source:
    """Read `path`, streaming. Raises `DataError` for what cannot be decoded."""
    with Npz(path) as npz:
        check_x(path, npz, dimensions=5, time_axis=2, expected=EXPECTED)
        shape = npz.members["x_train"].shape
        skeleton = next((layout for layout in SKELETONS.values() if layout.joints == shape[3]), None)
        if shape[1] != 3 or skeleton is None or not 1 <= shape[4] <= MAX_PEOPLE:
            raise DataError(f"shape {shape}", where=f"{path}, key x_train", expected=EXPECTED)
        orders = array_orders(shape[3], shape[4])
        if skeleton is not NTU25 or shape[4] > 2:
            orders = {name: orders[name] for name in list(orders)[:1]}  # only two-person NTU vectors were ever scrambled
        return read_four_keys(
            path, npz, layout="skeleton5d", reason=reason, skeleton=skeleton, people=shape[4], time_axis=2,
            orders=orders, num_classes=num_classes, sinks=sinks, progress=progress,
        )  # fmt: skip
