"""The five-dimensional layout: NPZ with x (N, 3, T, V, M), y integers (N,) or one-hot.

Source: the layout of AGCN and its successors.
"""

from __future__ import annotations

from pathlib import Path

from shared_data.errors import DataError
from shared_data.formats.fingerprint import array_orders
from shared_data.formats.fourkeys import check_x, read_four_keys
from shared_data.formats.look import Look
from shared_data.formats.npz import Npz
from shared_data.formats.options import refuse_options
from shared_data.formats.source import Reading, Source
from shared_data.skeletons import NTU25, with_joints

EXPECTED = "(N, 3, T, V, M): clips, xyz, frames, 25, 20, 18 or 17 joints, people (M from 1 to 8)"
MAX_PEOPLE = 8


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    shape = (seen.shapes or {}).get("x_train", ())
    return f"an NPZ whose x_train has five axes, {shape}" if len(shape) == 5 else None


def read(path: Path, how: Reading) -> Source:
    """Read `path`, streaming. Raises `DataError` for what cannot be decoded."""
    refuse_options(path, "skeleton5d", how.options, "skip_list")
    with Npz(path) as npz:
        check_x(path, npz, dimensions=5, time_axis=2, expected=EXPECTED)
        shape = npz.members["x_train"].shape
        skeleton = with_joints(shape[3])
        if shape[1] != 3 or skeleton is None or not 1 <= shape[4] <= MAX_PEOPLE:
            raise DataError(f"shape {shape}", where=f"{path}, key x_train", expected=EXPECTED)
        orders = array_orders(shape[3], shape[4])
        if skeleton is not NTU25 or shape[4] > 2:
            orders = {name: orders[name] for name in list(orders)[:1]}  # only two-person NTU vectors were ever scrambled
            refuse_options(path, "skeleton5d with other joints than NTU's, or more than two people", how.options, "repair")
        return read_four_keys(
            path, npz, how, layout="skeleton5d", skeleton=skeleton, people=shape[4], time_axis=2, orders=orders
        )  # fmt: skip
