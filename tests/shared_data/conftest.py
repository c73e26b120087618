"""Small valid data files that the tests of this room change in one respect each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def synthetic_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 + 20 clips of 5 classes, 90 frames, stored."""
    from shared_data.synthetic import write_synthetic

    file = tmp_path_factory.mktemp("made") / "synthetic.npz"
    return write_synthetic(file, classes=5, train_per_class=8, test_per_class=4, frames=90, seed=11)


@pytest.fixture
def arrays(synthetic_file: Path) -> Arrays:
    """The four arrays of `synthetic_file`, writable."""
    with np.load(synthetic_file, allow_pickle=False) as file:
        return {key: file[key] for key in ("x_train", "y_train", "x_test", "y_test")}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays to an NPZ, stored or deflated."""

    def write(arrays: dict[str, Any], name: str = "data.npz", *, deflated: bool = False) -> Path:
        file = tmp_path / name
        (np.savez_compressed if deflated else np.savez)(file, **arrays)
        return file

    return write


@pytest.fixture(scope="session")
def parity_clips() -> Path:
    """The folder with the pipeline fixtures and their clips."""
    return Path(__file__).resolve().parents[1] / "parity" / "pipelines"
