"""Scores of runs, of files and of official pickles are read for what they are, and nothing else is."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.metrics import Scores
from engine.score_files import BEST_ON_TEST, read_labels, read_scores, write_scores
from shared_data.errors import DataError, LabError, MissingInputError, UsageError

IDS = np.array(["test_0", "test_1", "test_2", "test_3"])
TRUTH = np.array([0, 1, 2, 1])
LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
HELD_OUT = np.array(["train_8", "train_9"])


def keep(file: Path, logits: np.ndarray = LOGITS, ids: np.ndarray = IDS, labels: np.ndarray = TRUTH) -> Path:
    write_scores(file, Scores(ids, labels, logits))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A run folder as the trainer leaves it; the scores of different files differ by a factor."""

    def make(name: str = "run", *, ended: bool = True, **settings: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {"model": "ctrgcn", "phase": "train", "protocol": "upstream", "stream": "j", **settings}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        events = [{"event": "epoch", "epoch": 0}, *([{"event": "end"}] if ended else [])]
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        if config["protocol"] == "honest" and config["phase"] == "train":
            keep(folder / "scores.npz", LOGITS[:2], HELD_OUT, TRUTH[:2])
            keep(folder / "scores_best.npz", 2 * LOGITS[:2], HELD_OUT, TRUTH[:2])
            keep(folder / "scores_test.npz", 3 * LOGITS)
            keep(folder / "scores_test_best.npz", 4 * LOGITS)
        else:
            keep(folder / "scores.npz")
            if config["phase"] == "train":
                keep(folder / "scores_best.npz", 2 * LOGITS)
        return folder

    return make


def test_a_run_gives_its_last_epoch_or_its_best(run: Callable[..., Path]) -> None:
    folder = run()
    last, best = read_scores(folder), read_scores(folder, best=True)
    np.testing.assert_array_equal(last.logits, LOGITS)
    np.testing.assert_array_equal(best.logits, 2 * LOGITS)
    assert (last.part, last.settings["stream"], last.notes) == ("test", "j", ())
    assert best.notes == (BEST_ON_TEST,) == read_scores(folder / "scores_best.npz").notes
    assert last.ids.tolist() == IDS.tolist() and last.labels is not None and last.labels.tolist() == TRUTH.tolist()


def test_an_honest_run_gives_test_scores_unless_asked_for_validation(run: Callable[..., Path]) -> None:
    folder = run(protocol="honest")
    for best, part, factor in ((False, "test", 3), (True, "test", 4), (False, "validation", 1), (True, "validation", 2)):
        scores = read_scores(folder, best=best, part=part)
        assert scores.part == part and scores.notes == ()
        np.testing.assert_array_equal(scores.logits, factor * (LOGITS if part == "test" else LOGITS[:2]))
    assert read_scores(folder / "scores.npz").part == "validation"
    assert read_scores(folder / "scores_test.npz").part == "test"
    (folder / "scores_test.npz").unlink()
    with pytest.raises(MissingInputError, match="no scores of its test clips"):
        read_scores(folder)


def test_scores_of_given_weights_have_one_epoch_whatever_the_protocol(run: Callable[..., Path]) -> None:
    folder = run(phase="test", protocol="honest")
    scores = read_scores(folder, best=True)
    np.testing.assert_array_equal(scores.logits, LOGITS)
    assert (scores.part, scores.notes) == ("test", ())


@pytest.mark.parametrize("settings", [{}, {"phase": "test", "protocol": "honest"}])
def test_validation_scores_that_are_not_there(run: Callable[..., Path], settings: dict[str, str], tmp_path: Path) -> None:
    for path in (run(**settings), keep(tmp_path / "alone.npz")):
        with pytest.raises(UsageError, match=r"--protocol honest(.|\n)*--search-on-test") as refused:
            read_scores(path, part="validation")
        assert refused.value.exit_code == 2


def test_a_run_that_was_cut_off_says_so(run: Callable[..., Path]) -> None:
    (note,) = read_scores(run(ended=False)).notes
    assert "has not come to its end" in note and "run" in note


def test_a_score_file_by_itself(tmp_path: Path) -> None:
    scores = read_scores(keep(tmp_path / "any.npz", LOGITS.astype(np.float64)))
    assert (scores.part, scores.settings, scores.logits.dtype) == ("", {}, np.float32)


# --- official pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_official_pickles(tmp_path: Path, protocol: int) -> None:
    """What `dict(zip(names, logits))` becomes; MS-G3D's names are file names."""
    file = tmp_path / "epoch1_test_score.pkl"
    names = [str(name) for name in IDS[:3]] + ["S001C001P001R001A001.skeleton"]
    file.write_bytes(pickle.dumps(dict(zip(names, LOGITS, strict=True)), protocol))
    scores = read_scores(file)
    assert scores.ids.tolist() == ["test_0", "test_1", "test_2", "S001C001P001R001A001"]
    assert scores.labels is None and scores.part == ""
    np.testing.assert_array_equal(scores.logits, LOGITS)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "epoch1_test_score.pkl", tmp_path / "made"
    for content in ({"test_0": LOGITS[0], "test_1": Malicious(trace)}, Malicious(trace), (["test_0"], Malicious(trace))):
        file.write_bytes(pickle.dumps(content))
        for read in (read_scores, read_labels):
            with pytest.raises(DataError, match="which would be imported and could run code"):
                read(file)
        assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists(), "the same bytes do run in pickle itself"


def shared_rows(clips: int) -> bytes:
    """A dict in which one array of 10,000 numbers stands for every clip: short, and huge once copied."""
    row = pickle.dumps(np.zeros(10_000, np.float32), 3)[2:-1]  # without its header and end
    body = io.BytesIO()
    body.write(b"\x80\x04}" + row + b"r" + struct.pack("<I", 50) + b"0(")  # a dict; the row, numbered and taken off; its entries
    for n in range(clips):
        name = f"test_{n}".encode()
        body.write(b"\x8c" + bytes([len(name)]) + name + b"j" + struct.pack("<I", 50))
    body.write(b"u.")
    return body.getvalue()


def test_one_array_for_many_clips_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    file = tmp_path / "scores.pkl"
    file.write_bytes(shared_rows(200_000))
    assert len(pickle.loads(shared_rows(3))) == 3, "it is a pickle"
    assert file.stat().st_size < 4 << 20
    with pytest.raises(DataError, match="the same values stand for many clips"):
        read_scores(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no scores"),
        ({}, "holds no scores"),
        ({1: LOGITS[0]}, "no list of names"),
        ({"a": LOGITS[0], "b": LOGITS[1, :2]}, "the value of b is not one row"),
        ({"a": LOGITS}, "the value of a is not one row"),
        ({"a": [1.0, 2.0]}, "the value of a is not one row"),
        ({"a": LOGITS[0, :1]}, "logits of shape"),
        ({"a": np.array([1, np.nan]), "b": np.array([1, 2.0])}, "scores of 1 clips are not finite numbers"),
        ({"a": np.array([1, 1e300])}, "not finite"),
        ({"a": np.array(["x", "y"])}, "logits of shape"),
        ({"x/a.skeleton": LOGITS[0], "a": LOGITS[1]}, "1 ids occur more than once"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "scores.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=said) as refused:
        read_scores(file)
    assert str(file) in refused.value.where


# --- what is no score file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ids": np.array(["a", "b", "b", "a"])}, "2 ids occur more than once\n.*ids a, b"),
        ({"ids": IDS[:3]}, "ids of shape"),
        ({"ids": np.arange(4)}, "ids of shape"),
        ({"labels": TRUTH / 1.0}, "ids of shape"),
        ({"labels": np.array([0, 1, 3, 1])}, "1 labels beyond the 3 classes\n.*test_2"),
        ({"labels": np.array([0, -1, 2, 1])}, "1 labels are no class numbers\n.*test_1"),
        ({"logits": LOGITS[:3]}, "logits of shape"),
        ({"logits": LOGITS[:, 0]}, "logits of shape"),
        ({"logits": np.where(LOGITS > 1.5, np.inf, LOGITS)}, "scores of 1 clips are not finite numbers\n.*test_3"),
        ({"ids": IDS[:0], "labels": TRUTH[:0], "logits": LOGITS[:0]}, "at least one"),
    ],
)
def test_inconsistent_score_files(tmp_path: Path, changed: dict[str, np.ndarray], said: str) -> None:
    file = tmp_path / "scores.npz"
    np.savez(file, **{"ids": IDS, "labels": TRUTH, "logits": LOGITS, **changed})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said):
        read_scores(file)


