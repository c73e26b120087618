"""Fused scores: hand-worked sums, refusals, published weights, and a search that repeats itself."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import models
from engine.ensemble import (
    SPACE,
    Joined,
    claim_folder,
    fuse,
    join,
    published_weights,
    search,
    top1,
    write,
)
from engine.errors import ConfigError, WorkDirError
from engine.metrics import measure
from engine.score_files import Labels, ScoreFile, read_scores
from shared_data.errors import DataError, LabError

A = np.array([[2, 1, 0], [0, 1, 0], [0, 0, 3], [1, 0, 0]], np.float32)
B = np.array([[0, 2, 0], [3, 0, 0], [0, 1, 0], [0, 0, 2]], np.float32)
IDS = np.array(["a", "b", "c", "d"])
TRUTH = np.array([0, 0, 2, 2])


def score_file(name: str, logits: np.ndarray, order: list[int] | None = None, **changed: object) -> ScoreFile:
    rows = list(range(len(logits))) if order is None else order
    return replace(ScoreFile(name, IDS[rows], logits[rows], TRUTH[rows]), **changed)  # type: ignore[arg-type]


def made(streams: int = 3, clips: int = 60, classes: int = 7, seed: int = 0) -> Joined:
    """Networks that are right more often than not, each on its own clips."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, clips)
    logits = rng.normal(size=(streams, clips, classes)).astype(np.float32)
    logits[:, np.arange(clips), labels] += np.linspace(0.5, 1.5, streams, dtype=np.float32)[:, None]
    return Joined(np.array([f"clip_{n}" for n in range(clips)]), labels, logits)


def test_hand_worked_sums() -> None:
    joined = join([score_file("x", A), score_file("y", B)])
    np.testing.assert_array_equal(
        fuse(joined.logits, [1, 0.5]), np.array([[2, 2, 0], [1.5, 1, 0], [0, 0.5, 3], [1, 0, 1]], np.float32)
    )
    # Where two classes are highest (here clips a and d), the first one counts, as in the metrics.
    assert [top1(joined, w) for w in ([1, 0], [0, 1], [1, 1], [1, 0.5])] == [0.5, 0.5, 0.75, 0.75]
    for weights in ([1, 0], [1, 1], [1, 0.5], [0.6, 0.4], [-1, 1]):
        assert measure(joined.fused(weights), 0).top1 == top1(joined, weights)


def test_clips_are_joined_by_id_in_any_order() -> None:
    straight = join([score_file("x", A), score_file("y", B)])
    shuffled = join([score_file("x", A), score_file("y", B, [2, 0, 3, 1])])
    for one, two in zip(vars(straight).values(), vars(shuffled).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    turned = join([score_file("y", B, [2, 0, 3, 1]), score_file("x", A)])
    assert turned.ids.tolist() == ["c", "a", "d", "b"]
    np.testing.assert_array_equal(turned.logits[1], A[[2, 0, 3, 1]])


def test_the_objective_is_that_of_a_loop_over_clips() -> None:
    joined, rng = made(streams=4, clips=200, classes=11), np.random.default_rng(5)
    for _ in range(20):
        weights = rng.uniform(*SPACE, 4)
        right = 0
        for n, label in enumerate(joined.labels):
            total = sum(weight * logits[n].astype(np.float64) for weight, logits in zip(weights, joined.logits, strict=True))
            right += int(total.argmax() == label)
        assert top1(joined, weights) == right / len(joined.labels)


def test_a_search_repeats_itself_and_reports_the_best_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, seen = made(), []

    def spied(clips: Joined, weights: list[float]) -> float:
        seen.append((tuple(weights), top1(clips, weights)))
        return seen[-1][1]

    monkeypatch.setattr("engine.ensemble.top1", spied)
    told: list[tuple[int, int]] = []
    found = search(joined, calls=12, progress=lambda *at: told.append(at))
    assert told == [(n + 1, 12) for n in range(12)]
    assert found.top1 == max(value for _, value in seen) == top1(joined, found.weights)
    assert found.weights == next(weights for weights, value in seen if value == found.top1)
    assert all(SPACE[0] <= weight <= SPACE[1] for weights, _ in seen for weight in weights)
    assert search(joined, calls=12) == found
    assert search(joined, calls=12, seed=1).weights != found.weights


def test_a_search_starts_where_the_published_one_does() -> None:
    """The first points are those of gp_minimize with seed 0 and its defaults."""
    from skopt import gp_minimize

    joined = made(streams=2)
    plain = gp_minimize(lambda w: -top1(joined, w), [(0.2, 1.2)] * 2, n_calls=11, random_state=0)
    found = search(joined, calls=11)
    assert (list(found.weights), -found.top1) == (plain.x, plain.fun)


def test_a_search_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skopt", None)
    with pytest.raises(ConfigError, match="scikit-optimize"):
        search(made(), calls=10)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (score_file("y", B, [0, 1, 2]), ["different clips", "1 only in x: ids d"]),
        (score_file("y", B, ids=np.array(["a", "b", "c", "e"])), ["1 only in x: ids d", "1 only in y: ids e"]),
        (score_file("y", B, labels=np.array([0, 1, 2, 1])), ["2 labels differ", "b is 0 in x and 1 in y", "ids b, d"]),
        (score_file("y", B[:, :2]), ["3 classes in x; 2 classes in y"]),
        (score_file("y", B[:, :2], labels=None), ["3 classes in x; 2 classes in y"]),
    ],
)
def test_what_does_not_agree_is_refused(other: ScoreFile, said: list[str]) -> None:
    with pytest.raises(DataError) as refused:
        join([score_file("x", A), other])
    assert refused.value.exit_code == 65
    assert all(words in str(refused.value) for words in said), refused.value


