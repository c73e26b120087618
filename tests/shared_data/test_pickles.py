"""Pickles are read as data: what pickle itself gives for plain values and arrays, and nothing is ever run or blown up."""

from __future__ import annotations

import itertools
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_data.errors import DataError, MissingInputError
from shared_data.formats.pickled_numpy import PickledArray
from shared_data.formats.pickles import first_keys, read_pickle

ARRAYS = {
    "float16": np.arange(24, dtype=np.float16).reshape(2, 3, 4) / 8,
    "column-major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(5, dtype=">f8"),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 5), np.float32),
    "single": np.array(3.5),
    "long": np.random.default_rng(0).normal(size=(300, 50)),
    "text": np.array(["S001", "a"]),
    "transposed": np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(1, 0, 2),
    "turned": np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1),
    "column-major of three axes": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "every second": np.arange(24.0).reshape(2, 3, 4)[:, ::2],
}
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


F4 = (
    short("numpy")
    + short("dtype")
    + b"\x93"
    + short("f4")
    + b"\x89\x88\x87R(K\x03"
    + short("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


@pytest.fixture
def keep(tmp_path):
    def write(content: bytes) -> Path:
        file = tmp_path / "a.pkl"
        file.write_bytes(content)
        return file

    return write


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_what_numpy_wrote(name, protocol, keep):
    array = ARRAYS[name]
    found = read_pickle(keep(pickle.dumps([array, array], protocol)))
    assert found[0] is found[1], "shared objects stay shared"
    assert found[0].shape == array.shape and found[0].nbytes == array.nbytes
    values = found[0].array()
    assert values.dtype == array.dtype and not values.flags.writeable
    np.testing.assert_array_equal(values, array)


def test_long_lines_of_protocol_0(keep):
    """Python 3 writes six bytes for each zero; Python 2 wrote text between quotes, which is read up to a bound."""
    zeros = np.zeros((2, 300, 25, 3), np.float32)
    written = keep(pickle.dumps(zeros, 0))
    assert written.stat().st_size > 6 * zeros.nbytes
    np.testing.assert_array_equal(read_pickle(written).array(), zeros)
    for content in (b"S'" + b"a" * (2 << 20) + b"'\n.", b"V" + b"a" * (17 << 20) + b"\n."):
        with pytest.raises(DataError, match=r"text line of more than .* protocol 0 .* protocol=4"):
            read_pickle(keep(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_numbers_become_plain_ones(protocol, keep):
    written = [np.int64(5), np.float32(0.5), np.str_("hé"), np.bool_(True), np.int16(-3)]
    found = read_pickle(keep(pickle.dumps(written, protocol)))
    assert found == [5, 0.5, "hé", True, -3] and [type(value) for value in found] == [int, float, str, bool, int]


def frombuffer(array: np.ndarray, shape: bytes, *more: bytes) -> bytes:
    """A call as numpy 2.4 writes it, whatever numpy is installed."""
    data = array.tobytes()
    name = short("numpy._core.numeric") + short("_frombuffer") + b"\x93"
    kind = F4.replace(short("f4"), short(array.dtype.str[1:]))
    return b"\x80\x05" + name + b"(\x96" + struct.pack("<Q", len(data)) + data + kind + shape + b"".join(more) + b"tR."


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_axes_of_numpy_2_4_mean_what_numpy_says(axes, keep):
    """numpy's `_frombuffer` with order K: the buffer in its own shape, row by row, then transposed by the axes."""
    stored = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    written = frombuffer(stored, b"K\x02K\x03K\x04\x87", short("K"), b"".join(b"K" + bytes([n]) for n in axes) + b"\x87")
    found = read_pickle(keep(written))
    wanted = stored.transpose(axes)
    assert found.shape == wanted.shape and found.nbytes == wanted.nbytes
    np.testing.assert_array_equal(found.array(), wanted)
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        np.testing.assert_array_equal(pickle.loads(written), wanted)


@pytest.mark.parametrize(
    "more",
    [
        (short("K"), b"N"),
        (short("K"),),
        (short("A"),),
        (short("C"), b"K\x00K\x01K\x02\x87"),
        (short("K"), b"K\x00K\x01\x86"),
        (short("K"), b"K\x00K\x01K\x01\x87"),
        (short("K"), b"K\x00K\x01K\x03\x87"),
        (short("K"), b"K\x00K\x01J\xff\xff\xff\xff\x87"),
        (short("K"), b"\x89\x88K\x02\x87"),
        (short("K"), b"](K\x00K\x01K\x02e"),
        (short("K"), b"K\x00K\x01K\x02\x87", b"N"),
    ],
)
def test_other_axes_are_refused(more, keep):
    with pytest.raises(DataError, match=r"axes are in no order|arguments of another kind"):
        read_pickle(keep(frombuffer(np.zeros((2, 3, 4), np.float32), b"K\x02K\x03K\x04\x87", *more)))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=9) | st.integers(-9, 9), inner, max_size=4)
    | st.tuples(inner, inner)
    | st.tuples(inner, inner, inner, inner),
    max_leaves=12,
)  # fmt: skip


def whole(value):
    """Byte strings of some length come as views of the file."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    return type(value)(map(whole, value)) if isinstance(value, (list, tuple)) else value


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.sampled_from(list(PROTOCOLS)))
def test_plain_values_are_what_pickle_reads(tmp_path_factory, value, protocol):
    file = tmp_path_factory.getbasetemp() / "plain.pkl"
    file.write_bytes(pickle.dumps(value, protocol))
    assert whole(read_pickle(file)) == value == pickle.loads(file.read_bytes())


def test_pickles_of_python_2(keep):
    """Written by hand: Python 2 has one string type, and arrays carry theirs as data."""
    data = np.array([1.0, -2.0], "<f4").tobytes()
    state = b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n" + b"U\x08" + data + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state
    names, labels = read_pickle(keep(b"((lp0\nS'S001C001P001R001A001.skeleton'\np1\na" + array + b"t."))
    assert names == ["S001C001P001R001A001.skeleton"] and labels.array().tolist() == [1.0, -2.0]
    escaped = b"S" + repr(data)[1:].encode() + b"\n"
    (array,) = read_pickle(keep(b"(" + array.replace(b"U\x08" + data, escaped) + b"t."))
    assert array.array().tolist() == [1.0, -2.0]


def test_the_first_keys_are_seen_without_reading_on(keep):
    names = [f"clip {n}" for n in range(10_000)]
    whole = pickle.dumps({"split": {"train": names, "val": []}, "annotations": [{"keypoint": 1}]}, 4)
    assert first_keys(keep(whole)) == ("split",), "annotations lie 10 000 names behind"
    with pytest.raises(DataError, match=r"too early|are left"):
        first_keys(keep(whole[:4000]))
    for protocol in PROTOCOLS:
        both = {"split": {"a": [1]}, "annotations": [{"keypoint": (1, 2)}], 5: 6}
        assert first_keys(keep(pickle.dumps(both, protocol))) == ("split", "annotations")
    for other in ([1], {1: 2}, "split", None):
        assert first_keys(keep(pickle.dumps(other))) == ()


# --- hostile ------------------------------------------------------------------------------------------------------------

MARKER = "SPRUNG_BY_A_PICKLE"


def calls(module: str, name: str, *arguments: str) -> bytes:
    return f"c{module}\n{name}\n(".encode() + b"".join(b"V%s\n" % argument.encode() for argument in arguments) + b"tR."


RECONSTRUCT = b"\x80\x04" + short("numpy.core.multiarray") + short("_reconstruct") + b"\x93"
NDARRAY = short("numpy") + short("ndarray") + b"\x93"
BLANK = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
OBJECTS = F4.replace(short("f4"), short("O8")).replace(short("<"), short("|"))
CODE = f"import os; os.environ['{MARKER}'] = '1'"


class Reduced:
    def __init__(self, *reduce):
        self.reduce = reduce

    def __reduce__(self):
        return self.reduce


def claims(shape: bytes, data: bytes = b"C\x08" + bytes(8)) -> bytes:
    return BLANK + b"(K\x01" + shape + F4 + b"\x89" + data + b"tb."


HOSTILE = {
    "os.system": calls("os", "system", f"export {MARKER}=1"),
    "posix.system": calls("posix", "system", "true"),
    "eval": calls("builtins", "eval", CODE),
    "exec of Python 2": calls("__builtin__", "execfile", "/etc/passwd"),
    "getattr": calls("builtins", "getattr", "os", "system"),
    "operator.attrgetter": calls("operator", "attrgetter", "system"),
    "import": calls("importlib", "import_module", "os"),
    "bytearray": b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.",
    "copyreg": b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
    "numpy.f2py": calls("numpy.f2py.diagnose", "run_command", "true"),
    "numpy.testing": calls("numpy.testing._private.utils", "runstring", CODE, "{}"),
    "numpy.load": calls("numpy", "load", "/tmp/x.npy"),
    "numpy.memmap": calls("numpy", "memmap", "/tmp/x"),
    "numpy dotted": b"\x80\x04" + short("numpy") + short("ndarray.tofile") + b"\x93.",
    "dotted module": b"\x80\x04" + short("numpy.core.multiarray._reconstruct") + short("__call__") + b"\x93.",
    "codecs.decode": calls("_codecs", "decode", "aaaa", "zip"),
    "encode with another codec": calls("_codecs", "encode", "a", "idna"),
    "encode with an error handler": b"c_codecs\nencode\n(Va\nVlatin1\nVignore\ntR.",
    "partial": pickle.dumps(Reduced(__import__("functools").partial, (print,))),
    "mkdir": pickle.dumps(Reduced(os.mkdir, ("/tmp/sprung",))),
    "class instance": b"\x80\x04c__main__\nA\n)\x81.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "NEWOBJ of an allowed name": NDARRAY + b"K\x05\x85\x81.",
    "NEWOBJ_EX": NDARRAY + b")}\x92.",
    "persistent id": b"Pwhatever\n.",
    "binary persistent id": b"K\x01Q.",
    "extension": b"\x82\x01.",
    "extension of 4 bytes": b"\x84\x01\x00\x00\x00.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "sets": b"\x80\x04\x8f(K\x01\x90.",
    "a call of an array": BLANK + b")R.",
    "a call of text": b"Va\n)R.",
    "a call with a list": RECONSTRUCT + b"]R.",
    "reconstruct of another type": RECONSTRUCT + short("numpy") + short("dtype") + b"\x93K\x00\x85C\x01b\x87R.",
    "reconstruct of a huge shape": RECONSTRUCT + NDARRAY + b"\x8a\x08" + struct.pack("<q", 1 << 40) + b"\x85C\x01b\x87R.",
    "ndarray called": NDARRAY + b"J\xff\xff\xff\x7f\x85R.",
    "dtype of nothing": short("numpy") + short("dtype") + b"\x93)R.",
    "dtype of a list": short("numpy") + short("dtype") + b"\x93](K\x01e\x85R.",
    "dtype built twice": F4 + b"(K\x03" + short("<") + b"NNNK\x00K\x00K\x00tb.",
    "dtype with fields": F4.replace(b"NNN", b"N" + short("a") + b"}") + b".",
    "dtype with a dict": F4[:F4.index(b"(K\x03")] + b"}" + short("__class__") + b"Nsb.",
    "state for a name": RECONSTRUCT + b"}" + short("__defaults__") + b"Nsb.",
    "state for a dict": b"}}b.",
    "state for a list": b"](K\x01Nebb.",
    "objects": BLANK + b"(K\x01K\x01\x85" + OBJECTS + b"\x89]" + calls("os", "getcwd")[:-1] + b"atb.",
    "objects without a call": BLANK + b"(K\x01K\x01\x85" + OBJECTS + b"\x89]Natb.",
    "objects by bytes": BLANK + b"(K\x01K\x01\x85" + OBJECTS + b"\x89C\x08" + bytes(8) + b"tb.",
    "void elements": BLANK + b"(K\x01K\x01\x85" + F4.replace(short("f4"), short("V8")) + b"\x89C\x08" + bytes(8) + b"tb.",
    "164 TiB": claims(b"(\x8a\x06" + (45_000_000_000_000).to_bytes(6, "little") + b"t"),
    "negative shape": claims(b"(J\xff\xff\xff\xffJ\xfe\xff\xff\xfft"),
    "shape of floats": claims(b"(G" + struct.pack(">d", 2.0) + b"t"),
    "shape of truth": claims(b"(\x88K\x02t"),
    "shape with a list": claims(b"]K\x02a"),
    "too many axes": claims(b"(" + b"K\x01" * 70 + b"K\x02t"),
    "shape larger than the data": claims(b"(K\x03t"),
    "shape smaller than the data": claims(b"(K\x01t"),
    "data that are a list": claims(b"(K\x02t", b"]"),
    "array set twice": claims(b"(K\x02t")[:-1] + b"(K\x01(K\x02t" + F4 + b"\x89C\x08" + bytes(8) + b"tb.",
    "bytes claimed": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "all bytes claimed": b"\x8e" + b"\xff" * 8 + b"abc.",
    "bytearray claimed": b"\x96" + struct.pack("<Q", 1 << 45) + b"abc.",
    "negative string": b"T\xff\xff\xff\xffabc.",
    "memo number": b"Nr\xff\xff\xff\x7f.",
    "memo line": b"Np999999999\n.",
    "memo never set": b"h\x05.",
    "huge LONG": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "LONG of 255 bytes": b"\x8a\xff" + b"\x7f" * 255 + b".",
    "LONG of digits": b"L" + b"9" * 100_000 + b"L\n.",
    "INT of digits": b"I" + b"9" * 5000 + b"\n.",
    "int of text": b"Iabc\n.",
    "tuple as a key": b"}K\x01\x85Ns.",
    "array as a key": b"}" + BLANK + b"Ns.",
    "expression as a string": b"S'a' + 'b'\n.",
    "string without end": b"S'abc",
    "deep string": b"S" + b"(" * 5000 + b"\n.",
    "no stop": b"K\x01",
    "nothing on the stack": b".",
    "two values": b"K\x01K\x02.",
    "mark only": b"(.",
    "mark as a value": b"((\x85.",
    "tuple without mark": b"K\x01t.",
    "append to nothing": b"K\x01a.",
    "append to a dict": b"}K\x01a.",
    "odd items": b"}(K\x01u.",
    "items of a list": b"](K\x01K\x02u.",
    "unknown operation": b"\xff.",
    "name of numbers": b"K\x01K\x02\x93.",
    "half a name": b"cos",
    "name in wrong text": b"c\xff\xfe\nsystem\n.",
    "empty file": b"",
    "text": b"hello, this is text",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle_is_refused(case, keep, monkeypatch):
    monkeypatch.delenv(MARKER, raising=False)
    file = keep(HOSTILE[case])
    with pytest.raises(DataError) as error:
        read_pickle(file)
    assert str(file) in str(error.value) and error.value.exit_code == 65
    with pytest.raises(DataError):
        first_keys(file)
    assert MARKER not in os.environ and not Path("/tmp/sprung").exists(), "the file ran code"


def test_the_reason_names_what_would_have_run(keep):
    with pytest.raises(DataError, match=r"names os\.system, which would be imported"):
        read_pickle(keep(HOSTILE["os.system"]))
    with pytest.raises(DataError, match="operation INST, which data do not need"):
        read_pickle(keep(HOSTILE["INST"]))
    with pytest.raises(DataError, match="Python objects"):
        read_pickle(keep(HOSTILE["objects by bytes"]))
    with pytest.raises(DataError, match=r"45000000000000,.* 8 bytes of data"):
        read_pickle(keep(HOSTILE["164 TiB"]))


def test_the_corpus_is_made_of_working_pickles(keep):
    """What the hostile cases vary is readable when nothing is varied, and pickle runs the trap."""
    assert read_pickle(keep(claims(b"(K\x02t"))).array().tolist() == [0.0, 0.0]
    assert pickle.loads(claims(b"(K\x02t")).tolist() == [0.0, 0.0]
    assert pickle.loads(calls("os", "getcwd")) == os.getcwd()  # noqa: PTH109
    assert pickle.loads(HOSTILE["encode with an error handler"]) == b"a"


def test_an_array_that_is_never_completed_has_no_values(keep):
    blank = read_pickle(keep(BLANK + b"."))
    assert isinstance(blank, PickledArray) and blank.nbytes == 0
    with pytest.raises(DataError, match="without content"):
        blank.array()


# 60 tuples, each of the one before twice: 2**60 values if anything walks, compares, prints or hashes them
DOUBLING = b"".join(b"\x940h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
LONG_TEXT = b"X" + struct.pack("<I", 60_000) + b"a" * 60_000 + b"\x940c_codecs\nencode\n\x940Vlatin1\n\x940"
MUCH_DATA = b"B" + struct.pack("<I", 8_000_000) + bytes(8_000_000) + b"\x940" + F4 + b"\x940"
SHARING = BLANK[2:] + b"(K\x01\x8a\x04" + struct.pack("<i", 2_000_000) + b"\x85h\x01\x89h\x00tb"
BOMBS = {  # and why they are refused; those that stay small are read
    "nested tuples": (b"\x80\x04K\x01" + DOUBLING + b".", "read"),
    "nested tuples as a key": (b"\x80\x04}K\x01" + DOUBLING + b"Ns.", "a dict key"),
    "a million lists in each other": (b"]" * 1_000_000 + b"a" * 999_999 + b".", "read"),
    "a list that holds itself": (b"]\x94h\x00a.", "read"),
    "the same text encoded again and again": (LONG_TEXT + b"](" + b"h\x01h\x00h\x02\x86R" * 60_000 + b"e.", "again and again"),
    "the same data in many arrays": (MUCH_DATA + b"](" + SHARING * 20_000 + b"e.", "read"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_stay_small(case, keep):
    """In a process that may use 400 MB more than it starts with; walking or copying any of these would take far more."""
    content, words = BOMBS[case]
    program = f"""
import resource
from pathlib import Path
from shared_data.errors import DataError
from shared_data.formats.pickles import first_keys, read_pickle
start = int(open("/proc/self/statm").read().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (start + {400 << 20}, start + {400 << 20}))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
path = Path({str(keep(content))!r})
try:
    first_keys(path)
    read_pickle(path)
    print("read")
except DataError as error:
    print(error.what)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert words in done.stdout, done.stderr[-500:]


def test_steps_are_bounded(keep):
    file = keep(pickle.dumps(list(range(1000))))
    assert len(read_pickle(file)) == 1000
    with pytest.raises(DataError, match="more than 500 operations"):
        read_pickle(file, steps=500)


def test_every_cut_and_flipped_byte_is_an_answer(keep):
    """Any damage gives a value or a `DataError`, never another exception."""
    content = pickle.dumps(
        {"split": {"train": ["a", "b"]}, "annotations": [{"keypoint": np.arange(4, dtype="f2"), "label": 3}]}, 2
    )
    rng = np.random.default_rng(0)
    answers = {"read": 0, "refused": 0}
    for trial in range(1500):
        damaged = bytearray(content[: rng.integers(1, len(content))] if trial % 3 == 0 else content)
        for _ in range(trial % 3):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            read_pickle(keep(bytes(damaged)))
            answers["read"] += 1
        except DataError:
            answers["refused"] += 1
    assert answers["refused"] > 500 and answers["read"] > 20


def test_what_is_no_file_is_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        with pytest.raises(MissingInputError):
            read_pickle(path)
