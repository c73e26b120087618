"""The 41 kinds of bad, odd or hostile file that loaders meet (``loader.md`` 6.1): one of each, and what must happen to it.

`CORPUS` is the table. Each file goes through `open_data`, `sal data check` and `prepare`; nothing in any of them may run code.
Variants of these kinds are in `test_bad_inputs`.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sal.__main__ import main
from shared_data.datasets import DataSet, open_data
from shared_data.errors import DataError
from shared_data.formats.options import ReadOptions
from shared_data.store import prepare

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, np.ndarray]
Make = Callable[[Arrays, Path], Path]  # four valid arrays and a folder with nothing in it but `sprung` to come -> the file


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    make   writes it
    says   words of the message it is refused with; or, with `finding`, of that finding. All must be there
    finding  "" if the file is refused; else it is accepted, and the finding of this code says so ("-": nothing to say)
    mend     options with which a refused file is accepted: the flags of `sal data check` and `prepare`
    """

    make: Make
    says: tuple[str, ...] = ()
    finding: str = ""
    mend: tuple[str, ...] = ()


# --- how the files are made ---------------------------------------------------------------------------------------------


def changed(**changes: Callable[[np.ndarray], np.ndarray]) -> Make:
    """The valid file with some arrays changed: x or y for both splits, x_train ... for one."""

    def make(arrays: Arrays, folder: Path) -> Path:
        for name, change in changes.items():
            for key in [key for key in arrays if key.startswith(name)]:
                arrays[key] = change(arrays[key])
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    return make


