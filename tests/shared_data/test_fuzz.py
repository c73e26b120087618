"""Anything may be wrong with the bytes of a file: the reader then raises our own error, or gives back the original data."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_data import inplace
from shared_data.check import check
from shared_data.datasets import open_data
from shared_data.errors import LabError
from shared_data.formats.options import ReadOptions
from shared_data.store import info, prepare

RIGHT = np.random.default_rng(3).normal(size=(4, 5, 150)).astype(np.float32)
RIGHT[:, 3:] = 0
RIGHT[1:, :, 75:] = 0
LABELS = [0, 1, 0, 1]
FORMS = ("stored", "deflated", "store")
NPY_FIELDS = (  # texts of headers that are worth lying about
    (b"<f4", b"<f8"), (b"<f4", b"|O8"), (b"<f4", b">f4"), (b"<f4", b"<i4"), (b"<f4", b"<U1"), (b"<f8", b"<i8"), (b"<f8", b"<c8"),
    (b"False", b"True "), (b"(4, 5, 150)", b"(5, 4, 150)"), (b"(4, 5, 150)", b"(4, 150, 5)"), (b"(4, 5, 150)", b"(4, 5, 75) "),
    (b"(4, 5, 150)", b"(-4,5,-150)"), (b"(4, 5, 150)", b"(4, 10, 75)"), (b"(4, 5, 150)", b"(3000,)    "), (b"(4, 2)", b"(2, 4)"),
    (b"(4, 2)", b"(8,)  "), (b"(4, 2)", b"(8, 1)"), (b"descr", b"order"), (b"NUMPY", b"NUMPX"), (b"NUMPY\x01", b"NUMPY\x03"),
)  # fmt: skip
FIELDS = (
    *NPY_FIELDS, (b"x_test", b"x_tesT"), (b"y_train", b"x_train"), (b"x_train.npy", b"../rain.npy"),
    (b"PK\x01\x02", b"PK\x01\x03"), (b"PK\x05\x06", b"PK\x05\x05"),
    (b"ntu25", b"ucla2"), (b"kaggle", b"kaggl"), (b"offset", b"extent"), (b"TREE", b"HEAP"),
)  # fmt: skip
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Files(dict[str, bytes]):
    """Contents by form, shown short when a test fails."""

    def __repr__(self) -> str:
        return f"the files of the fixture {list(self)}"


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Files:
    """A small file of every form."""
    folder = tmp_path_factory.mktemp("valid")
    arrays = {"x_train": RIGHT, "y_train": np.eye(2)[LABELS], "x_test": RIGHT[:3], "y_test": np.eye(2)[LABELS[:3]]}
    np.savez(folder / "stored", **arrays)
    np.savez_compressed(folder / "deflated", **arrays)
    prepare(folder / "stored.npz", folder / "store")
    return Files({form: (folder / (form if form == "store" else f"{form}.npz")).read_bytes() for form in FORMS})


def assert_right_or_our_error(file: Path, content: bytes) -> None:
    """Every way to use `file` raises a `LabError` or shows the original clips; after a good check, opening shows them."""
    file.write_bytes(content)
    good = True
    try:
        check(file).raise_if_bad()
    except LabError:
        good = False
    assert_our_errors(file)
    try:
        data = open_data(file)
        assert_right(data) if good else [data.train.clip(n) for n in range(len(data.train))]
    except LabError:
        assert not good
        return
    if data.layout != "store":
        made = prepare(file, file.with_name("again.h5"))
        assert_right(open_data(made))
        made.unlink()


def assert_our_errors(file: Path) -> None:
    """Whatever is asked of `file`, only a `LabError` comes out."""
    store = file.with_name("again.h5")
    for use in (
        info, check, lambda f: check(f, options=ReadOptions(on_bad="drop")), open_data, lambda f: prepare(f, store),
        lambda f: open_data(f, options=ReadOptions(repair=True, on_bad="drop")),
    ):  # fmt: skip
        with contextlib.suppress(LabError):
            use(file)
    store.unlink(missing_ok=True)


def assert_right(data) -> None:
    assert data.train.labels.tolist() == LABELS and data.test.labels.tolist() == LABELS[:3]
    for n in range(4):
        clip = data.train.clip(n)
        assert clip.tobytes() == RIGHT[n].reshape(5, 2, 25, 3)[: clip.shape[0], : clip.shape[1]].tobytes()
        assert clip.shape[:2] == (3, 2 if n == 0 else 1)


@QUICK
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_bytes_flipped_cut_inserted_and_moved(data, form, valid, tmp_path):
    content = bytearray(valid[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "copy", "truncate"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            content[at : at + 4] = data.draw(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0"])
            )
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 400))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        elif kind == "copy":
            origin = data.draw(st.integers(0, len(content) - 1))
            length = data.draw(st.integers(1, 300))
            content[at : at + length] = content[origin : origin + length]
        else:
            del content[at:]
        if not content:
            break
    assert_right_or_our_error(tmp_path / "f", bytes(content))


@QUICK
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_headers_that_lie(data, form, valid, tmp_path):
    content = valid[form]
    found = [(old, new) for old, new in FIELDS if old in content]
    for old, new in data.draw(st.lists(st.sampled_from(found), min_size=1, max_size=3, unique=True)):
        places = [i for i in range(len(content)) if content.startswith(old, i)]
        if places:
            at = data.draw(st.sampled_from(places))
            content = content[:at] + new.ljust(len(old))[: len(old)] + content[at + len(old) :]
    assert_right_or_our_error(tmp_path / "f", content)


@QUICK
@given(one=st.sampled_from(FORMS), other=st.sampled_from(FORMS), share=st.floats(0, 1), overlap=st.integers(-200, 200))
def test_the_start_of_one_file_and_the_end_of_another(one, other, share, overlap, valid, tmp_path):
    at = int(share * len(valid[one]))
    begin = max(0, int(share * len(valid[other])) + overlap)
    assert_right_or_our_error(tmp_path / "f", valid[one][:at] + valid[other][begin:])


MEMBERS = st.sampled_from(["x_train", "y_train", "x_test", "about", "../x", "", "x_train/"])


@settings(parent=QUICK, max_examples=40)
@given(change=st.dictionaries(MEMBERS, st.binary(max_size=300)))
def test_members_of_any_bytes(change, valid, tmp_path):
    """The zip layer is content (its checksums are right): what is inside is not."""
    (tmp_path / "v").write_bytes(valid["stored"])
    with zipfile.ZipFile(tmp_path / "v") as old, zipfile.ZipFile(tmp_path / "n", "w") as new:
        for name in old.namelist():
            key = name.removesuffix(".npy")
            new.writestr(name, old.read(name)[:80] + change[key] if key in change else old.read(name))
        for key in set(change) - {name.removesuffix(".npy") for name in old.namelist()}:
            new.writestr(f"{key}.npy", change[key])
    assert_right_or_our_error(tmp_path / "f", (tmp_path / "n").read_bytes())


@QUICK
@given(key=st.sampled_from(["x_train", "y_train"]), lies=st.lists(st.sampled_from(NPY_FIELDS), min_size=1, max_size=2))
def test_array_headers_that_lie_under_right_checksums(key, lies, valid, tmp_path):
    """What they say may be possible (another type of the same size): then it is data, else our error."""
    (tmp_path / "v").write_bytes(valid["stored"])
    with zipfile.ZipFile(tmp_path / "v") as old, zipfile.ZipFile(tmp_path / "f", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for before, after in lies if name == f"{key}.npy" else ():
                content = content[:128].replace(before, after) + content[128:]
            new.writestr(name, content)
    assert_our_errors(tmp_path / "f")


@settings(parent=QUICK, max_examples=40)
@given(data=st.data())
def test_a_file_used_in_place_and_its_kept_index(data, valid, tmp_path):
    """Changes of the file are found when it is opened first; a kept index of any bytes does no harm."""
    file = tmp_path / "f"
    file.write_bytes(valid["stored"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inplace, "SMALLEST", 0)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert_right(open_data(file))
        (kept,) = inplace.cache_folder().iterdir()
        content = bytearray(kept.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(1, 60))] = data.draw(st.binary(max_size=60))
        kept.write_bytes(content)
        assert_right(open_data(file))
        kept.unlink()
        content = bytearray(valid["stored"])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        assert_right_or_our_error(file, bytes(content))
        for kept in inplace.cache_folder().iterdir():
            kept.unlink()
