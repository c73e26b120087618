"""The store gives back exactly what its source held, through a memory map, and is whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared_data import store
from shared_data.atomic import WriteError
from shared_data.check import check
from shared_data.datasets import honest, open_data
from shared_data.errors import DataError, MissingInputError, UsageError
from shared_data.formats.options import ReadOptions
from shared_data.store import info, prepare, sha256

INDEX = ("rows", "offset", "extent", "valid", "people", "labels", "ids")


def assert_same(left, right):
    for split in ("train", "test"):
        a, b = getattr(left, split), getattr(right, split)
        for name in INDEX:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=f"{split}.{name}")
            assert getattr(a, name).dtype == getattr(b, name).dtype or name == "ids"
        assert (a.max_people, a.frames) == (b.max_people, b.frames)
    assert (left.num_classes, left.class_names, left.skeleton) == (right.num_classes, right.class_names, right.skeleton)


@pytest.mark.parametrize("source", ["clips_ntu.npz", "clips_ucla.zip", "synthetic"])
def test_store_equals_source(source, parity_clips, synthetic_file, tmp_path):
    path = synthetic_file if source == "synthetic" else parity_clips / source
    made = prepare(path, tmp_path / "data.h5")
    direct, stored = open_data(path), open_data(made)
    assert stored.layout == "store" and direct.layout in stored.reason and path.name in stored.reason
    assert_same(direct, stored)
    assert [f.code for f in stored.findings] == [f.code for f in direct.findings]
    assert sorted(tmp_path.iterdir()) == [made], "no partial files stay behind"


def test_rows_are_mapped_where_they_lie_and_read_only(synthetic_file, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    rows = open_data(made).train.rows
    assert isinstance(rows, np.memmap) and rows.mode == "r" and rows.offset % 64 == 0
    with h5py.File(made) as file:
        data = file["train/rows"]
        assert data.chunks is None and data.compression is None and data.id.get_offset() == rows.offset
        np.testing.assert_array_equal(data[()], rows)
    with pytest.raises(ValueError, match="read-only"):
        rows[1] = 0


def test_stored_and_deflated_sources_give_the_same_bytes(arrays, save, tmp_path):
    stores = [
        prepare(save(arrays, f"{deflated}.npz", deflated=deflated), tmp_path / f"{deflated}.h5") for deflated in (False, True)
    ]
    assert_same(*map(open_data, stores))


def test_info_tells_the_provenance(synthetic_file, parity_clips, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    told = json.loads(json.dumps(info(made)))
    assert told["source_sha256"] == hashlib.sha256(synthetic_file.read_bytes()).hexdigest()
    assert (told["schema_version"], told["layout"], told["skeleton"], told["units"]) == (1, "kaggle", "ntu25", "metre")
    assert told["source_name"] == synthetic_file.name and "synthetic" in told["about"]
    assert told["splits"]["train"]["clips"] == 40 and told["classes"] == 5
    assert info(synthetic_file)["arrays"]["x_train"]["shape"] == [40, 90, 150]
    assert info(parity_clips / "clips_ucla.zip")["layout"] == "nw_ucla"


def test_sha256_of_a_folder_depends_on_names_and_content(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = sha256(folder)
    (folder / "a").rename(folder / "b")
    second = sha256(folder)
    (folder / "b").write_text("2")
    assert len({first, second, sha256(folder)}) == 3


def test_an_older_store_is_replaced_but_no_other_file(synthetic_file, parity_clips, tmp_path):
    target = tmp_path / "data.h5"
    prepare(synthetic_file, target)
    prepare(parity_clips / "clips_ucla.zip", target)
    assert open_data(target).skeleton.name == "ucla20"
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match="left alone"):
        prepare(synthetic_file, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for odd in (tmp_path, tmp_path / "none" / "data.h5"):
        with pytest.raises(WriteError) as error:
            prepare(synthetic_file, odd)
        assert error.value.exit_code == 74


def test_failure_while_writing_leaves_the_old_store(synthetic_file, tmp_path, monkeypatch):
    target = prepare(synthetic_file, tmp_path / "data.h5")
    before = target.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        prepare(synthetic_file, target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_file_size_limit_is_a_clear_error(synthetic_file, tmp_path):
    program = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
from pathlib import Path
from shared_data.errors import LabError
from shared_data.store import prepare
try:
    prepare(Path({str(synthetic_file)!r}), Path({str(tmp_path / "data.h5")!r}))
except LabError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 74 and "could not write" in ran.stdout, ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_at_any_moment_is_a_clear_error(synthetic_file, tmp_path):
    """While rows are set aside, while HDF5 writes them, and when it closes the file, which it reports in a way of its own."""
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from shared_data.errors import LabError
from shared_data.store import prepare
source, target = Path({str(synthetic_file)!r}), Path({str(tmp_path / "data.h5")!r})
size = prepare(source, target).stat().st_size
before = target.read_bytes()
for limit in [*range(2000, size, size // 40), size - 3000, size - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prepare(source, target)
    except LabError as error:
        print(error.exit_code, "could not write the store" in str(error))
    assert target.read_bytes() == before and list(target.parent.iterdir()) == [target]
"""
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.splitlines()) == {"74 True"} and len(ran.stdout.splitlines()) >= 40