def put(row: int, value: float, *places: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[(row, *places)] = value
        return array

    return change


def two_hot(y: np.ndarray) -> np.ndarray:
    y[9, (y[9].argmax() + 1) % 5] = 1
    return y


def gap(begin: int, end: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x[5, begin:end] = 0
        return x

    return change


def swapped(x: np.ndarray) -> np.ndarray:
    x[5] = np.roll(x[5], 75, axis=-1)
    x[5, :, :75] = 0
    return x


def five_axes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.reshape(*x.shape[:2], 2, 25, 3).transpose(0, 4, 1, 3, 2))


def reordered(*axes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Vectors ordered person, joint, xyz (0, 1, 2) to vectors in another order."""

    def change(x: np.ndarray) -> np.ndarray:
        people = x.reshape(*x.shape[:2], 2, 25, 3)
        return np.ascontiguousarray(people.transpose(0, 1, *(2 + a for a in axes))).reshape(x.shape)

    return change


def misread_as_five_axes(x: np.ndarray) -> np.ndarray:
    """A converter took the vector for (25, 3, 2)."""
    return np.ascontiguousarray(x.reshape(*x.shape[:2], 25, 3, 2).transpose(0, 3, 1, 2, 4))


def bytes_changed(change: Callable[[bytearray], object], *, deflated: bool = False) -> Make:
    def make(arrays: Arrays, folder: Path) -> Path:
        file = folder / "data.npz"
        (np.savez_compressed if deflated else np.savez)(file, **arrays)
        content = bytearray(file.read_bytes())
        change(content)
        file.write_bytes(content)
        return file

    return make


def flip(content: bytearray) -> None:
    content[len(content) // 3] ^= 0x40


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def only(content: bytes) -> Make:
    def make(arrays: Arrays, folder: Path) -> Path:
        (folder / "data.npz").write_bytes(content)
        return folder / "data.npz"

    return make


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape: str) -> bytes:
    """The start of a .npy file of float32 that claims `shape`."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (53 - (len(text) % 64)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def with_member(name: str, content: bytes, *, twice: bool = False) -> Make:
    """The valid file with a member replaced, added or (twice) doubled."""

    def make(arrays: Arrays, folder: Path) -> Path:
        file = folder / "data.npz"
        with zipfile.ZipFile(file, "w") as archive:
            for key, array in arrays.items():
                if twice or f"{key}.npy" != name:
                    archive.writestr(f"{key}.npy", npy(array))
            if twice:
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr(name, content)
            else:
                archive.writestr(name, content)
        return file

    return make


def bomb(arrays: Arrays, folder: Path) -> Path:
    """300 MB of packed zeros under a header that agrees with them."""
    file = folder / "data.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", npy(arrays[key]))
        with archive.open("x_train.npy", "w") as stream:
            stream.write(header("(500, 1000, 150)"))
            for _ in range(10):
                stream.write(bytes(30_000_000))
    return file


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def object_array(arrays: Arrays, folder: Path) -> Path:
    trapped = np.array([Trap(folder / "sprung")] * 40, dtype=object)
    return with_member("x_train.npy", npy(trapped))(arrays, folder)


def pickle_named_npz(arrays: Arrays, folder: Path) -> Path:
    return only(pickle.dumps(Trap(folder / "sprung")))(arrays, folder)


# --- the table ----------------------------------------------------------------------------------------------------------

DROP, REPAIR = ("--on-bad", "drop"), ("--repair",)
OUTSIDE = "../../outside.npy"
CORPUS: dict[str, Kind] = {
    "truncated zip": Kind(bytes_changed(cut), ("truncated", "bytes")),
    "flipped byte, stored": Kind(bytes_changed(flip), ("damaged", "x_train", "CRC")),
    "flipped byte, deflated": Kind(bytes_changed(flip, deflated=True), ("damaged", "x_train")),
    "wrong keys": Kind(
        lambda arrays, folder: changed()({"data": arrays["x_train"], "labels": arrays["y_train"]}, folder),
        ("x_train, y_train, x_test, y_test", "found: data, labels"),
    ),
    "one NaN": Kind(changed(x_train=put(7, np.nan, 3, 0)), ("NaN", "train", "row 7"), mend=DROP),
    "one inf": Kind(changed(x_test=put(2, -np.inf, 1, 0)), ("infinite", "test", "row 2"), mend=DROP),
    "all-zero clip": Kind(changed(x_train=put(4, 0)), ("without a single non-zero", "row 4"), mend=DROP),
    "61 label columns": Kind(
        changed(y=lambda y: np.pad(y, ((0, 0), (0, 56)))), ("61 label columns", "60"), mend=("--num-classes", "61")
    ),
    "empty one-hot row": Kind(changed(y_train=put(5, 0)), ("y_train", "without any positive", "row 5")),
    "two-hot row": Kind(changed(y_train=two_hot), ("y_train", "more than one positive", "row 9")),
    "soft labels": Kind(changed(y_test=lambda y: y * 0.8 + 0.04), ("y_test", "other than 0 and 1", "rows 0, 1, 2")),
    "negative one-hot": Kind(changed(y_train=lambda y: -y), ("y_train", "negative")),
    "integer labels": Kind(changed(y=lambda y: y.argmax(-1)), finding="-"),
    "32 frames": Kind(changed(x=lambda x: x[:, :32]), finding="-"),
    "five axes": Kind(changed(x=five_axes), ("person, joint, xyz",), finding="layout-confirmed"),
    "75 numbers, one person": Kind(changed(x=lambda x: x[..., :75]), ("joint, xyz",), finding="layout-confirmed"),
    "151 numbers": Kind(changed(x=lambda x: np.dstack([x, x[..., :1]])), ("151", "(N, T, 150)", "x_train")),
    "fewer labels than clips": Kind(changed(y_train=lambda y: y[:-1]), ("39 labels for 40 clips", "y_train")),
    "column-major": Kind(changed(x=np.asfortranarray), finding="-"),
    "float64": Kind(changed(x=lambda x: x.astype(np.float64)), finding="-"),
    "float16": Kind(changed(x=lambda x: x.astype(np.float16)), finding="-"),
    "int32 (millimetres)": Kind(changed(x=lambda x: (x * 1000).astype(np.int32)), ("look like millimetres",), finding="unit"),
    "big-endian": Kind(changed(x=lambda x: x.astype(">f4"), y=lambda y: y.astype(">f8")), finding="-"),
    "object array": Kind(object_array, ("Python objects", "x_train")),
    "pickle named .npz": Kind(pickle_named_npz, ("pickle", "could run code")),
    "interior zero gap": Kind(changed(x_train=gap(8, 11)), ("all-zero frames inside", "row 5"), finding="gaps"),
    "leading zero frames": Kind(changed(x_train=gap(0, 3)), ("begin with all-zero", "row 5"), finding="leading"),
    "empty split": Kind(changed(x_test=lambda x: x[:0], y_test=lambda y: y[:0]), ("test split holds no clips",)),
    "one valid frame": Kind(changed(x_train=gap(1, 90)), ("a single frame", "row 5"), finding="one-frame"),
    "millimetres": Kind(changed(x=lambda x: x * np.float32(1000)), ("look like millimetres",), finding="unit"),
    "persons swapped": Kind(changed(x_train=swapped), ("person 1 never appears", "row 5"), finding="person-order"),
    "order joint, xyz, person": Kind(changed(x=reordered(1, 2, 0)), ("ordered joint, xyz, person, not",), mend=REPAIR),
    "order xyz, joint, person": Kind(changed(x=reordered(2, 1, 0)), ("ordered xyz, joint, person, not",), mend=REPAIR),
    "order person, xyz, joint": Kind(changed(x=reordered(0, 2, 1)), ("ordered person, xyz, joint, not",), mend=REPAIR),
    "five axes of a wrong order": Kind(
        changed(x=misread_as_five_axes), ("ordered joint, xyz, person, not", "--repair"), mend=REPAIR
    ),
    "zip bomb": Kind(bomb, ("zip bomb", "300,000,128")),
    "header claims 164 TiB": Kind(
        with_member("x_train.npy", header("(1000000000, 300, 150)") + bytes(64)), ("180,000,000,000,000", "64")
    ),
    "path traversal": Kind(with_member(OUTSIDE, npy(np.zeros(3))), ("ignored", OUTSIDE), finding="member-ignored"),
    "duplicate member": Kind(
        with_member("y_train.npy", npy(np.eye(5)[np.zeros(40, int)]), twice=True), ("two members of the same name", "y_train")
    ),
    "not a zip": Kind(only(b"hello, this is text"), ("not a zip", "68 65 6c 6c")),
    "zero bytes": Kind(only(b""), ("empty (0 bytes)",)),
}
SAME_VALUES = ("integer labels", "five axes", "column-major", "float64", "big-endian", "path traversal")
"""Files that hold the clips of the valid file, bit by bit; so do all that are repaired."""
ASKED: dict[str, ReadOptions] = {"61 label columns": ReadOptions(num_classes=60)}


def test_the_corpus_has_all_41_kinds():
    assert len(CORPUS) == 41


# --- what must happen ---------------------------------------------------------------------------------------------------


@pytest.fixture
def made(request, arrays, tmp_path) -> Path:
    return CORPUS[request.param].make(arrays, tmp_path)


def options_of(flags: tuple[str, ...]) -> dict:
    """What a command line means, as arguments of `open_data` and `prepare`."""
    if flags == DROP:
        return {"options": ReadOptions(on_bad="drop")}
    return {"options": ReadOptions(repair=True) if flags == REPAIR else ReadOptions(num_classes=int(flags[1]))}


def check_command(file: Path, name: str, flags: tuple[str, ...] = ()) -> int:
    asked = ASKED.get(name) if not flags else None
    extra = ["--num-classes", str(asked.num_classes)] if asked else []
    return main(["data", "check", str(file), *extra, *flags])


def assert_usable(data: DataSet, stored: DataSet) -> None:
    for split in ("train", "test"):
        one, other = getattr(data, split), getattr(stored, split)
        assert len(one) and all(np.isfinite(one.clip(n)).all() and one.clip(n).any() for n in range(len(one)))
        assert one.labels.tolist() == other.labels.tolist() and one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.rows, other.rows)


