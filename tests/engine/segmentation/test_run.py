"""Runs that learn to segment, from the command line to the report: cut off and resumed, honest, by windows, tested, shown."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.config import RunConfig, parse
from engine.errors import ConfigError
from engine.runfolder import read_log
from engine.segmentation.evaluation import judged
from engine.segmentation.framewise import OF_A_HEAD, UNUSED, FrameWise, chosen_of
from engine.segmentation.predictions import read_predictions
from engine.segmentation.settings import Settings
from engine.segmentation.step import SegmentStep
from engine.segmentation.trained import trained
from sal.__main__ import main
from shared_data.formats.untrimmed import open_sequences
from shared_data.sequence_store import write_sequences
from tests.engine.segmentation.test_network import network, padded, sequence


def train(recipe: Path, data: Path, folder: Path, *more: str) -> int:
    return main(["segment", "train", "--config", str(recipe), "--data", str(data), "--work-dir", str(folder), *more])


@pytest.fixture(scope="module")
def run(recipe: Path, sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmented") / "run"
    assert train(recipe, sequences, folder) == 0
    return folder


def test_a_run_leaves_weights_predictions_metrics_and_a_report(run: Path, sequences: Path) -> None:
    found = read_predictions(run / "predictions_last.npz")
    test = open_sequences(sequences).splits["test"]
    assert found.ids.tolist() == test.ids.tolist() and found.lengths.tolist() == test.lengths.tolist()
    assert found.truth.tolist() == np.concatenate([test.labels(n) for n in range(len(test))]).tolist()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["last"] == {"epoch": 1, **judged(found)}
    assert metrics["best"]["refined"]["f1_50"] >= metrics["last"]["refined"]["f1_50"]
    assert (metrics["stage"], metrics["mode"], metrics["sequences_train"], metrics["sequences_test"]) == ("segment", "full", 7, 3)
    steps = [entry for entry in read_log(run / "log.jsonl") if entry["event"] == "step"]
    assert len(steps) == 8 and {"class", "smoothing", "boundary", "accuracy", "loss", "lr"} <= set(steps[0])
    assert 1 < max(entry["accuracy"] for entry in steps) <= 100  # in percent, as evaluations
    assert "synthetic_test_000" in (run / "report.html").read_text()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_cut_off_anywhere_it_ends_with_the_same_bits(
    run: Path, recipe: Path, sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    took = SegmentStep.__call__
    count = 0

    def dying(self: SegmentStep, *inputs: torch.Tensor) -> object:
        nonlocal count
        count += 1
        if count > stop:
            raise RuntimeError("cut off")
        return took(self, *inputs)

    monkeypatch.setattr(SegmentStep, "__call__", dying)
    with pytest.raises(RuntimeError, match="cut off"):
        train(recipe, sequences, tmp_path / "run", "--save-steps", "1")
    monkeypatch.undo()
    assert train(recipe, sequences, tmp_path / "run", "--save-steps", "1") == 0
    for name in ("last", "best"):
        ours, theirs = (load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (tmp_path / "run", run))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_honest_run_chooses_on_held_out_sequences_and_looks_at_the_test_once(
    recipe: Path, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe, sequences, tmp_path / "run", "--protocol", "honest") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["sequences_train"] == 6 and set(metrics["test"]) == {"last", "best"}
    assert metrics["test"]["last"] == judged(read_predictions(tmp_path / "run" / "predictions_last.npz"))
    assert "training videos" in metrics["selection"] and "training videos" in capsys.readouterr().out


def test_windows_by_themselves_are_learnt_from_too(recipe: Path, sequences: Path, tmp_path: Path) -> None:
    flags = ["--segment-args", "{mode: window, chosen_by: accuracy}", "--batch-size", "16", "--forward-batch-size", "5"]
    assert train(recipe, sequences, tmp_path / "run", *flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["last"]) == {"epoch", "raw"} and metrics["last"]["raw"]["boundary_f1"] is None
    assert not read_predictions(tmp_path / "run" / "predictions_last.npz").has_boundaries


def test_weights_are_tested_as_they_were_in_training(run: Path, sequences: Path, tmp_path: Path) -> None:
    weights = run / "checkpoints" / "best.safetensors"
    folder = tmp_path / "test"
    words = ["--weights", str(weights), "--data", str(sequences), "--work-dir", str(folder), "--device", "cpu"]
    assert main(["segment", "test", "usdrl", *words]) == 0
    ours, theirs = read_predictions(folder / "predictions_last.npz"), read_predictions(run / "predictions_best.npz")
    assert np.array_equal(ours.predicted, theirs.predicted) and np.array_equal(ours.boundary, theirs.boundary)


def test_one_sequence_is_told_as_a_table_and_drawn(
    run: Path, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, test = run / "checkpoints" / "last.safetensors", open_sequences(sequences).splits["test"]
    frames = tmp_path / "mine.npy"
    np.save(frames, test.frames(1).reshape(int(test.lengths[1]), -1))
    best = str(run / "checkpoints" / "best.safetensors")
    table, page = tmp_path / "segments.csv", tmp_path / "page.html"
    assert main(["segment", "predict", best, str(frames), "--out", str(table), "--html", str(page), "--device", "cpu"]) == 0
    rows = list(csv.DictReader(table.open()))
    assert {row["kind"] for row in rows} == {"predicted", "refined"}
    refined = [row for row in rows if row["kind"] == "refined"]
    assert refined[0]["start"] == "0" and refined[-1]["end"] == str(test.lengths[1])
    assert "<svg" in page.read_text()
    capsys.readouterr()
    assert main(["segment", "predict", best, str(sequences), "--video", str(test.ids[1]), "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(refined)
    assert main(["segment", "predict", str(weights), str(frames), "--device", "cpu"]) == 65  # the state of the run, not weights
    assert main(["segment", "predict", best, str(sequences), "--video", "nobody", "--device", "cpu"]) == 2
    assert re.search(r"no sequence 'nobody'.*\n.*\n.*--video synthetic_", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("model", "given", "place"),
    [
        ("usdrl", {"backbone": "sttr", "width": 8}, "encoder"),
        ("isc", {"representation": "graph", "width": 8}, "encoder.network.encoder"),
    ],
)
def test_an_encoder_that_was_pretrained_is_where_it_begins(
    recipe: Path, sequences: Path, tmp_path: Path, model: str, given: dict[str, Any], place: str
) -> None:
    """Whether it says something of each frame, or one thing of a window."""
    from engine import checkpoint, models

    torch.manual_seed(5)
    card = models.find(model)
    own = given | ({"frames": 16} if "frames" in models.arguments(card) else {})
    classifier = models.build(card, num_classes=2, skeleton="ntu25", people=2, **own)
    checkpoint.save_weights(tmp_path / "encoder.safetensors", classifier.encoder, {"model": model, "model_args": own})
    flags = ["--init", str(tmp_path / "encoder.safetensors"), "--segment-args.frozen", "true", "--num-epoch", "1"]
    of = tmp_path / "of.yaml"
    of.write_text(recipe.read_text().replace("{backbone: sttr, width: 8}", json.dumps(given)).replace("usdrl", model))
    assert train(of, sequences, tmp_path / "run", *flags) == 0
    trained_ = load_file(tmp_path / "run" / "checkpoints" / "best.safetensors")
    for name, value in classifier.encoder.named_parameters():
        assert torch.equal(trained_[f"{place}.{name}"], value)


def test_micro_batches_make_the_step_of_the_batch() -> None:
    """Also where the sequences are of different lengths and have frames of no known class."""
    features, mask = padded(*(sequence(t, t) for t in (40, 17, 29)))
    labels = torch.randint(0, 5, (3, 40), generator=torch.Generator().manual_seed(1)).masked_fill(~mask[:, 0], 255)
    labels[2, :11] = 255
    boundary = (torch.rand(3, 1, 40, generator=torch.Generator().manual_seed(2)) < 0.1).float() * mask
    gradients = []
    for size in (None, 2, 1):
        one = network().double().train()
        step = SegmentStep(one, torch.optim.SGD(one.parameters(), lr=0.0), Settings(), pos_weight=4.0, micro_batch=size)
        result = step(features.double(), labels, boundary.double(), mask)
        gradients.append((float(result.loss), [p.grad.clone() for p in one.parameters()], float(result.terms["accuracy"])))
    for loss, grads, accuracy in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-12) and accuracy == gradients[0][2]
        for ours, theirs in zip(grads, gradients[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--segment-args.mod", "full"], "there is no setting 'mod'; did you mean mode?"),
        (["--segment-args.mode", "whole"], "mode is 'whole'"),
        (["--segment-args.mode", "window", "--batch-size", "512"], "make no batch of 512"),
        (["--segment-args.head_layers", "17"], "head_layers"),
        (["--segment-args.dropout", "true"], "dropout is True"),
        (["--pipeline", "ctrgcn_ntu"], "makes nothing of whole sequences"),
        (["--train-window-size", "-1"], "of whole clips"),
        (["--model", "fsvae"], "zero-shot"),
        (["--stream", "b"], "stream is 'b', and segmentation does nothing with it"),
        (["--labelled", "10%"], "--labelled"),
        (["--test-window-size", "32"], "test_window_size is 32"),
        (["--sync-batchnorm"], "--sync-batchnorm"),
        (["--segment-args.background_share", "0.5"], "background_share is 0.5, and usdrl in the mode full does nothing with it"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    recipe: Path, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert train(recipe, sequences, tmp_path / "run", *flags) == 2
    assert told in capsys.readouterr().err


def test_every_setting_that_means_nothing_is_one(recipe: Path) -> None:
    """So that a renamed one is not let through, and an own network is told of those of the head."""
    assert set(UNUSED) <= {field.name for field in fields(RunConfig)} and set(OF_A_HEAD) <= {f.name for f in fields(Settings)}
    for name, value in (("head_width", 32), ("frozen", True), ("background_share", 0.5)):
        with pytest.raises(ConfigError, match=f"{name} is {value}, and lasa"):
            chosen_of(RunConfig(model="lasa", segment_args={name: value}))
    assert chosen_of(RunConfig(model="lasa", segment_args={"smoothing": "time"})).smoothing == "time"


def test_how_segments_are_counted_is_a_matter_of_the_test(run: Path) -> None:
    words = [
        "--weights",
        str(run / "checkpoints" / "best.safetensors"),
        "--device",
        "cpu",
        "--segment-args.official_ends",
        "true",
    ]
    assert chosen_of(trained(parse(words, model="usdrl", phase="test", stage="segment")).config).official_ends


def test_classes_in_another_order_than_the_weights_are_refused(
    run: Path, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_sequences(sequences)
    first, *others = source.class_names
    words = ["segment", "test", "usdrl", "--weights", str(run / "checkpoints" / "best.safetensors"), "--device", "cpu"]
    for name, names, rc, told in (
        ("turned", (first, *others[::-1]), 2, f"class 1 is '{others[-1]}', which is class 3 of the weights"),
        ("other", (first, "jump", *others[1:]), 0, f"note: class 1 is 'jump' in the data and '{others[0]}' in the weights"),
    ):
        data = write_sequences(replace(source, class_names=names), tmp_path / f"{name}.h5")
        assert main([*words, "--data", str(data), "--work-dir", str(tmp_path / name)]) == rc
        said = capsys.readouterr()
        assert told in (said.out + said.err).replace("\n", " ")


def test_weights_of_another_kind_are_refused(run: Path, tmp_path: Path) -> None:
    from engine.errors import WeightsError

    config = parse(["--weights", str(run / "metrics.json")], model="usdrl", phase="test", stage="segment")
    with pytest.raises(WeightsError, match="not a file of weights of ours"):
        trained(config)


def test_what_depends_on_the_data_is_in_the_fingerprint(recipe: Path, sequences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.segmentation import material

    whole = material.load(parse(["--config", str(recipe), "--data", str(sequences)], stage="segment"))
    fewer = material.load(parse(["--config", str(recipe), "--data", str(sequences), "--max-clips", "2"], stage="segment"))
    assert whole.fingerprint() != fewer.fingerprint() and len(fewer.train) == 2
    monkeypatch.setattr(material, "DEBUG_CLIPS", 3)
    assert len(material.load(parse(["--config", str(recipe), "--data", str(sequences), "--debug"], stage="segment")).train) == 3
    marked = sum(int(whole.train.boundaries(n).sum()) for n in range(7))
    assert whole.positive_weight == pytest.approx(int(whole.train.lengths.sum()) / marked)
    assert FrameWise.labelled is False
