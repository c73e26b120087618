"""The archive reader by itself: blocks, memory maps, and numpy as the judge."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_data.errors import DataError
from shared_data.formats.npz import Npz


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    np.savez(
        path,
        x=rng.normal(size=(13, 400, 3)),
        empty=np.zeros((0, 5)),
        one=np.array(7),
        f=np.asfortranarray(rng.normal(size=(5, 2))),
    )
    return path


def test_members_are_what_numpy_reads(file):
    with Npz(file) as npz, np.load(file, allow_pickle=False) as judge:
        assert list(npz.members) == judge.files
        for key in judge.files:
            np.testing.assert_array_equal(npz.read(key), judge[key])
            assert npz.read(key).dtype == judge[key].dtype and npz.members[key].shape == judge[key].shape


@pytest.mark.parametrize("samples", [1, 4, 13, 50])
@pytest.mark.parametrize("key", ["x", "f", "empty"])
def test_blocks_cover_the_array_in_order(file, samples, key):
    with Npz(file) as npz:
        parts = [(start, block.copy()) for start, block in npz.blocks(key, samples)]
        assert [start for start, _ in parts] == list(range(0, npz.members[key].shape[0], samples))
        together = np.concatenate([block for _, block in parts]) if parts else np.zeros((0, 5))
        np.testing.assert_array_equal(together, npz.read(key))


@pytest.mark.parametrize("key", ["x", "f"])
def test_stored_members_are_mapped_in_place(file, key):
    with Npz(file) as npz:
        mapped = npz.memmap(key)
        assert isinstance(mapped, np.memmap) and mapped.mode == "r"
        np.testing.assert_array_equal(mapped, npz.read(key))
        with pytest.raises(DataError, match="empty"):
            npz.memmap("empty")


def test_a_map_works_at_an_odd_offset(tmp_path):
    for pad in range(4):
        path = tmp_path / f"{pad}.npz"
        x = np.arange(12, dtype=np.float64).reshape(3, 4)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pad.txt", "x" * pad)
            with archive.open("x.npy", "w", force_zip64=bool(pad % 2)) as stream:
                np.lib.format.write_array(stream, x)
        with Npz(path) as npz:
            assert npz.ignored == ["pad.txt"]
            np.testing.assert_array_equal(npz.memmap("x"), x)


def test_compressed_members_are_not_mapped(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(9))
    with Npz(tmp_path / "a.npz") as npz:
        assert not npz.members["x"].stored
        with pytest.raises(DataError, match="compressed"):
            npz.memmap("x")


def test_too_large_for_one_read_is_said(file):
    with Npz(file) as npz, pytest.raises(DataError, match="too large"):
        npz.read("x", limit=100)


def test_a_flipped_byte_is_found_only_at_the_end_of_the_member(file):
    content = bytearray(file.read_bytes())
    at = content.find(b"NUMPY") + 200
    content[at] ^= 1
    file.write_bytes(content)
    with Npz(file) as npz:
        with pytest.raises(DataError, match="CRC"):
            npz.read("x")
        blocks = npz.blocks("x", 4)
        assert [next(blocks)[0] for _ in range(3)] == [0, 4, 8]
        with pytest.raises(DataError, match="CRC"):
            next(blocks)


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(
        st.one_of(hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)), st.just(np.bool_)),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    deflated=st.booleans(),
    fortran=st.booleans(),
)
def test_any_array_of_numbers_survives(tmp_path_factory, array, deflated, fortran):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    array = np.asfortranarray(array) if fortran and array.ndim else array
    (np.savez_compressed if deflated else np.savez)(path, x=array)
    with Npz(path) as npz:
        np.testing.assert_array_equal(npz.read("x"), array)
        assert npz.members["x"].dtype == array.dtype