@pytest.mark.parametrize(("made", "name"), [(name, name) for name in CORPUS], indirect=["made"], ids=list(CORPUS))
def test_kind(made, name, tmp_path, synthetic_file, capsys):
    kind, store = CORPUS[name], tmp_path / "store.h5"
    asked = {"options": ASKED[name]} if name in ASKED else {}
    if kind.finding:
        data = open_data(made, **asked)
        assert check_command(made, name) == 0
        assert_usable(data, open_data(prepare(made, store, **asked)))
        if kind.finding != "-":
            told = [finding for finding in data.findings if finding.code == kind.finding]
            assert told and all(word in told[0].message for word in kind.says)
    else:
        with pytest.raises(DataError) as refused:
            open_data(made, **asked)
        for word in (str(made), *kind.says):
            assert word in str(refused.value), f"{word!r} is not in:\n{refused.value}"
        assert check_command(made, name) == 65
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err + shown.out
        with pytest.raises(DataError):
            prepare(made, store, **asked)
        assert not store.exists() and not list(tmp_path.glob(".*partial*"))
        if kind.mend:
            data = open_data(made, **options_of(kind.mend))
            assert check_command(made, name, kind.mend) == 0
            assert_usable(data, open_data(prepare(made, store, **options_of(kind.mend))))
            assert kind.mend[0] == "--num-classes" or "warning" in {f.severity for f in data.findings}, "what was mended is told"
    assert not (tmp_path / "sprung").exists(), "the file ran code"
    assert not list(tmp_path.parent.glob("**/outside*")), "the file wrote outside"
    if name in SAME_VALUES or kind.mend == REPAIR:
        right = open_data(synthetic_file)
        np.testing.assert_array_equal(data.train.rows, right.train.rows)
        assert data.train.labels.tolist() == right.train.labels.tolist()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_lies_about_size_take_no_memory(arrays, tmp_path):
    """With 100 MB more than the interpreter has already; the files claim 300 MB and 164 TiB."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory limits are tested on Linux")
    files = []
    for number, name in enumerate(("zip bomb", "header claims 164 TiB")):
        (tmp_path / str(number)).mkdir()
        files.append(str(CORPUS[name].make(dict(arrays), tmp_path / str(number))))
    program = """
        import resource, sys
        from pathlib import Path
        from shared_data.check import check
        from shared_data.datasets import open_data
        from shared_data.errors import DataError
        from shared_data.store import prepare
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 100_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for file in map(Path, sys.argv[1:]):
            for use in (open_data, check, lambda file: prepare(file, file.with_name("store.h5"))):
                try:
                    use(file)
                except DataError as error:
                    print(error.exit_code)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(program), *files]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["65"] * 6, ran.stderr
