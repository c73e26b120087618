"""From a trained run to files of features: for zero-shot recognition, and of all clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine import feature_files, records, trained
from engine.errors import ConfigError, WorkDirError
from engine.trained import TrainedRun, open_run
from engine.zeroshot import features, from_skeletons
from shared_data import zeroshot_splits as splits
from shared_data.atomic import WriteError
from shared_data.datasets import open_data
from shared_data.errors import DataError, LabError, MissingInputError
from shared_data.zeroshot_splits import Split
from tests.engine.zeroshot import backbones

TEST, VAL = splits.split_of(6, (1, 4)), splits.split_of(6, (0, 3), without=(1, 4))


@dataclass(frozen=True)
class Runs:
    data: Path
    test: Path
    val: Path
    all: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    data = backbones.skeletons(root)
    return Runs(
        data,
        backbones.backbone(data, root / "test", "--leave-out", "1,4"),
        backbones.backbone(data, root / "val", "--leave-out", "1,4+0,3", "--hold-out", "2"),
        backbones.backbone(data, root / "all"),
    )


def opened(folder: Path, **more: object) -> TrainedRun:
    return open_run(folder, device="cpu", **more)  # type: ignore[arg-type]


def written(root: Path, folder: Path, split: Split, *, force: bool = False) -> Path:
    made, counts = from_skeletons.write(root, opened(folder), split, extractor="mlp", force=force)
    assert counts is not None
    return made


def test_the_folder_of_the_test_phase(runs: Runs, tmp_path: Path) -> None:
    folder = written(tmp_path, runs.test, TEST)
    assert folder == tmp_path / "sk_feats/mlp_2_r"
    found, data = features.read(folder, TEST, "test"), open_data(runs.data)
    assert found.findings == ()
    assert sorted(found.train.labels) == sorted(data.train.labels[np.isin(data.train.labels, TEST.seen)])
    assert np.array_equal(found.rest.rows.labels, data.test.labels), "the whole test set, in its order"
    unseen = np.isin(data.test.labels, TEST.unseen)
    assert np.array_equal(found.unseen.rows.labels, data.test.labels[unseen])
    assert np.array_equal(found.unseen.rows.features, found.rest.rows.features[unseen])


def test_logits_are_those_of_the_run_and_features_what_its_head_makes_them_of(runs: Runs, tmp_path: Path) -> None:
    found = features.read(written(tmp_path, runs.test, TEST), TEST, "test")
    with np.load(runs.test / "scores.npz") as scores:
        seen = np.isin(found.rest.rows.labels, TEST.seen)
        assert found.rest.logits is not None
        np.testing.assert_allclose(found.rest.logits[seen], scores["logits"], rtol=1e-5, atol=1e-6)
    state = load_file(runs.test / "checkpoints/last.safetensors")
    weight, bias = (next(v for k, v in state.items() if k.startswith("model/") and v.shape == s) for s in ((6, 256), (6,)))
    np.testing.assert_allclose(found.rest.rows.features @ weight.T + bias, found.rest.logits, rtol=1e-4, atol=1e-4)


def test_the_folder_of_validation_keeps_held_out_clips_apart(runs: Runs, tmp_path: Path) -> None:
    folder = written(tmp_path, runs.val, VAL)
    assert folder == tmp_path / "sk_feats/mlp_val_2_r"
    found, train = features.read(folder, VAL, "val"), open_data(runs.data).train
    assert found.findings == () and found.unseen.logits is not None
    assert sorted(found.train.labels) == [2] * 4 + [5] * 4 and sorted(found.rest.rows.labels) == [2, 2, 5, 5]
    assert sorted(found.unseen.rows.labels) == [0] * 3 + [3] * 3
    held = json.loads((folder / records.MADE).read_text())["found"]["held_out"]
    first = [name for k in VAL.seen for name in sorted(train.ids[train.labels == k].tolist())[:2]]
    assert held == sorted(first)
    shown = trained.assembly.load_data(opened(runs.val).config).train
    assert not set(held) & set(shown.ids.tolist()), "the backbone was not trained on them"
    assert len(shown) == len(found.train.labels)


def test_a_list_that_lacks_a_seen_class_is_kept_to(runs: Runs, tmp_path: Path) -> None:
    """As the official one of 120/10 in validation: the backbone has seen more than the features are of."""
    found = features.read(written(tmp_path, runs.val, Split(6, (5,), (0, 3))), Split(6, (5,), (0, 3)), "val")
    assert set(found.train.labels) == set(found.rest.rows.labels) == {5}


def test_the_split_follows_from_what_a_run_left_out(runs: Runs) -> None:
    assert from_skeletons.split_of(opened(runs.test)) == TEST and from_skeletons.split_of(opened(runs.val)) == VAL
    with pytest.raises(ConfigError, match=r"trained on all classes(.|\n)*--leave-out"):
        from_skeletons.split_of(opened(runs.all))


def test_a_validation_run_without_clips_held_out_is_told_how_many(runs: Runs, tmp_path: Path) -> None:
    folder = backbones.backbone(runs.data, tmp_path / "run", "--leave-out", "1,4+0,3")
    with pytest.raises(
        ConfigError, match=r"--leave-out 1,4\+0,3 --hold-out 3"
    ):  # half of 6; 1.5 times 6 clips in 2 classes are 5
        from_skeletons.split_of(opened(folder))


@pytest.mark.parametrize("split", [splits.split_of(6, (1, 5)), VAL, Split(6, (0, 1, 2, 3), (1, 4))])
def test_another_split_than_the_runs_is_refused(runs: Runs, tmp_path: Path, split: Split) -> None:
    with pytest.raises(ConfigError, match="left out 1,4"):
        from_skeletons.write(tmp_path, opened(runs.test), split, extractor="mlp")
    assert not list(tmp_path.iterdir())


def test_other_clips_than_the_runs_are_refused(runs: Runs, tmp_path: Path) -> None:
    other = shutil.copy(runs.data, tmp_path / "synthetic_moved.npz")
    assert from_skeletons.write(tmp_path / "a", opened(runs.test, data=other), TEST, extractor="mlp")[1]
    data = opened(runs.test).data
    fewer = data.test.subset(np.arange(1, len(data.test)))
    with pytest.raises(DataError, match="other clips"):
        from_skeletons.write(tmp_path / "b", trained_with(opened(runs.test), fewer), TEST, extractor="mlp")


def trained_with(run: TrainedRun, test: object) -> TrainedRun:
    from dataclasses import replace

    return replace(run, data=replace(run.data, test=test))  # type: ignore[arg-type]


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def no_pass(*_: object) -> None:
    raise AssertionError("a network was run")


def test_what_was_made_from_the_same_is_left_as_it_is(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, runs.test, TEST)
    before = times(folder)
    monkeypatch.setattr(TrainedRun, "encoded", no_pass)
    assert from_skeletons.write(tmp_path, opened(runs.test), TEST, extractor="mlp") == (folder, None)
    again = shutil.copytree(runs.test, tmp_path / "moved")
    assert from_skeletons.write(tmp_path, opened(again), TEST, extractor="mlp", force=True)[1] is None
    assert times(folder) == before


SPOILT: dict[str, Callable[[Path], object]] = {
    "changed": lambda folder: np.save(folder / "z_label.npy", np.zeros(6, np.int64)),
    "gone": lambda folder: (folder / "train.npy").unlink(),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_damaged_files_are_made_again_if_forced(runs: Runs, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = written(tmp_path, runs.test, TEST)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    spoil(folder)
    with pytest.raises(WorkDirError, match="not as they were written"):
        written(tmp_path, runs.test, TEST)
    written(tmp_path, runs.test, TEST, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_features_of_another_run_are_refused_with_what_differs(runs: Runs, tmp_path: Path) -> None:
    folder = written(tmp_path, runs.test, TEST)
    other = backbones.backbone(runs.data, tmp_path / "other", "--leave-out", "1,4", "--seed", "7")
    with pytest.raises(WorkDirError, match=r"run\.seed: 1 -> 7(.|\n)*weights_sha256"):
        written(tmp_path, other, TEST)
    before = np.load(folder / "train.npy")
    written(tmp_path, other, TEST, force=True)
    assert not np.array_equal(np.load(folder / "train.npy"), before)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_somebody_else_is_left_alone(runs: Runs, tmp_path: Path, force: bool) -> None:
    mine = tmp_path / "sk_feats/mlp_2_r/train.npy"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(WorkDirError, match="left alone"):
        written(tmp_path, runs.test, TEST, force=force)
    assert mine.read_text() == "mine"


def test_what_lies_beside_our_files_is_not_removed(runs: Runs, tmp_path: Path) -> None:
    folder = written(tmp_path, runs.test, TEST)
    (folder / "notes.txt").write_text("mine")
    (folder / "train.npy").unlink()
    with pytest.raises(WorkDirError, match="cannot remove"):
        written(tmp_path, runs.test, TEST, force=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_run_that_has_not_ended_is_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        open_run(tmp_path)
    for name in ("metrics.json", "config.yaml", "checkpoints/last.safetensors"):
        copy = shutil.copytree(runs.test, tmp_path / name.replace("/", "-"))
        (copy / name).unlink()
        with pytest.raises(MissingInputError):
            opened(copy)
    copy = shutil.copytree(runs.test, tmp_path / "cut")
    lines = (copy / "log.jsonl").read_text().splitlines(keepends=True)
    (copy / "log.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(MissingInputError, match="has not come to its end"):
        opened(copy)


def test_features_of_all_clips(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = tmp_path / "mlp", opened(runs.all)
    assert feature_files.write(folder, run)
    data = open_data(runs.data)
    for part in ("train", "test"):
        with np.load(folder / f"{part}.npz") as found:
            clips = getattr(data, part)
            assert np.array_equal(found["ids"], clips.ids) and np.array_equal(found["labels"], clips.labels)
            assert found["features"].shape == (len(clips), 256) and found["logits"].shape == (len(clips), 6)
    with np.load(folder / "test.npz") as found, np.load(runs.all / "scores.npz") as scores:
        np.testing.assert_allclose(found["logits"], scores["logits"], rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(TrainedRun, "encoded", no_pass)
    assert not feature_files.write(folder, run)
    monkeypatch.undo()
    with pytest.raises(WorkDirError, match="weights: last -> best"):
        feature_files.write(folder, opened(runs.all, weights="best"))


def test_training_clips_are_encoded_without_augmentation(runs: Runs) -> None:
    run = opened(runs.all)
    one, two = (run.encoded(run.data.train).features for _ in range(2))
    assert np.array_equal(one, two)
    alone = run.encoded(run.data.train.subset(np.array([5])))
    np.testing.assert_allclose(alone.features[0], one[5], rtol=1e-5, atol=1e-6)


def test_nothing_is_left_where_the_network_fails(runs: Runs, tmp_path: Path) -> None:
    run = opened(runs.test)
    run.head.weight.data.fill_(float("nan"))
    with pytest.raises(LabError, match="not a number"):
        from_skeletons.write(tmp_path, run, TEST, extractor="mlp")
    with pytest.raises(LabError, match="not a number"):
        feature_files.write(tmp_path / "mlp", run)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WriteError, match="No space left"):
        feature_files.write(tmp_path / "mlp", opened(runs.all))
    assert not (tmp_path / "mlp").exists()
