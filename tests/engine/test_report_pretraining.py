"""Reports of runs without labels, from folders made up for the test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.report import write_report
from engine.report.course import MOST_POINTS, thinned
from tests.engine.test_report import Reader

CONFIG = {
    "model": "isc",
    "stage": "pretrain",
    "recipe": "ntu60_xview",
    "num_epoch": 4,
    "batch_size": 64,
    "seed": 7,
    "stream": "j",
}


def events(spreads: list[float], *, steps: int = 3) -> list[dict[str, Any]]:
    """Four-epoch logs: `steps` logged steps in an epoch, with a term called ``<nce>``."""
    found: list[dict[str, Any]] = [{"event": "start"}]
    for epoch, spread in enumerate(spreads):
        found += [
            {"event": "step", "epoch": epoch, "step": 20 * (steps * epoch + n + 1), "loss": 9.0, "lr": 0.01, "clips_per_s": 50.0,
             "grad_norm": 0.5, "<nce>": 8.0 - epoch, "spread": spread, "uniformity": -2.0} for n in range(steps)
        ]  # fmt: skip
        found += [
            {"event": "epoch", "epoch": epoch, "loss": 8.5 - epoch, "top1": 0.0, "lr": 0.01, "seconds": 2.0, "clips_per_s": 321.0,
             "peak_allocated_mib": 1024.0, "peak_reserved_mib": 1536.0, "rss_mib": 2048.0},
            {"event": "eval", "epoch": epoch, "<nce>": 7.5 - epoch, "spread": spread},
        ]  # fmt: skip
    return found


def written(folder: Path, log: list[dict[str, Any]], *, ended: bool = True, **config: Any) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | config))
    (folder / "env.json").write_text(json.dumps({"torch": "2.3.1"}))
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in [*log, *([{"event": "end"}] if ended else [])]))
    if ended:
        last = {"epoch": 3, "loss": 5.5, "terms": {name: log[-1][name] for name in ("<nce>", "spread")}}
        metrics = {
            **CONFIG,
            "dataset": "NTU60_CV",
            "last": last,
            "parameters": 2_345_678,
            "clips_train": 37646,
            "seconds": 4000.0,
        }
        (folder / "metrics.json").write_text(json.dumps(metrics | {"encoders": ["encoder_graph-based.safetensors"]}))
    return folder


def read(folder: Path) -> tuple[Reader, str]:
    document = write_report(folder).read_text(encoding="utf-8")
    assert "http" not in document
    return Reader(document), document


def test_loss_and_every_term_are_drawn_and_told(tmp_path: Path) -> None:
    reader, document = read(written(tmp_path, events([0.8, 0.7, 0.6, 0.55])))
    captions = re.findall(r"<figcaption><span>(.*?)</span>", document)
    assert captions == [
        "Loss", "Spread of the embeddings", "Uniformity of the embeddings",
        "Term &lt;nce&gt;", "Norm of the gradient", "Learning rate", "Speed, clips/s",
        "Peak GPU memory, GiB", "Host memory, GiB",
    ]  # fmt: skip
    assert "&lt;nce&gt;, step 240: 5</title>" in document and "spread, step 20: 0.8</title>" in document
    assert "training, epoch 4: 5.5</title>" in document
    for words in (
        "Pretraining run, without labels", "isc on NTU60_CV", "epochs 4", "batch 64", "seed 7", "2,345,678 parameters",
        "37,646 training clips", "67 min whole run", "loss, mean of epoch 4 5.5", "<nce>, last step 4.5",
        "spread, last step 0.55", f"encoder_graph-based.safetensors {tmp_path}/encoder_graph-based.safetensors",
    ):  # fmt: skip
        assert words in reader.text, words
    for words in ("Top-1", "top1", "Confusion", "examples.npz", "collapsed:"):  # what a classifier's page has
        assert words not in reader.text, words


def test_a_collapse_is_told_at_the_top_and_only_then(tmp_path: Path) -> None:
    verdict = r"The encoder has collapsed: .* \(spread 0\.012\)"
    assert re.search(verdict, read(written(tmp_path, events([0.8, 0.4, 0.1, 0.012])))[0].text)
    assert "has collapsed:" not in read(written(tmp_path, events([0.012, 0.4, 0.1, 0.06])))[0].text


def test_short_epochs_without_logged_steps_are_drawn_by_epoch(tmp_path: Path) -> None:
    reader, document = read(written(tmp_path, events([0.8, 0.7, 0.6, 0.5], steps=0), stage="tune"))
    assert "Tuning run, without labels" in reader.text
    assert "&lt;nce&gt;, epoch 4: 4.5</title>" in document and "spread, epoch 1: 0.8</title>" in document


def test_a_run_stopped_early_says_what_its_log_knows(tmp_path: Path) -> None:
    text = read(written(tmp_path, events([0.8, 0.03]), ended=False))[0].text
    assert "This run has not come to its end: the log stops after epoch 2" in text
    assert "The encoder has collapsed" in text and "<nce>, last step 6.5" in text
    (tmp_path / "log.jsonl").unlink()
    assert "There is no log.jsonl" in read(tmp_path)[0].text


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    log = events([float("nan"), 0.7, float("inf"), 0.6])
    reader, _ = read(written(tmp_path, log))
    assert "nan" not in " ".join(value or "" for _, value in reader.attributes).lower()


@pytest.mark.parametrize("length", [0, 1, MOST_POINTS, MOST_POINTS + 1, 5000])
def test_a_long_course_is_thinned_to_means(length: int) -> None:
    course = [(float(x), 3.0 * x) for x in range(length)]
    found = thinned(course)
    assert len(found) <= MOST_POINTS and (length > MOST_POINTS or found == course)
    if length:
        size = -(-length // MOST_POINTS)
        assert found[0] == (size - 1.0, 3.0 * (size - 1) / 2) and found[-1][0] == length - 1