def test_only_the_first_ids_are_named() -> None:
    ids = np.array([f"clip_{n:03d}" for n in range(100)])
    one = ScoreFile("x", ids, np.zeros((100, 3), np.float32), None)
    other = replace(one, name="y", ids=np.char.add(ids, "_"))
    with pytest.raises(DataError, match="100 only in x: ids clip_000, clip_001, clip_002, clip_003, clip_004 and 95 more"):
        join([one, other])


def test_labels_from_elsewhere() -> None:
    bare = score_file("x", A, labels=None)
    more = Labels("truth", np.array(["d", "z", "c", "b", "a"]), np.array([2, 1, 2, 0, 0]))
    np.testing.assert_array_equal(join([bare], more).labels, TRUTH)
    np.testing.assert_array_equal(join([bare, score_file("y", B, [3, 2, 1, 0])]).labels, TRUTH)
    with pytest.raises(DataError, match="no labels: score pickles have none"):
        join([bare])
    with pytest.raises(DataError, match=r"no labels for 1 of 4 clips\n.*ids d;"):
        join([bare], Labels("truth", IDS[:3], TRUTH[:3]))
    with pytest.raises(DataError, match="1 labels differ: d is 2 in x and 1 in truth"):
        join([score_file("x", A)], Labels("truth", IDS, np.array([0, 0, 2, 1])))
    with pytest.raises(DataError, match="labels up to 3 for scores of 3 classes"):
        join([bare], Labels("truth", IDS, np.array([0, 0, 2, 3])))


def test_a_sum_beyond_float32_is_refused() -> None:
    joined = join([score_file("x", A)])
    with pytest.raises(DataError, match="too large"):
        joined.fused([1e39])


# --- published weights -----------------------------------------------------------------------------------------------------


def run_of(stream: str, **settings: object) -> ScoreFile:
    base = {"model": "ctrgcn", "recipe": "ntu60_xsub", "dataset": "ntu60", "split": "xsub", "model_args": {}}
    return score_file(stream, A, settings={**base, "stream": stream, **settings})


def test_ctrgcn_is_published_with_these_weights() -> None:
    assert published_weights([run_of(s) for s in ("j", "b", "jm", "bm")]).weights == (0.6, 0.6, 0.4, 0.4)
    assert published_weights([run_of(s) for s in ("bm", "j", "jm", "b")]).weights == (0.4, 0.6, 0.4, 0.6)
    assert published_weights([run_of(s, dataset="nw_ucla", split="view3") for s in ("b", "j")]).weights == (1.0, 1.0)


def test_published_rows_of_all_models_are_complete() -> None:
    rows = [(name, row) for name, card in models.discover().items() for row in card.toml.get("ensemble", [])]
    assert rows
    for name, row in rows:
        assert set(row) <= {"dataset", "protocol", "variant", "streams", "weights", "source"}, (name, row)
        assert len(set(row["streams"])) == len(row["streams"]) == len(row["weights"]) and row["source"], (name, row)
        assert set(row["streams"]) <= {"j", "b", "jm", "bm"} and all(weight > 0 for weight in row["weights"]), (name, row)


