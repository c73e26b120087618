"""Pages of segmentation runs and of single sequences, read back as a reader's browser would."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from engine import models
from engine.report import write_report
from engine.report.charts import whole_ticks
from engine.report.segmentation import SHOWN, telling
from engine.report.sequence import write_page
from engine.report.timeline import HUES, LEFT, SPAN, STRIPES, TONES, colour, drawing, legend, timeline
from engine.segmentation.predictions import BEST, LAST, Predictions, write_predictions
from shared_data.atomic import WriteError
from shared_data.errors import UsageError
from shared_data.skeletons import UCLA20
from tests.engine.segmentation.made import NAMES, predictions
from tests.engine.test_report import Reader

RAW = {"accuracy": 61.25, "edit": 50.5, "f1_10": 70.0, "f1_25": 60.0, "f1_50": 40.0, "boundary_f1": 33.3}
REFINED = {name: value + 5 for name, value in RAW.items()}
LONG = 10_000


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def drawn(svg: str) -> dict[str, list[tuple[int, int, str, str]]]:
    """Row -> (start, end, paint, tooltip) of each rectangle, in frames."""
    found = {}
    for group in parsed(svg).iter("g"):
        if "data-row" in group.attrib:
            found[group.attrib["data-row"]] = [
                (int(r.attrib["x"]), int(r.attrib["x"]) + int(r.attrib["width"]), r.attrib.get("fill") or r.attrib["class"],
                 r[0].text or "") for r in group.iter("rect")
            ]  # fmt: skip
    return found


def spans(path: str) -> list[tuple[int, int]]:
    """The (start, end) of the boxes of a path."""
    found = re.findall(r"M(\d+) 0h(\d+)v1h-(\d+)z", path)
    assert "".join(f"M{a} 0h{b}v1h-{c}z" for a, b, c in found) == path and all(b == c for _, b, c in found)
    return [(int(a), int(a) + int(b)) for a, b, _ in found]


def misses(svg: str) -> list[list[tuple[int, int]]]:
    return [spans(path.attrib["d"]) for path in parsed(svg).iter("path") if path.attrib.get("class") == "miss"]


def test_runs_are_drawn_over_exactly_their_frames() -> None:
    one = predictions([([0, 0, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 4])])
    rows = drawn(timeline(one))
    assert {name: [run[:2] for run in row] for name, row in rows.items()} == {
        "truth": [(0, 2), (2, 5), (5, 6)], "predicted": [(0, 1), (1, 4), (4, 6)], "refined": [(0, 3), (3, 5), (5, 6)],
    }  # fmt: skip
    assert [run[2] for run in rows["truth"]] == ["idle", colour(1), colour(4)]
    assert rows["truth"][1][3] == "drink & eat (1): frames 2 to 4, 3 long"
    assert rows["predicted"][2][3] == "<script>alert(1)</script> (2): frames 4 to 5, 2 long"
    assert misses(timeline(one)) == [[(1, 2), (4, 6)], [(2, 3)]]
    scales = re.findall(r'data-row="\w+" transform="translate\((\d+) \d+\) scale\(([\d.]+) \d+\)"', timeline(one))
    assert len(scales) == 3 and all(int(x) == LEFT and float(s) * 6 == pytest.approx(SPAN, abs=1e-3) for x, s in scales)


@pytest.mark.parametrize("boundary", [True, False])
def test_a_sequence_of_one_frame_is_drawn(boundary: bool) -> None:
    svg = timeline(predictions([([1], [2], [2])], boundary=boundary), fps=30)
    assert drawn(svg)["truth"] == [(0, 1, colour(1), "drink & eat (1): frames 0 to 0, 1 long")]
    curves = [line.attrib["points"] for line in parsed(svg).iter("polyline")]
    assert len(curves) == 1 + boundary
    for points in curves:
        assert [float(point.split(",")[0]) for point in points.split()] == [LEFT, LEFT + SPAN]


def test_without_a_boundary_branch_nothing_is_said_of_boundaries() -> None:
    alike = predictions([([0, 1, 1], [0, 0, 1], [0, 0, 1])], boundary=False)
    assert set(drawn(timeline(alike))) == {"truth", "predicted"} and "boundary" not in timeline(alike)
    smoothed = predictions([([0, 1, 1], [0, 0, 1], [0, 1, 1])], boundary=False)
    assert set(drawn(timeline(smoothed))) == {"truth", "predicted", "refined"}
    assert "boundary" in timeline(predictions([([0, 1, 1], [0, 0, 1], [0, 0, 1])]))


def test_frames_that_nobody_labelled_are_neither_a_class_nor_an_error() -> None:
    svg = timeline(predictions([([255, 255, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2])]))
    assert drawn(svg)["truth"][0] == (0, 2, "unknown", "nobody labelled this: frames 0 to 1, 2 long")
    assert misses(svg) == [[(3, 4)]] * 2 and svg.count(">50.0%</text>") == 2
    unlabelled = predictions([([255, 255], [0, 1], [0, 1])])
    assert set(drawn(timeline(unlabelled))) == {"predicted", "refined"}
    assert "%" not in timeline(unlabelled) and not misses(timeline(unlabelled))
    assert "255" not in legend([unlabelled])


def test_a_row_of_very_many_runs_becomes_a_shape_for_each_class() -> None:
    labels = np.random.default_rng(0).integers(0, 5, LONG)
    labels[1] = (labels[0] + 1) % 5
    svg = timeline(predictions([(labels, labels, labels)]))
    row = next(group for group in parsed(svg).iter("g") if group.attrib.get("data-row") == "truth")
    found = np.full(LONG, -1)
    for path in row.iter("path"):
        name, number, count = re.fullmatch(r"(.*) \((\d)\): (\d+) runs", path[0].text or "").groups()  # type: ignore[union-attr]
        boxes = spans(path.attrib["d"])
        assert NAMES[int(number)] == name and len(boxes) == int(count)
        for start, end in boxes:
            assert (found[start:end] == -1).all()
            found[start:end] = int(number)
    assert (found == labels).all()


def test_ten_thousand_frames_take_a_few_kilobytes_and_keep_their_peaks() -> None:
    truth = np.repeat(np.arange(40) % 5, LONG // 40)
    one = predictions([(truth, np.roll(truth, 9), truth)])
    one.boundary[:] = 0
    one.boundary[4321] = 1
    svg = timeline(one)
    assert len(svg) < 60_000
    heights = [float(point.split(",")[1]) for point in list(parsed(svg).iter("polyline"))[1].attrib["points"].split()]
    assert heights.count(min(heights)) == 2 and max(heights) - min(heights) == 30  # one step up, from 0 to 1


def test_confidence_of_a_long_sequence_is_drawn_as_means() -> None:
    one = predictions([(np.zeros(601, int),) * 3])
    heights = [float(p.split(",")[1]) for p in next(iter(parsed(timeline(one)).iter("polyline"))).attrib["points"].split()]
    means = [one.confidence[at : at + 3].astype(float).mean() for at in range(0, 601, 3)]
    base = next(int(r.attrib["y"]) for r in list(parsed(timeline(one)).iter("rect"))[::-1] if r.attrib["class"] == "field")
    assert heights[::2] == heights[1::2] == pytest.approx([base + 31 - 30 * mean for mean in means], abs=0.051)


def test_fifty_classes_look_different_and_always_the_same() -> None:
    looks = {(colour(k), k // (len(HUES) * TONES) % STRIPES) for k in range(52)}
    assert len(looks) == 52
    names = ("background", *(f"action {k}" for k in range(1, 52)))
    every = predictions([(np.arange(52),) * 3], names=names)
    striped = legend([every])
    used = set(re.findall(r"url\(#(class-\d+)\)", striped + timeline(every)))
    assert used and used == set(re.findall(r'linearGradient id="(class-\d+)"', striped))
    alone = predictions([([51], [51], [51])], names=names)
    assert drawn(timeline(alone))["truth"][0][2] == drawn(timeline(every))["truth"][51][2]


def test_the_axis_is_in_seconds_where_the_rate_is_known() -> None:
    one = predictions([(np.zeros(300, int),) * 3])
    assert ">10 s</text>" in drawing(one, fps=30).shapes and ">time</text>" in drawing(one, fps=30).shapes
    assert ">300</text>" in drawing(one).shapes and " s</text>" not in drawing(one).shapes


@pytest.mark.parametrize("high", [0, 1, 7, 999, 10_000, 1_234_567])
def test_an_axis_of_whole_numbers_has_a_few_marks_of_any_size(high: int) -> None:
    ticks = whole_ticks(0, high)
    assert ticks[0] == 0 and ticks[-1] <= high and len(ticks) <= 8 and (high < 3 or len(ticks) >= 3)


# The page of a run.


def events(*, nested: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"event": "start"}]
    for epoch in range(3):
        raw, refined = ({name: value + epoch - 2 for name, value in part.items()} for part in (RAW, REFINED))
        found += [
            {"event": "step", "epoch": epoch, "step": 10 * (epoch + 1), "loss": 3.0, "lr": 0.1, "<gstmse>": 0.5, "grad_norm": 1},
            {"event": "epoch", "epoch": epoch, "loss": 3.0 - epoch, "accuracy": 40.0 + epoch, "lr": 0.1},
            {"event": "eval", "epoch": epoch, "loss": 2.0} | ({"raw": raw, "refined": refined} if nested else raw),
        ]  # fmt: skip
    return found


def many(count: int) -> Predictions:
    """Sequence n has n wrong frames of 20."""
    truth = np.ones(20, int)
    rows = [(truth, np.where(np.arange(20) < n, 2, 1), truth) for n in range(count)]
    return predictions(rows, ids=[f"video-{n:02d}" for n in range(count)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    outcome = {"epoch": 2, "raw": RAW, "refined": REFINED}
    metrics = {
        "model": "no such model", "recipe": "pku", "stage": "segment", "dataset": "pku2", "split": "xsub", "mode": "full",
        "last": outcome, "best": outcome | {"epoch": 1}, "selection": "best_on_<validation>", "sequences_train": 698,
        "sequences_test": 20, "parameters": 786_000, "seconds": 40.0,
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage": "segment", "num_epoch": 3, "seed": 7}))
    (tmp_path / "env.json").write_text(json.dumps({"torch": "2.3.1"}))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in [*events(), {"event": "end"}]))
    write_predictions(tmp_path / LAST, many(20))
    return tmp_path


def read(folder: Path) -> tuple[Reader, str]:
    document = write_report(folder).read_text(encoding="utf-8")
    assert "http" not in document and "script" not in Reader(document).tags
    return Reader(document), document


def test_scores_raw_and_refined_of_the_last_and_the_best_epoch(run: Path) -> None:
    reader, document = read(run)
    for words in (
        "Segmentation run", "no such model on pku2", "split xsub", "mode full", "698 training sequences", "786,000 parameters",
        "accuracy edit F1@10 F1@25 F1@50 boundary F1", "last epoch (3), raw 61.2 50.5 70.0 60.0 40.0 33.3",
        "last epoch (3), refined 66.2 55.5 75.0 65.0 45.0 38.3", "best epoch (2), raw", "best on <validation>", "seed 7",
        "Accuracy 66.2 % epoch 3, the last one; refined",
    ):  # fmt: skip
        assert words in reader.text.replace("\u200a", " ").replace("\xa0", " "), words
    assert "examples.npz" not in reader.text and "notice" not in [value for name, value in reader.attributes if name == "class"]
    captions = re.findall(r"<figcaption><span>(.*?)</span>", document)
    assert captions[:8] == ["Loss", "Accuracy", "Edit", "F1@10", "F1@25", "F1@50", "Boundary F1", "Term &lt;gstmse&gt;"]
    assert "raw, epoch 3: 61.2 %</title>" in document and "refined, epoch 1: 64.2 %</title>" in document


def test_an_honest_run_quotes_the_test_sequences_and_says_what_each_row_is_of(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    tested = {"raw": {name: value - 20 for name, value in RAW.items()}, "refined": RAW}
    (run / "metrics.json").write_text(json.dumps(metrics | {"test": {"last": tested, "best": tested}}))
    text = read(run)[0].text.replace("\u200a", " ").replace("\xa0", " ")
    for words in (
        "Edit 50.5 % epoch 3, the last one; refined", "last epoch (3), raw 41.2 30.5 50.0 40.0 20.0 13.3 on the test sequences",
        "best epoch (2), refined 61.2 50.5 70.0 60.0 40.0 33.3 on the test sequences; best on <validation>",
        "last epoch (3), raw 61.2 50.5 70.0 60.0 40.0 33.3 on held-out sequences",
    ):  # fmt: skip
        assert words in text, words


def test_flat_evaluations_are_drawn_beside_training(run: Path) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in [*events(nested=False), {"event": "end"}]))
    document = read(run)[1]
    assert "training, epoch 3: 42 %</title>" in document and "held out, epoch 3: 61.2 %</title>" in document


def test_a_run_stopped_early_says_what_its_log_knows(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events()[:-1]))
    text = read(run)[0].text
    assert "This run has not come to its end" in text and "last epoch (2), raw 60.2" in text


def test_the_published_rows_of_the_split_stand_beside_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"by": "segmentation", "dataset": "pku2", "split": "xsub", "accuracy": 67.6, "edit": 66.3, "source": "README <1>"},
        {"by": "segmentation", "dataset": "pku2", "split": "xview", "accuracy": 62.4, "source": "README"},
        {"by": "segmentation", "dataset": "pku1", "split": "xsub", "accuracy": 88.8, "source": "README"},
        {"by": "linear", "dataset": "pku2", "split": "xsub", "accuracy": 99.0, "source": "paper"},
    ]
    card = models.ModelCard("net", run, {"title": "The net", "published": rows})
    monkeypatch.setattr(models, "find", lambda name, kind: card)
    text = read(run)[0].text
    assert "The net, published 67.6 66.3 – – – – pku2, xsub, README <1>" in text
    assert not any(other in text for other in ("62.4", "88.8", "99.0"))


def test_the_worst_the_middle_and_the_best_are_drawn_and_all_are_listed(run: Path) -> None:
    document = read(run)[1]
    shown = re.findall(r'<figcaption><span>(video-\d\d)</span><span class="legend">20 frames, ([\d.]+)% right', document)
    assert [int(name[-2:]) for name, _ in shown] == [19, 18, 17, 16, 11, 10, 9, 8, 3, 2, 1, 0]
    assert [float(share) for _, share in shown] == [100 - 5.0 * int(name[-2:]) for name, _ in shown]
    assert re.findall(r"<td class=\"\">(video-\d\d)</td>", document) == [f"video-{n:02d}" for n in range(19, -1, -1)]


@pytest.mark.parametrize("count", [1, SHOWN, SHOWN + 1, 400])
def test_telling_sequences_are_in_order_and_different(count: int) -> None:
    shares = np.random.default_rng(count).random(count)
    chosen = telling(shares)
    assert len(set(chosen)) == len(chosen) == min(count, SHOWN) and shares[chosen].tolist() == sorted(shares[chosen])
    assert {int(shares.argmin()), int(shares.argmax())} <= set(chosen)
    assert telling(np.array([np.nan, 0.5, np.nan])) == [1] and telling(np.full(3, np.nan)) == [0, 1, 2]


def test_the_confusion_counts_labelled_frames_of_classes_that_occur(run: Path) -> None:
    write_predictions(run / LAST, predictions([([1, 1, 1, 255, 4], [1, 4, 1, 2, 4], [1] * 5)]))
    matrix = read(run)[1].split('class="matrix"')[1].split("</svg>")[0]
    assert re.findall(r"<title>(.*?)</title>", unescape(matrix)) == [
        "drink & eat recognised: 2 of 3 (66.7%)", "drink & eat taken for wave: 1 of 3 (33.3%)", "wave recognised: 1 of 1 (100.0%)"
    ]  # fmt: skip


def test_hostile_names_stay_words(run: Path) -> None:
    villain = '"><script>alert(2)</script>'
    write_predictions(run / LAST, predictions([([1, 2, 3], [1, 3, 2], [2, 2, 2])], ids=[villain]))
    reader, document = read(run)
    assert villain in reader.text and "<script>alert(1)</script>" in reader.text and 'sit "down"' in reader.text
    assert "<script" not in document
    assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_damaged_or_missing_predictions_cost_the_timelines_only(run: Path) -> None:
    (run / LAST).write_bytes((run / LAST).read_bytes()[:200])
    text = read(run)[0].text
    assert f"{LAST} cannot be read, so no timelines are drawn" in text and "last epoch (3), raw 61.2" in text
    (run / LAST).unlink()
    assert f"There is no {LAST}" in read(run)[0].text
    write_predictions(run / BEST, many(2))
    assert "video-01" in read(run)[0].text


def test_predictions_without_truth_are_drawn_without_shares(run: Path) -> None:
    write_predictions(run / LAST, predictions([([255, 255], [1, 2], [1, 1])]))
    reader, document = read(run)
    assert "video 0" in reader.text and "2 frames</span>" in document
    assert "nan" not in document and "Confusion matrix" not in reader.text and "Worst first" not in reader.text


# The page of a sequence.


def moving(frames: int, people: int = 1) -> np.ndarray:
    steps = np.random.default_rng(2).normal(size=(frames, people, UCLA20.joints, 3))
    return steps.cumsum(0) * 0.01 + np.random.default_rng(3).normal(size=(people, UCLA20.joints, 3))


def page(path: Path, frames: np.ndarray, one: Predictions, **settings: Any) -> str:
    write_page(path, frames, UCLA20, one, **settings)
    document = path.read_text(encoding="utf-8")
    assert "http" not in document and "src=" not in document
    return document


def test_the_cursor_and_the_skeleton_show_the_same_frame(tmp_path: Path) -> None:
    one = predictions([(np.arange(50) // 13, np.arange(50) // 11, np.arange(50) // 13)])
    document = page(tmp_path / "p.html", moving(50), one, fps=20, pictures=20)
    assert "Every 3th" not in document and "One frame of 3 is shown" in document
    durations = set(re.findall(r'dur="([^"]*)"', document))
    assert durations == {"2.55s"}  # 17 pictures of 3 frames, 20 a second
    places = re.search(r'<animateTransform[^>]*values="([^"]*)"', document)[1].split(";")  # type: ignore[index]
    assert [float(p.split()[0]) for p in places] == pytest.approx(
        [LEFT + SPAN * (f + 0.5) / 50 for f in range(0, 50, 3)], abs=0.01
    )
    figures = re.findall(r'<animate attributeName="d"[^>]*values="([^"]*)"', document)
    assert figures and all(len(values.split(";")) == len(places) for values in figures)
    assert 'max="16"' in document and 'data-step="3"' in document and "wave" in Reader(document).text


def test_every_frame_of_a_short_sequence_is_shown(tmp_path: Path) -> None:
    document = page(tmp_path / "p.html", moving(1), predictions([([1], [1], [2])]))
    assert "Every frame is shown" in document and 'max="0"' in document
    nobody = page(tmp_path / "p.html", np.zeros((4, 1, UCLA20.joints, 3)), predictions([([1, 255, 1, 1],) * 2 + ([1] * 4,)]))
    assert "Every frame is shown" in nobody


def test_a_long_sequence_of_two_people_stays_under_two_megabytes(tmp_path: Path) -> None:
    labels = np.arange(LONG) // 100 % 5
    document = page(tmp_path / "p.html", moving(LONG, 2), predictions([(labels, np.roll(labels, 7), labels)]))
    assert "One frame of 17 is shown" in document and len(document) < 2_000_000
    assert len(re.search(r'<animateTransform[^>]*values="([^"]*)"', document)[1].split(";")) == 589  # type: ignore[index]


def test_hostile_names_do_not_leave_the_page_of_a_sequence(tmp_path: Path) -> None:
    villain = "</title><script>alert(2)</script>"
    document = page(tmp_path / "p.html", moving(4), predictions([([1, 2, 2, 3],) * 3], ids=[villain]))
    reader = Reader(document)
    assert reader.tags.count("script") == 1 == document.count("<script") and villain in reader.text
    assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_only_pages_of_sequences_are_replaced(tmp_path: Path) -> None:
    path, one = tmp_path / "p.html", predictions([([1, 2],) * 3])
    page(path, moving(2), one)
    page(path, moving(2), one)
    path.write_text("<!DOCTYPE html><p>mine")
    with pytest.raises(WriteError, match="left alone"):
        page(path, moving(2), one)
    assert "mine" in path.read_text()


def test_frames_that_do_not_belong_to_the_predictions_are_refused(tmp_path: Path) -> None:
    one = predictions([([1, 2],) * 3])
    wrong: list[tuple[np.ndarray, Predictions, dict[str, Any]]] = [
        (moving(3), one, {}), (moving(2)[:, :, :5], one, {}), (moving(2), predictions([([1, 2],) * 3] * 2), {}),
        (moving(2), one, {"fps": 0.0}), (moving(2), one, {"pictures": 0}),
    ]  # fmt: skip
    for frames, given, settings in wrong:
        with pytest.raises(UsageError):
            write_page(tmp_path / "p.html", frames, UCLA20, given, **settings)
    assert not list(tmp_path.iterdir())
