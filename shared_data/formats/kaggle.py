"""The Kaggle / CTR-GCN layout: NPZ with x (N, T, 150) or (N, T, 75), y one-hot (N, K) or integer (N,).

A vector of 150 is person (2), joint (25), xyz; one of 75 is a single person. Two optional keys are read as well: ``about``
(text) and ``class_names`` (K,). Source: the CTR-GCN preparation, whose product the Kaggle file is.
"""

from __future__ import annotations

from pathlib import Path

from shared_data.errors import DataError
from shared_data.formats.fingerprint import vector_orders
from shared_data.formats.fourkeys import check_x, read_four_keys
from shared_data.formats.look import Look
from shared_data.formats.npz import Npz
from shared_data.formats.options import refuse_options
from shared_data.formats.source import Reading, Source
from shared_data.skeletons import NTU25

EXPECTED = "(N, T, 150): two people, 25 joints, xyz; or (N, T, 75): one person"


def recognise(seen: Look) -> str | None:
    """Why this is the layout, or None."""
    shape = (seen.shapes or {}).get("x_train", ())
    return f"an NPZ whose x_train has three axes, {shape}" if len(shape) == 3 else None


def read(path: Path, how: Reading) -> Source:
    """Read `path`, streaming: memory stays near the size of the ragged rows. Raises `DataError`."""
    refuse_options(path, "kaggle", how.options, "skip_list")
    with Npz(path) as npz:
        check_x(path, npz, dimensions=3, time_axis=1, expected=EXPECTED)
        width = npz.members["x_train"].shape[2]
        if width not in (75, 150):
            raise DataError(
                f"shape {npz.members['x_train'].shape}: frames of {width} numbers",
                where=f"{path}, key x_train",
                expected=EXPECTED,
                next_step="look for a column too many (an index, a time stamp) in what wrote the file",
            )
        people = width // 75
        return read_four_keys(
            path, npz, how, layout="kaggle", skeleton=NTU25, people=people, time_axis=1, orders=vector_orders(25, people)
        )  # fmt: skip