ROWS = """
title = "Sized"
status = "experimental"
entry = "network:Sized"
[[ensemble]]
dataset = "ntu60"
protocol = "xsub"
variant = "base"
streams = ["j", "b"]
weights = [1, 1.4]
source = "one"
[[ensemble]]
dataset = "ntu60"
protocol = "xsub"
variant = "large"
streams = ["j", "b"]
weights = [1, 1.5]
source = "two"
"""


@pytest.fixture
def sized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(models.MODELS_VARIABLE, str(tmp_path))
    (tmp_path / "sized").mkdir()
    file = tmp_path / "sized/model.toml"
    file.write_text(ROWS)
    return file


def test_a_variant_is_known_by_recipe_or_argument(sized: Path) -> None:
    def weights(**settings: object) -> tuple[float, ...]:
        return published_weights([run_of(s, model="sized", **settings) for s in ("b", "j")]).weights

    assert weights(recipe="base_ntu60_xsub") == (1.4, 1.0)
    assert weights(recipe="large_ntu60_xsub") == (1.5, 1.0)
    assert weights(recipe="mine", model_args={"size": "large"}) == (1.5, 1.0)
    for settings in ({"recipe": "mine"}, {"recipe": "base_x", "dataset": "ntu120"}, {"recipe": "base_x", "split": "xview"}):
        with pytest.raises(ConfigError, match="no published weights of sized"):
            weights(**settings)
    with pytest.raises(ConfigError, match=r"2 published weights of sized(.|\n)*xsub base(.|\n)*xsub large"):
        weights(recipe="base_ntu60_xsub", model_args={"size": "large"})


@pytest.mark.parametrize(
    "row", ['streams = ["j", "b"]\nweights = [1]\nsource = "x"', 'streams = ["j"]\nweights = [1]', 'streams = ["j", "j"]']
)
def test_a_broken_row_is_the_models_fault(sized: Path, row: str) -> None:
    sized.write_text(f"{ROWS}[[ensemble]]\n{row}\n")
    with pytest.raises(models.ModelError, match="not complete"):
        published_weights([run_of("j", model="sized")])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([run_of("j"), score_file("pickle", B)], "is not known of pickle"),
        ([run_of("j"), run_of("b", split="xview")], "the runs differ in split"),
        ([run_of("j"), run_of("b", model="msg3d")], "the runs differ in model"),
        ([run_of("j"), run_of("j")], "j is the stream of several runs"),
        ([run_of("j")], "no published weights"),
        ([run_of("j", model="none"), run_of("b", model="none")], "there is no model 'none'"),
    ],
)
def test_runs_without_published_weights(files: list[ScoreFile], said: str) -> None:
    with pytest.raises(LabError, match=said) as refused:
        published_weights(files)
    assert refused.value.exit_code == 2 and (refused.value.next_step or refused.value.expected)


# --- the folder -------------------------------------------------------------------------------------------------------------


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    joined = join([score_file("x", A), score_file("y", B)])
    for weights in ([1, 1], [1, 0.5]):  # the second time over the first
        claim_folder(tmp_path / "a/b")
        write(tmp_path / "a/b", joined.fused(weights), {"weights": weights})
        again = read_scores(tmp_path / "a/b/scores.npz")
        np.testing.assert_array_equal(again.logits, fuse(joined.logits, weights))
        assert again.ids.tolist() == IDS.tolist() and again.labels is not None and again.labels.tolist() == TRUTH.tolist()
        assert json.loads((tmp_path / "a/b/ensemble.json").read_text()) == {"weights": weights}
    assert sorted(entry.name for entry in (tmp_path / "a/b").iterdir()) == ["ensemble.json", "scores.npz"]


def test_nothing_of_others_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "scores.npz").write_bytes(b"mine")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "file", tmp_path / "file/below", Path("a\0b")):
        with pytest.raises(WorkDirError) as refused:
            claim_folder(folder)
        assert refused.value.exit_code == 73
    assert (tmp_path / "scores.npz").read_bytes() == b"mine"
