"""`sal data ...`: every verb once from the command line, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import assembly
from engine.config import parse
from engine.labelled import read
from sal.__main__ import main
from shared_data.datasets import open_data
from shared_data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_synthetic(folder / "synthetic.npz", classes=4, train_per_class=6, test_per_class=2, frames=40)


def sal(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_there_and_back_through_every_format(capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path) -> None:
    original = open_data(npz)
    for to, name in (("store", "a.h5"), ("skeleton5d", "b.npz"), ("pyskl", "c.pkl"), ("kaggle", "d.npz")):
        code, out, _ = sal(capsys, "convert", npz, "--to", to, "--out", tmp_path / name)
        assert code == 0, to
        assert name in out
        data = open_data(tmp_path / name)
        assert data.layout == to
        for split in ("train", "test"):
            ours, theirs = getattr(data, split), getattr(original, split)
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            for n in range(len(theirs)):
                np.testing.assert_array_equal(ours.clip(n), theirs.clip(n))


def test_repair_undoes_a_scrambled_file(capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path) -> None:
    with np.load(npz) as file:
        arrays = {key: file[key] for key in file.files}
    for key in ("x_train", "x_test"):
        x = arrays[key]
        arrays[key] = x.reshape(*x.shape[:2], 2, 25, 3).transpose(0, 1, 3, 4, 2).reshape(x.shape)  # joint, xyz, person
    np.savez(tmp_path / "scrambled.npz", **arrays)
    code, out, _ = sal(capsys, "check", tmp_path / "scrambled.npz", "--json")
    assert code == 65
    assert "layout-scrambled" in {finding["code"] for finding in json.loads(out)["findings"]}
    code, _, err = sal(capsys, "prepare", tmp_path / "scrambled.npz", "--out", tmp_path / "s.h5")
    assert code == 65
    assert "--repair" in err
    assert sal(capsys, "prepare", tmp_path / "scrambled.npz", "--repair", "--out", tmp_path / "s.h5")[0] == 0
    repaired, original = open_data(tmp_path / "s.h5"), open_data(npz)
    for n in range(len(original.train)):
        np.testing.assert_array_equal(repaired.train.clip(n), original.train.clip(n))
    assert "layout-repaired" in {finding.code for finding in repaired.findings}


def test_recordings_of_your_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = ["file,label,split"]
    for n in range(6):
        np.save(folder / f"clip{n}.npy", rng.standard_normal((20 + n, 25, 3)).astype(np.float32))
        lines.append(f"clip{n}.npy,{'wave' if n % 2 else 'clap'},{'test' if n > 3 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    code, out, _ = sal(capsys, "import", folder, "--out", tmp_path / "mine.h5")
    assert code == 0
    assert "good: ready to train on" in out
    data = open_data(tmp_path / "mine.h5")
    assert (len(data.train), len(data.test), data.class_names) == (4, 2, ("clap", "wave"))
    code, out, _ = sal(capsys, "show", tmp_path / "mine.h5", "clip0.npy", "--out", tmp_path / "clip.html")
    assert code == 0
    assert "<svg" in (tmp_path / "clip.html").read_text()
    code, _, err = sal(capsys, "show", tmp_path / "mine.h5", "clip9.npy", "--out", tmp_path / "clip.html")
    assert code == 2
    assert "clip9.npy" in err


def test_words_that_are_wrong(capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path) -> None:
    for words, said in (
        (("chek", npz), "check"),
        (("check", npz, "--on-bad", "ignore"), "refuse or drop"),
        (("check", npz, "--num-classes", "0"), "1 or more"),
        (("check", npz, "--layout", "kagle"), "kaggle"),
        (("convert", npz, "--to", "kagle", "--out", tmp_path / "x.npz"), "kaggle"),
        (("prepare", npz), "required: out"),
    ):
        code, _, err = sal(capsys, *words)
        assert code == 2, words
        assert said in err


def test_looking_at_a_file_does_not_wait_for_torch() -> None:
    program = "import sys, sal.data, shared_data.check, shared_data.convert, shared_data.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def command(*words: object, stdout: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`sal data` in a process of its own, its output to a file or kept."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(stdout.open("wb")) if stdout else subprocess.PIPE
        return subprocess.run(
            [sys.executable, "-m", "sal", "data", *(word if isinstance(word, bytes) else str(word) for word in words)],
            stdout=out, stderr=subprocess.PIPE, check=False, timeout=120, cwd=ROOT, env={**given, **environment},
        )  # fmt: skip


PRINTING = ("check", "check --json", "info", "prepare", "convert", "show", "")


# argparse hides that its help could not be written; what waits in a buffer is found all the same.
@pytest.mark.parametrize(("verb", "buffered"), [*itertools.product(PRINTING, (True, False)), ("check --help", True)])
def test_a_full_standard_output_is_74(npz: Path, tmp_path: Path, verb: str, buffered: bool) -> None:
    words: dict[str, list[object]] = {
        "": [], "check --help": ["check", "--help"], "check --json": ["check", npz, "--json"], "check": ["check", npz],
        "info": ["info", npz], "prepare": ["prepare", npz, "--out", tmp_path / "a.h5"],
        "convert": ["convert", npz, "--to", "pyskl", "--out", tmp_path / "a.pkl"],
        "show": ["show", npz, "train_0", "--out", tmp_path / "a.html"],
    }  # fmt: skip
    done = command(*words[verb], stdout=Path("/dev/full"), **({} if buffered else {"PYTHONUNBUFFERED": "1"}))
    said = done.stderr.decode()
    assert done.returncode == 74, said
    assert said.startswith("error: could not write to the standard output: No space left on device")
    assert "Traceback" not in said and "Exception ignored" not in said
    assert len(list(tmp_path.iterdir())) == (verb in ("prepare", "convert", "show")), "what was made is there"


@pytest.mark.parametrize("verb", ["check", "info", "prepare", "show"])
def test_a_path_that_is_no_text_is_named(npz: Path, tmp_path: Path, verb: str) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.npz"
    Path(os.fsdecode(odd)).write_bytes(npz.read_bytes())
    words: dict[str, list[object]] = {
        "check": [odd], "info": [odd], "prepare": [npz, "--out", odd], "show": [odd, "train_0", "--out", tmp_path / "a.html"],
    }  # fmt: skip
    done = command(verb, *words[verb])
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert "caf\\udce9.npz' is not UTF-8 text" in said and "Traceback" not in said


def test_lists_of_labelled_clips_are_what_a_run_accepts(capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path) -> None:
    """The list of a draw chooses the clips that the draw chooses, from the same clips in another order, too."""
    assert sal(capsys, "labelled", npz, "--share", "50%", "--seed", 3, "--out", tmp_path / "three.txt")[0] == 0
    words = ["--recipe", "smoke", "--data", str(npz), "--labelled"]
    listed, drawn = (
        assembly.load_data(parse([*words, wish], model="mamp")).train for wish in (str(tmp_path / "three.txt"), "50%/3")
    )
    assert listed.ids.tolist() == drawn.ids.tolist() and len(listed) == 4 * 3
    assert np.bincount(listed.labels).tolist() == [3] * 4
    code, out, _ = sal(capsys, "labelled", npz, "--share", "50%", "--out", tmp_path / "half.txt")
    assert code == 0 and len(out.splitlines()) == 5 and "12 of 24 clips, draw 3" in out
    five = [read(tmp_path / f"half_{seed}.txt") for seed in range(5)]
    assert [one.seed for one in five] == list(range(5)) and len({one.ids for one in five}) > 1
    assert five[3] == read(tmp_path / "three.txt")
    code, _, err = sal(capsys, "labelled", npz, "--share", "50%", "--out", tmp_path / "half.txt")
    assert code == 2 and "half_0.txt" in err
    assert sal(capsys, "labelled", npz, "--share", "50%", "--out", tmp_path / "half.txt", "--force")[0] == 0
    assert sal(capsys, "labelled", npz, "--share", "mamp:25%", "--seed", 0, "--out", tmp_path / "mamp.txt")[0] == 0
    assert (read(tmp_path / "mamp.txt").how, len(read(tmp_path / "mamp.txt").ids)) == ("mamp", 6)


@pytest.mark.parametrize("share", ["10", "10%/3", "list.txt", "0%", "100%"])
def test_what_is_no_share_writes_no_list(capsys: pytest.CaptureFixture[str], npz: Path, tmp_path: Path, share: str) -> None:
    code, _, err = sal(capsys, "labelled", npz, "--share", share, "--out", tmp_path / "list.txt")
    assert code == 2 and "is no share" in err and not list(tmp_path.iterdir())
