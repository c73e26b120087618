"""The judge of input pipelines: passes what is right, sees every kind of wrong, refuses what it cannot judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.parity.fixture import FixtureError
from engine.parity.lines import Line
from engine.parity.pipelines import examine, judge
from engine.parity.readers import READERS

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "pipelines"
Change = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


@pytest.mark.parametrize("name", sorted(file.stem for file in FIXTURES.glob("*.npz") if file.stem != "clips_ntu"))
def test_the_official_outputs_are_reproduced(name: str) -> None:
    found = examine(FIXTURES / f"{name}.npz")
    wrong = [line for line in found.lines if not line.ok]
    assert not wrong
    meta = json.loads(str(np.load(FIXTURES / f"{name}.npz")["meta"]))
    for group in meta["groups"]:
        judged = {line.quantity.removeprefix(f"{group} ") for line in found.lines if line.quantity.startswith(group)}
        assert {"sum", "sumsq", "wsum"} <= judged or name == "lasa_features"
    assert len(found.lines) > 10


def test_there_is_a_fixture_of_every_reader() -> None:
    metas = [json.loads(str(np.load(file)["meta"])) for file in FIXTURES.glob("*.npz") if file.stem != "clips_ntu"]
    assert {(meta["code"], "UCLA" in meta["title"].upper()) for meta in metas} == set(READERS)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, Change], Path]:
    """A fixture with something changed, its clips beside it."""

    def make(name: str, change: Change) -> Path:
        with np.load(FIXTURES / f"{name}.npz") as file:
            arrays = {key: file[key].copy() for key in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        change(meta, arrays)
        for clips in ("clips_ntu.npz", "clips_ucla.zip"):
            shutil.copy(FIXTURES / clips, tmp_path)
        np.savez(tmp_path / f"{name}.npz", meta=np.array(json.dumps(meta)), **arrays)
        return tmp_path / f"{name}.npz"

    return make


def failures(lines: list[Line]) -> list[str]:
    return [line.quantity for line in lines if not line.ok]


def test_other_values_are_seen(changed: Callable[[str, Change], Path]) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["test/j/full"][1, 2, 3, 4, 0] += 2e-6
        arrays["test/b/sample"][3, 5] += 2e-6
        arrays["test/jm/wsum"][0] += 2e-5
        arrays["test/bm/sumsq"][7] *= 1 + 1e-5
        arrays["train/j/sum"][2] += 1e-2
        arrays["train/bm/sample"][0, 0] = np.nan
        meta["groups"]["test/j"]["labels"][4] += 1

    assert failures(judge(changed("ctrgcn_ntu", change))) == [
        "test/j full", "test/j labels", "test/b sample", "test/jm wsum", "test/bm sumsq", "train/j sum", "train/bm sample",
    ]  # fmt: skip


def test_options_and_draws_come_from_the_fixture(changed: Callable[[str, Change], Path]) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["groups"]["test/j"]["options"]["p_interval"] = [0.8]
        meta["groups"]["test/b"]["options"]["bone"] = False
        meta["groups"]["test/jm"]["options"]["window"] = 52
        train = meta["groups"]["train/j"]
        train["options"]["random_rot"] = False
        train["draws"][11]["length"] -= 1
        train["draws"][3]["valid"] += 1

    failed = failures(judge(changed("ctrgcn_ntu", change)))
    assert {"test/j sample", "test/b sample", "test/jm shape", "train/j valid frames", "train/j crop length"} <= set(failed)
    assert "train/j sample" in failed
    assert not [quantity for quantity in failed if quantity.startswith(("test/bm", "train/bm"))]

    def change_ucla(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["groups"]["test/j"]["options"]["data_type"] = "b"
        meta["groups"]["train/j"]["draws"][3]["angle_x_deg"] += 1
        meta["groups"]["train/bm"]["draws"][4]["frames"][0] += 1

    failed = failures(judge(changed("ctrgcn_ucla", change_ucla)))
    assert {"test/j sample", "train/j sample", "train/bm wsum"} <= set(failed)
    assert not [quantity for quantity in failed if quantity.startswith(("test/b ", "test/jm", "test/bm"))]


def test_what_cannot_be_judged_is_refused_with_exit_code_2(changed: Callable[[str, Change], Path], tmp_path: Path) -> None:
    def expect(path: Path, message: str) -> None:
        with pytest.raises(FixtureError, match=message) as caught:
            judge(path)
        assert caught.value.exit_code == 2

    expect(tmp_path / "none.npz", "no such file")
    expect(FIXTURES / "clips_ntu.npz", "not a fixture")
    (tmp_path / "text.npz").write_text("hello")
    expect(tmp_path / "text.npz", "not a fixture")
    np.savez(tmp_path / "object.npz", meta=np.array([{"a": 1}], dtype=object))
    expect(tmp_path / "object.npz", "not a fixture")
    expect(changed("ctrgcn_ntu", lambda meta, _: meta.update(code="2s-AGCN", title="agcn")), "no pipeline yet .*agcn")
    expect(changed("ctrgcn_ntu", lambda meta, _: meta["groups"]["train/j"]["draws"].pop()), "train/j cannot be replayed")
    expect(changed("ctrgcn_ntu", lambda meta, _: meta["groups"]["test/j"]["clips"].append(99)), "cannot be replayed")
    expect(changed("ctrgcn_ntu", lambda _, arrays: arrays.pop("test/b/sample")), "test/b cannot be replayed")
    expect(changed("ctrgcn_ucla", lambda meta, _: meta["names"].__setitem__(0, "a01_s09_e09_v01")), "cannot be replayed")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(FIXTURES / "ctrgcn_ntu.npz", alone)
    expect(alone / "ctrgcn_ntu.npz", "clips of the fixture are missing")
