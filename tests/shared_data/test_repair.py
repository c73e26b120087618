"""Files whose 150 numbers are in a wrong order: refused, and repaired to the last bit where that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import DataError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.store import prepare

ORDERS = {
    "joint, xyz, person": (25, 3, 2),
    "joint, person, xyz": (25, 2, 3),
    "xyz, joint, person": (3, 25, 2),
    "xyz, person, joint": (3, 2, 25),
    "person, xyz, joint": (2, 3, 25),
}
REPAIR = ReadOptions(repair=True)


def scrambled(x: np.ndarray, order: str) -> np.ndarray:
    """Vectors in the right order -> vectors in `order`."""
    n, t, _ = x.shape
    people = x.reshape(n, t, 2, 25, 3)
    axes = [2 + ("person", "joint", "xyz").index(name) for name in order.split(", ")]
    return np.ascontiguousarray(people.transpose(0, 1, *axes)).reshape(n, t, 150)


def converted(x: np.ndarray, order: str) -> np.ndarray:
    """What a converter makes of right vectors if it takes them to be in `order`: (N, 3, T, 25, 2)."""
    names = order.split(", ")
    axes = (2 + names.index(name) for name in ("xyz", "joint", "person"))
    xyz, joint, person = axes
    return np.ascontiguousarray(x.reshape(*x.shape[:2], *ORDERS[order]).transpose(0, xyz, 1, joint, person))


@pytest.mark.parametrize("change", [scrambled, converted])
@pytest.mark.parametrize("order", ORDERS)
def test_repaired_is_bit_identical_to_the_unscrambled_file(order, change, arrays, save, synthetic_file, tmp_path):
    for key in ("x_train", "x_test"):
        arrays[key] = change(arrays[key], order)
    file = save(arrays)
    with pytest.raises(DataError, match="--repair"):
        open_data(file)
    assert not check(file).ok
    right, made = open_data(synthetic_file), open_data(file, options=REPAIR)
    store = open_data(prepare(file, tmp_path / "data.h5", options=REPAIR))
    for split in ("train", "test"):
        for name in ("rows", "offset", "extent", "valid", "people", "labels"):
            want = getattr(getattr(right, split), name)
            assert want.tobytes() == getattr(getattr(made, split), name).tobytes(), name
            assert want.tobytes() == np.asarray(getattr(getattr(store, split), name)).tobytes(), name
    for data in (made, store):
        told = [f for f in data.findings if f.code == "layout-repaired"]
        assert [f.where for f in told] == ["x_train", "x_test"] and {f.severity for f in told} == {"warning"}
        assert all(f"ordered {order}, not person, joint, xyz" in f.message and "bone" in f.message for f in told)
    assert check(file, options=REPAIR).ok


def test_a_right_file_is_left_as_it_is(synthetic_file):
    seen = []
    data = open_data(synthetic_file, options=REPAIR, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (120, 120), "read twice"
    assert {f.code for f in data.findings if f.where.startswith("x_")} == {"layout-confirmed"}
    np.testing.assert_array_equal(data.train.rows, open_data(synthetic_file).train.rows)


def test_splits_that_disagree_are_refused(arrays, save):
    arrays["x_train"] = scrambled(arrays["x_train"], "joint, xyz, person")
    with pytest.raises(DataError, match="x_train joint, xyz, person, x_test person, joint, xyz"):
        open_data(save(arrays), options=REPAIR)
    arrays["x_test"] = np.random.default_rng(0).normal(size=arrays["x_test"].shape).astype(np.float32)
    with pytest.raises(DataError, match="x_test cannot be told"):
        open_data(save(arrays), options=REPAIR)


@pytest.mark.parametrize("known", ["both unknown", "the other right", "the other wrong"])
def test_nothing_is_repaired_by_a_guess(known, arrays, save, tmp_path):
    """A split whose order cannot be told is an error even if nothing would be changed: it was asked to be made right."""
    rng = np.random.default_rng(0)
    arrays["x_test"] = rng.normal(size=arrays["x_test"].shape).astype(np.float32)
    if known == "both unknown":
        arrays["x_train"] = rng.normal(size=arrays["x_train"].shape).astype(np.float32)
    elif known == "the other wrong":
        arrays["x_train"] = scrambled(arrays["x_train"], "xyz, person, joint")
    file = save(arrays)
    report = check(file, options=REPAIR)
    assert not report.ok and next(f.code for f in report.findings if f.severity == "error") == "repair-unclear"
    with pytest.raises(DataError, match=r"nothing was repaired.*x_test cannot be told"):
        prepare(file, tmp_path / "data.h5", options=REPAIR)
    assert not (tmp_path / "data.h5").exists()


def test_where_there_is_one_order_only_a_repair_is_refused(save, tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 3, 6, 20, 1)).astype(np.float32)
    file = save({"x_train": x, "x_test": x + 1, "y_train": np.arange(8) % 2, "y_test": np.arange(8) % 2})
    assert check(file).ok
    with pytest.raises(UsageError, match="--repair means nothing"):
        open_data(file, options=REPAIR)