def test_no_store_that_cannot_be_opened_gets_its_name(synthetic_file, tmp_path, monkeypatch):
    """HDF5 drops NULs at the end of a text, so that two names became one: a stand-in for what no reader lets through now."""
    target = prepare(synthetic_file, tmp_path / "data.h5")
    before, real = target.read_bytes(), store.settle

    def same_names(source, options):
        clips, findings = real(source, options)
        train = clips["train"]
        return {**clips, "train": replace(train, ids=np.array([*train.ids[:-1], train.ids[0]]))}, findings

    monkeypatch.setattr(store, "settle", same_names)
    for name in ("data.h5", "new.h5"):
        with pytest.raises(DataError, match=r"could not be opened.*of the same name") as error:
            prepare(synthetic_file, tmp_path / name)
        assert str(synthetic_file) in str(error.value)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_run_do_no_harm_and_two_runs_exclude_each_other(synthetic_file, tmp_path):
    target = tmp_path / "data.h5"
    (tmp_path / ".data.h5.partial").write_bytes(b"junk" * 1000)
    assert_same(open_data(prepare(synthetic_file, target)), open_data(synthetic_file))
    with (tmp_path / ".data.h5.partial").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(WriteError, match="another command"):
            prepare(synthetic_file, target)
        assert (tmp_path / ".data.h5.partial").exists()


