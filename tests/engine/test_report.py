"""Reports of run folders made up for the test, read back as a reader's browser would."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.report import write_report
from engine.report.charts import Series, confusion_matrix, line_chart
from engine.report.page import _wilson
from shared_data.errors import MissingInputError
from shared_data.skeletons import UCLA20

VOID = {"meta", "br", "hr", "img", "input", "link"}
NAMES = ["pick up", "<script>alert(1)</script>", "throw & catch"]
CONFUSION = [[8, 2, 0], [1, 4, 0], [0, 0, 0]]


class Reader(HTMLParser):
    """Checks that every tag is closed in order, and keeps the text and the tags."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(document)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without an opening"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def result(epoch: int, top1: float) -> dict[str, Any]:
    return {
        "epoch": epoch, "top1": top1, "top5": 0.9876, "loss": 0.5, "per_class": [0.8, 0.8, None], "confusion": CONFUSION
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three epochs over three classes, one of them named by a villain and one without clips."""
    metrics = {
        "model": "ctrgcn", "recipe": "nw_ucla", "dataset": "nw_ucla", "stream": "bm", "protocol": "upstream",
        "selection": {"last": result(2, 0.8004), "best_on_test": result(1, 0.8667)},
        "num_classes": 3, "class_names": NAMES, "parameters": 1426892, "clips_train": 1020, "clips_test": 15,
        "seconds": 312.0,
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "config.yaml").write_text("model: ctrgcn\nnum_epoch: 3\nbase_lr: 0.0625\nnesterov: true\nweights: null\n")
    (tmp_path / "env.json").write_text(
        json.dumps({"torch": "2.3.1", "gpus": [{"name": "Example <GPU>", "memory_gib": 7.79}], "packages": {"numpy": "1.26"}})
    )
    write_log(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "examples.npz", clips=rng.normal(size=(2, 12, 2, 20, 3)).astype(np.float32),
        ids=np.array(["a01_s01", "<b>a02"]), labels=np.array([0, 1]), predictions=np.array([0, 2]),
        skeleton=np.array(UCLA20.name),
    )  # fmt: skip
    return tmp_path


def write_log(folder: Path, epochs: int = 3, *, end: bool = True) -> None:
    events: list[dict[str, Any]] = [{"event": "start"}]
    for epoch in range(epochs):
        events += [
            {"event": "epoch", "epoch": epoch, "loss": 2.0 / (epoch + 1), "top1": 0.3 * epoch, "lr": 0.1, "seconds": 1.0,
             "clips_per_s": 321.0, "peak_allocated_mib": 1024.0, "peak_reserved_mib": 1536.0, "rss_mib": 2048.0},
            {"event": "eval", "epoch": epoch, "loss": 1.0, "top1": 0.25 + 0.25 * epoch, "top5": 0.9, "seconds": 1.0},
        ]  # fmt: skip
    events += [{"event": "end"}] if end else []
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def read(folder: Path) -> tuple[Reader, str]:
    path = write_report(folder)
    assert path == folder / "report.html"
    document = path.read_text(encoding="utf-8")
    return Reader(document), document


def test_one_self_contained_page_without_script_or_address(run: Path) -> None:
    reader, document = read(run)
    assert document.startswith("<!DOCTYPE html>")
    assert "http" not in document
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "src")]
    assert "url(" not in document
    assert "prefers-color-scheme: dark" in document


def test_both_selections_are_there_named_and_explained(run: Path) -> None:
    text = read(run)[0].text
    assert "ctrgcn on nw_ucla" in text
    assert re.search(r"Top-1, last epoch 80\.0.%.{0,10}epoch 3 of 3 · top-5 98\.8%", text)
    assert re.search(r"Top-1, best on test 86\.7.%.{0,10}epoch 2 of 3", text)
    assert "Selects the epoch on the test set itself" in text
    assert "15 clips, 95 % interval" in text
    for fact in ("1,426,892 parameters", "1,020 training clips", "5 min whole run", "bone motion", "upstream", "321"):
        assert fact in text
    assert "1.50 GiB peak GPU memory (reserved)" in text


def test_classes_show_accuracy_count_and_what_they_are_taken_for(run: Path) -> None:
    document = read(run)[1]
    rows = re.findall(r"<tr>(<td.*?)</tr>", document)
    cells = [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]
    assert cells == [
        ["0", "pick up", "80.0%", "10", "&lt;script&gt;alert(1)&lt;/script&gt; (20%)"],
        ["1", "&lt;script&gt;alert(1)&lt;/script&gt;", "80.0%", "5", "pick up (20%)"],
        ["2", "throw &amp; catch", "no clips", "0", "–"],
    ]


def test_confusion_cells_tell_their_counts(run: Path) -> None:
    document = read(run)[1]
    assert "pick up recognised: 8 of 10 (80.0%)" in document
    assert "pick up taken for &lt;script&gt;alert(1)&lt;/script&gt;: 2 of 10 (20.0%)" in document
    assert document.count(" recognised: ") == 2
    assert document.count(" taken for ") >= 2


def test_whatever_a_user_names_is_escaped(run: Path) -> None:
    document = read(run)[1]
    assert "<script" not in document
    assert "<b>a02" not in document
    assert "&lt;b&gt;a02" in document
    assert "Example &lt;GPU&gt;" in document


def test_strings_in_every_place_of_a_run_are_escaped(run: Path) -> None:
    evil = "<script>x</script>"
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= dict.fromkeys(("model", "recipe", "dataset", "stream", "protocol"), evil)
    metrics["selection"][evil] = result(0, 0.1)
    metrics["selection"][evil]["epoch"] = evil
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.yaml").write_text(f"'{evil}': '{evil}'\nnum_epoch: '{evil}'\nprecision: '{evil}'\nseed: '{evil}'\n")
    (run / "env.json").write_text(json.dumps({evil: {evil: evil}, "gpus": [{"name": evil}], "command": [evil]}))
    reader, document = read(run)
    assert "script" not in reader.tags
    assert document.count("&lt;script&gt;x") >= 10


def test_clips_are_drawn_with_truth_and_prediction(run: Path) -> None:
    document = read(run)[1]
    cards = re.findall(r'<div class="card clip">.*?</header>', document)
    assert len(cards) == 2
    assert "pick up" in cards[0]
    assert "recognised" in cards[0]
    assert "&lt;script&gt;" in cards[1]
    assert "taken for throw &amp; catch" in cards[1]
    assert document.count('class="moving"') == 2
    assert "<animate" in document


def test_curves_hold_every_epoch(run: Path) -> None:
    reader, document = read(run)
    for title in ("Top-1", "Loss", "Learning rate", "Speed, clips/s", "Peak GPU memory, GiB", "Host memory, GiB"):
        assert f"<span>{title}</span>" in document
    assert "training, epoch 2: 1</title>" in document  # loss 2 / 2
    assert "test, epoch 3: 75 %</title>" in document
    assert "reserved, epoch 1: 1.5</title>" in document
    assert "nan" not in " ".join(value or "" for name, value in reader.attributes if name in ("points", "cx", "cy")).lower()


def test_configuration_and_environment_are_listed(run: Path) -> None:
    text = read(run)[0].text
    for pair in ("base_lr 0.0625", "nesterov yes", "weights –", "torch 2.3.1", "numpy 1.26", "Example <GPU>, 7.79"):
        assert pair in text


def test_a_torn_last_line_is_left_out_and_said(run: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_bytes()
    for cut in (len(whole) - 5, len(whole) - 60):
        log.write_bytes(whole[:cut])
        reader, document = read(run)
        assert "1 line of log.jsonl could not be read" in reader.text
        assert "training, epoch 3: " in document


def test_a_run_stopped_early_says_how_far_it_came(run: Path) -> None:
    write_log(run, 2, end=False)
    (run / "metrics.json").unlink()
    (run / "examples.npz").unlink()
    text = read(run)[0].text
    assert "has not come to its end: the log stops after epoch 2" in text
    assert "There is no metrics.json" in text
    assert "There is no examples.npz" in text
    assert re.search(r"Top-1, last epoch 50\.0", text)
    assert "Confusion matrix" not in text


def test_only_a_configuration_is_enough_for_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: ctrgcn\ndata: /somewhere/NTU60_CS.npz\n")
    text = read(tmp_path)[0].text
    assert "ctrgcn on NTU60_CS" in text
    assert "There is no log.jsonl" in text


@pytest.mark.parametrize("name", ["metrics.json", "env.json", "config.yaml", "examples.npz"])
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00", b"3"])
def test_damaged_files_are_said_and_the_rest_is_reported(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    text = read(run)[0].text
    assert f"{name} cannot be read" in text
    assert "Curves" in text


def test_examples_are_never_unpickled(run: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (run / "sprung",))

    trapped = np.array([Trap()], dtype=object)
    np.savez(run / "examples.npz", clips=trapped, ids=trapped, labels=trapped, predictions=trapped, skeleton=trapped)
    assert "examples.npz cannot be read" in read(run)[0].text
    assert not (run / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skeleton": np.array("octopus8")}, "unknown skeleton layout"),
        ({"skeleton": np.array("ntu25")}, "have not the 25 joints"),
        ({"labels": np.array([0])}, "does not hold clips"),
        ({"clips": np.zeros((2, 20, 3), np.float32)}, "does not hold clips"),
    ],
)
def test_examples_that_cannot_be_drawn_are_said(run: Path, change: dict[str, np.ndarray], words: str) -> None:
    with np.load(run / "examples.npz") as file:
        arrays = dict(file)
    np.savez(run / "examples.npz", **(arrays | change))
    assert words in read(run)[0].text


def test_an_honest_run_leads_with_the_untouched_test_set(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {
        "protocol": "honest",
        "selection": {"last": result(2, 0.9), "best_on_validation": result(1, 0.95)},
        "test": {"last": result(2, 0.7), "best_on_validation": result(2, 0.75)},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = read(run)[0].text
    places = [
        text.index(words)
        for words in ("Test top-1, last epoch 70.0", "Test top-1, epoch chosen on validation 75.0",
                      "Validation top-1, last epoch 90.0", "Top-1, best on validation 95.0")
    ]  # fmt: skip
    assert places == sorted(places)
    assert "best on test" not in text


def test_a_loss_that_is_no_number_leaves_a_gap(run: Path) -> None:
    log = (run / "log.jsonl").read_text().replace('"loss": 1.0', '"loss": NaN')
    (run / "log.jsonl").write_text(log)
    reader, document = read(run)
    assert "<span>Loss</span>" in document
    assert "nan" not in " ".join(value or "" for _, value in reader.attributes).lower()


def test_an_epoch_logged_twice_by_a_resumed_run_counts_once(run: Path) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": "epoch", "epoch": 1, "loss": 0.125, "top1": 0.5, "lr": 0.1}) + "\n")
    document = read(run)[1]
    assert document.count("training, epoch 2: 0.125</title>") == 1
    assert "training, epoch 2: 1</title>" not in document


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="not a run folder"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("classes", [1, 10, 24, 60, 120])
def test_the_matrix_stays_on_the_page_up_to_120_classes(classes: int) -> None:
    counts = [[3 if row == column else (row + column) % 7 == 0 for column in range(classes)] for row in range(classes)]
    svg = confusion_matrix([[int(count) for count in row] for row in counts], [f"action {k}" for k in range(classes)])
    width = int(re.search(r'viewBox="0 0 (\d+)', svg)[1])  # type: ignore[index]
    assert width <= 1100
    assert svg.count('class="right"') == classes
    assert svg.count('class="wrong"') == sum(map(sum, (map(bool, row) for row in counts))) - classes
    Reader(svg)


@pytest.mark.parametrize(
    "points", [[(1.0, 0.5)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, -3.0), (90.0, 5.0)], [(1.0, 1e-9), (2.0, 1e9)]]
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_charts_of_odd_ranges_stay_in_their_frame(points: list[tuple[float, float]], logarithmic: bool) -> None:
    if logarithmic and min(y for _, y in points) <= 0:
        points = [(x, abs(y) + 1) for x, y in points]
    svg = line_chart("t", [Series("s", "one", points), Series("none", "two", [])], str, logarithmic=logarithmic)
    coordinates = [float(c) for p in re.findall(r'polyline[^>]*points="([^"]*)"', svg) for c in re.split("[ ,]", p)]
    assert len(coordinates) == 2 * len(points)
    assert all(0 <= x <= 520 for x in coordinates[::2])
    assert all(0 <= y <= 230 for y in coordinates[1::2])
    assert line_chart("t", [Series("none", "one", [])], str) == ""


def test_the_interval_is_wilsons() -> None:
    low, high = _wilson(81 / 263, 263)  # the example of Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert _wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert _wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_reports_need_neither_scikit_learn_nor_scipy() -> None:
    """Images of classifiers have neither."""
    code = "import sys; sys.modules.update(dict.fromkeys(('sklearn', 'scipy'))); import engine.report, engine.train, sal.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