def test_what_holds_no_scores(tmp_path: Path, tiny_data: Path, run: Callable[..., Path]) -> None:
    (tmp_path / "text").write_text("top1 99")
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(keep(tmp_path / "whole.npz").read_bytes()[:-30])
    bare = run()
    (bare / "scores.npz").unlink()
    for path, code in (
        (tmp_path / "text", 65), (tiny_data, 65), (damaged, 65), (tmp_path / "empty", 66), (tmp_path / "none", 66), (bare, 66),
    ):  # fmt: skip
        with pytest.raises(LabError) as refused:
            read_scores(path)
        assert refused.value.exit_code == code, refused.value
        assert path.name in refused.value.where


# --- labels ------------------------------------------------------------------------------------------------------------------


def test_labels_from_every_source(tmp_path: Path, run: Callable[..., Path], tiny_data: Path) -> None:
    named = tmp_path / "val_label.pkl"
    named.write_bytes(pickle.dumps(([f"{name}.skeleton" for name in IDS], TRUTH.tolist())))
    for path in (run(), keep(tmp_path / "any.npz"), named):
        truth = read_labels(path)
        assert truth.name == str(path) and truth.ids.tolist() == IDS.tolist() and truth.labels.tolist() == TRUTH.tolist()
    truth = read_labels(tiny_data)
    assert truth.ids.tolist() == [f"test_{n}" for n in range(12)]
    with np.load(tiny_data) as file:
        assert truth.labels.tolist() == file["y_test"].argmax(1).tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ((["a", "b"], [0]), "labels of shape"),
        ((["a", "a"], [0, 1]), "more than once"),
        ((["a", "b"], [0, -1]), "no class numbers"),
        ((["a", "b"], [0, 2**70]), "pickle|no class numbers"),
        ((["a", "b"], ["0", "1"]), "no list of numbers"),
        (([["a"], "b"], [0, 1]), "no list of names"),
    ],
)
def test_label_pickles_of_something_else(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "label.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=said) as refused:
        read_labels(file)
    assert str(file) in refused.value.where


# --- the command -------------------------------------------------------------------------------------------------------------


def sal(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    from engine.launch import guarded
    from sal.ensemble import run as verb

    code = guarded(lambda: verb([str(word) for word in words]))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_prints_streams_and_sums(
    capsys: pytest.CaptureFixture[str], run: Callable[..., Path], tmp_path: Path
) -> None:
    one, two = run("one", dataset="ntu60"), run("two", stream="b", dataset="ntu60")
    keep(two / "scores.npz", -LOGITS)
    code, out, err = sal(capsys, one, two, "--weights", "1", "-2", "--json", "--out", tmp_path / "sum")
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about == json.loads((tmp_path / "sum/ensemble.json").read_text())
    assert [row["stream"] for row in about["runs"]] == ["j", "b"] and [row["top1"] for row in about["runs"]] == [0.25, 0.25]
    assert about["ensemble"] == {"weights": [1.0, -2.0], "from": "--weights", "top1": 0.25, "top5": 1.0}
    assert about["equal"]["weights"] == [1.0, 1.0] and (about["clips"], about["classes"], about["part"]) == (4, 3, "test")
    np.testing.assert_array_equal(read_scores(tmp_path / "sum/scores.npz").logits, 3 * LOGITS)
    assert sal(capsys, "--weights", ".6", ".4", one, two)[0] == 0
    code, out, _ = sal(capsys, one, two, "--official")
    assert code == 0 and "published weights: the official" in out and "4 test clips, 3 classes" in out and "25.00%" in out
    code, out, _ = sal(capsys, one, two, "--alpha", "0.5", "--json")
    assert json.loads(out)["ensemble"]["weights"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--weights", "1"], 2, "1 weights for 2 runs"),
        (["--weights", "0", "0"], 2, "not all zero"),
        (["--weights", "1", "nan"], 2, "--weights"),
        (["--weights", "1", "1e39"], 65, "too large"),
        (["--weights"], 2, "--weights"),
        (["--weights", "1", "1", "--official"], 2, "--weights and --official"),
        (["--search", "--search-on-test"], 2, "--search and --search-on-test"),
        (["--search"], 2, "--protocol honest"),
        (["--labels", "none.npz"], 66, "none.npz"),
        (["--serach"], 2, "did you mean --search"),
        (["--out", "{one}"], 73, "holds no ensemble"),
        (["{one}", "--alpha", "1"], 2, "--alpha with 3 runs"),
    ],
)
def test_the_command_refuses(
    capsys: pytest.CaptureFixture[str], run: Callable[..., Path], flags: list[str], code: int, said: str
) -> None:
    one, two = run("one"), run("two")
    before = (one / "scores.npz").read_bytes()
    found, out, err = sal(capsys, one, two, *(flag.format(one=one) for flag in flags))
    assert (found, out) == (code, "") and said in err, err
    assert (one / "scores.npz").read_bytes() == before


def test_a_search_tunes_on_validation_and_reports_the_test_clips(
    capsys: pytest.CaptureFixture[str], run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.ensemble.CALLS", 11)
    one, two = run("one", protocol="honest"), run("two", protocol="honest", stream="b")
    keep(one / "scores.npz", np.array([[5, 0, 0], [5, 0, 0]], np.float32), HELD_OUT, TRUTH[:2])  # right, wrong
    keep(two / "scores.npz", np.array([[0, 1, 0], [0, 9, 0]], np.float32), HELD_OUT, TRUTH[:2])  # wrong, right
    code, out, err = sal(capsys, one, two, "--search", "--json")
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about["search"] == {"on": "validation", "clips": 2, "calls": 11, "seed": 0, "top1": 1.0, "top1_of_equal_weights": 1.0}
    assert (about["part"], about["clips"], about["ensemble"]["from"]) == ("test", 4, "searched on validation clips")
    assert about["equal"]["weights"] == [1.0, 1.0] and "top1" in about["equal"]
    code, out, err = sal(capsys, one, two, "--search-on-test")
    assert code == 0 and "chosen by the labels of these same test clips" in " ".join(out.split()) and "equal weights" in out


def test_pickles_with_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "epoch1_test_score.pkl"
    file.write_bytes(pickle.dumps(dict(zip(IDS[::-1].tolist(), LOGITS[::-1], strict=True))))
    code, _, err = sal(capsys, file)
    assert code == 65 and "--labels FILE" in err
    for words in ([file, "--labels", keep(tmp_path / "any.npz")], [file, tmp_path / "any.npz"]):
        code, out, _ = sal(capsys, *words, "--json")
        assert code == 0 and json.loads(out)["ensemble"]["top1"] == 0.25
    code, _, err = sal(capsys, file, tmp_path / "any.npz", "--official")
    assert code == 2 and "--weights" in err