def test_damage_of_the_rows_is_found_by_check(synthetic_file, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    assert check(made).ok
    content = bytearray(made.read_bytes())
    content[open_data(made).test.rows.offset + 5000] ^= 1
    made.write_bytes(content)
    with pytest.raises(DataError, match="differ from what was written"):
        check(made)


def edit(change):
    def build(made: Path) -> Path:
        with h5py.File(made, "r+") as file:
            change(file)
        return made

    return build


def relabel(file):
    file["train/labels"][3] = 4 - file["train/labels"][3] // 4 * 4


def link_out(file):
    del file["train/rows"]
    file["train/rows"] = h5py.ExternalLink("other.h5", "rows")


def external(file):
    shape, dtype = file["test/rows"].shape, file["test/rows"].dtype
    del file["test/rows"]
    file.create_dataset("test/rows", shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def chunked(file):
    rows = file["test/rows"][()]
    del file["test/rows"]
    file.create_dataset("test/rows", data=rows, chunks=(8, 25, 3))


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


EDITS = {
    "label changed": (edit(relabel), "index differs"),
    "label out of range": (edit(lambda f: f["train/labels"].__setitem__(3, 99)), "damaged store"),
    "offset out of range": (edit(lambda f: f["train/offset"].__setitem__(3, 2**40)), "damaged store"),
    "padding that is not zero": (edit(lambda f: f["train/rows"].__setitem__((0, 3, 1), 1e-9)), "is not zero"),
    "padding that is NaN": (edit(lambda f: f["test/rows"].__setitem__(0, np.nan)), "is not zero"),
    "short index": (edit(lambda f: f["train"].pop("people")), "damaged store"),
    "link to another file": (edit(link_out), "link"),
    "external storage": (edit(external), "not a plain dataset"),
    "chunked rows": (edit(chunked), "contiguous"),
    "newer schema": (edit(attribute("schema_version", 99)), "schema version 99"),
    "foreign HDF5": (edit(attribute("format", "else")), "not a store of this lab"),
    "unknown skeleton": (edit(attribute("skeleton", "octopus")), "octopus"),
    "no names": (edit(lambda f: f.pop("class_names")), "missing"),
    "truncated": (lambda made: made.write_bytes(made.read_bytes()[:-3000]) and made, "damaged store"),
    "only a signature": (lambda made: made.write_bytes(b"\x89HDF\r\n\x1a\n") and made, "damaged store"),
}


def test_an_offset_that_overflows_is_outside_the_rows_whatever_the_checksum_says(synthetic_file, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    train = store.open_store(made).clips["train"]
    offset = np.array(train.offset)
    offset[3] = 2**63 - 1
    with h5py.File(made, "r+") as file:
        file["train/offset"][:] = offset
        file["train"].attrs["index_crc32"] = store._index_check(replace(train, offset=offset))
    with pytest.raises(DataError, match="clip 3 points outside"):
        open_data(made)


@pytest.mark.parametrize("case", EDITS)
def test_damaged_or_foreign_stores_are_refused(case, synthetic_file, tmp_path):
    change, word = EDITS[case]
    file = change(prepare(synthetic_file, tmp_path / "data.h5")) and tmp_path / "data.h5"
    for action in (open_data, check, info):
        with pytest.raises(DataError) as error:
            action(file)
        assert word in str(error.value) and str(file) in str(error.value)


def test_a_store_is_no_source_and_must_exist(synthetic_file, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    with pytest.raises(DataError, match="already a store"):
        prepare(made, tmp_path / "again.h5")
    with pytest.raises(MissingInputError):
        open_data(tmp_path / "none.h5", layout="store")
    with pytest.raises(DataError, match="not even HDF5"):
        open_data(synthetic_file, layout="store")
    with pytest.raises(DataError, match="60 classes"):
        open_data(made, options=ReadOptions(num_classes=60))
    for use in (open_data, check):
        with pytest.raises(UsageError, match="--repair means nothing"):
            use(made, options=ReadOptions(repair=True))


def test_honest_is_the_same_for_store_and_source(synthetic_file, parity_clips, tmp_path):
    for number, path in enumerate((synthetic_file, parity_clips / "clips_ucla.zip")):
        direct, stored = honest(open_data(path)), honest(open_data(prepare(path, tmp_path / f"{number}.h5")))
        assert direct.test.ids.tolist() == stored.test.ids.tolist()
        assert direct.train.ids.tolist() == stored.train.ids.tolist()


def test_names_of_any_alphabet_survive(tmp_path):
    for name in ("a01_s01_e00_v01", "a01_s01_e00_v03"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"skeletons": np.ones((2, 20, 3)).tolist()}))
    made = prepare(tmp_path, tmp_path.parent / f"{tmp_path.name}.h5")
    assert open_data(made).train.ids.tolist() == ["a01_s01_e00_v01"]
    np.testing.assert_array_equal(store._texts(np.array(["aé".encode(), b"b"])), ["aé", "b"])
    np.testing.assert_array_equal(store._texts(np.array([b"train_0", b"train_17"])), ["train_0", "train_17"])


def test_files_of_the_user_beside_and_under_the_target_are_left_alone(synthetic_file, tmp_path):
    """A file with a name like ours, a link in the place of ours, another HDF5 file, a pipe."""
    (tmp_path / "v.h5.partial").write_text("mine")
    thesis = tmp_path / "thesis"
    thesis.write_text("mine")
    (tmp_path / ".w.h5.partial").symlink_to(thesis)
    prepare(synthetic_file, tmp_path / "v.h5")
    assert (tmp_path / "v.h5.partial").read_text() == "mine"
    with pytest.raises(WriteError):
        prepare(synthetic_file, tmp_path / "w.h5")
    assert thesis.read_text() == "mine"
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["w"] = [1, 2, 3]
    os.mkfifo(tmp_path / "pipe.h5")
    for name in ("weights.h5", "pipe.h5", "nul\0.h5", "x" * 300 + ".h5"):
        with pytest.raises(WriteError):
            prepare(synthetic_file, tmp_path / name)
    with h5py.File(tmp_path / "weights.h5") as file:
        assert file["w"][()].tolist() == [1, 2, 3]


def test_a_link_is_neither_replaced_nor_followed(synthetic_file, tmp_path):
    kept = prepare(synthetic_file, tmp_path / "kept.h5")
    before = kept.read_bytes()
    for name, place in (("data.h5", kept), ("new.h5", tmp_path / "none.h5")):
        (tmp_path / name).symlink_to(place)
        with pytest.raises(WriteError, match="a link") as error:
            prepare(synthetic_file, tmp_path / name)
        assert error.value.exit_code == 74 and (tmp_path / name).is_symlink()
    assert kept.read_bytes() == before and not (tmp_path / "none.h5").exists()
    assert_same(open_data(tmp_path / "data.h5"), open_data(kept))


def test_a_store_that_claims_more_than_it_holds_is_refused(synthetic_file, tmp_path):
    made = prepare(synthetic_file, tmp_path / "data.h5")
    with h5py.File(made, "a") as file:
        del file["findings"]
        file.create_dataset("findings", shape=(10**12,), dtype="u1", chunks=(1 << 20,))
    with pytest.raises(DataError, match="claims more bytes"):
        open_data(made)
