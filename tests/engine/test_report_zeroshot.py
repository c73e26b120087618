"""The page of a zero-shot run: what stands in it is what the run left, and nothing in it is taken for HTML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import models
from engine.report import write_report
from engine.zeroshot import plan, synthetic, synthetic_folder
from engine.zeroshot.gate import Evidence, Gate, predicted
from engine.zeroshot.run import run
from engine.zeroshot.sources import Source
from engine.zeroshot.system import find
from shared_data.errors import DataError, MissingInputError
from shared_data.zeroshot_splits import published, split_of
from tests.engine.test_report import Reader
from tests.engine.zeroshot import folders

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """A run of two seeds, and its source."""
    source = folders.source(tmp_path_factory.mktemp("world"), per_class=6)
    path = tmp_path_factory.mktemp("work") / "run"
    run(path, "fsvae", find("fsvae"), folders.plan(seeds=SEEDS, selection="val"), source)
    return path, source


def text_of(path: Path) -> str:
    return Reader((path / "report.html").read_text(encoding="utf-8")).text


def changed(path: Path, folder: Path, **values: Any) -> Path:
    """A copy of the results with other values, and the page of it."""
    found = json.loads((path / "results.json").read_text()) | values
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found))
    write_report(folder)
    return folder


def test_one_self_contained_page_without_script_or_address(finished: tuple[Path, Source]) -> None:
    document = (finished[0] / "report.html").read_text(encoding="utf-8")
    reader = Reader(document)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert "http" not in document and "url(" not in document
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "src")]
    before = document
    write_report(finished[0])
    assert (finished[0] / "report.html").read_text(encoding="utf-8") == before


def test_every_part_is_there(finished: tuple[Path, Source]) -> None:
    path, _ = finished
    found, text = json.loads((path / "results.json").read_text()), text_of(path)
    for row in [*found["seeds"], found["mean"], found["spread"]]:
        assert all(f"{100 * row[column]:.2f} %" in text for column in ("ZSL", "S", "U", "H"))
    for row in found["seeds"]:
        assert f"Seed {row['seed']}, cycle {row['cycle'] + 1} counts" in text
        assert f"{row['gate']['accuracy']:.1%}" in text
        assert f"{100 * row['curves']['test'][-1]:.1f}".removesuffix(".0") + " %" in text
    assert "val: the best cycle on the validation split" in text and "only on the authors' own feature files" in text
    assert "relu_logits" in text and "Not as published" in text
    assert all(name in text for name in ("reading", "touch pocket"))
    document = (path / "report.html").read_text(encoding="utf-8")
    assert document.count('<figure class="card chart">') == len(SEEDS) and document.count('class="line two"') == len(SEEDS)
    assert "clips; officially" in text


def test_published_figures_of_the_same_task_alone(finished: tuple[Path, Source], tmp_path: Path) -> None:
    rows = models.find("fsvae", "zeroshot").toml["published"]
    text = text_of(finished[0])
    assert all((f"{row['zsl']:.2f} %" in text) == (row["dataset"] == "ntu60" and row["unseen"] == 5) for row in rows)
    own = [{"name": "test split", "value": [1], "published": "60/5"}]
    assert "Published figures" not in text_of(changed(finished[0], tmp_path / "own", deviations=own))
    assert "Published figures" not in text_of(changed(finished[0], tmp_path / "gone", model="nobody"))


def test_what_unseen_classes_are_taken_for(finished: tuple[Path, Source]) -> None:
    """Counted again from the probabilities that the run left and the labels that it read."""
    path, source = finished
    split = published(60, 5)
    test = source.features_folder(5, "test")
    z, g, logits = (np.load(test / name) for name in ("z_label.npy", "g_label.npy", "gtest_out.npy"))
    for row in json.loads((path / "results.json").read_text())["seeds"]:
        seed = path / f"seed-{row['seed']}"
        among = np.asarray(split.unseen)[np.load(seed / "ztest_zs.npy").argmax(1)]
        gate = Gate(**{**row["gate"], "weights": tuple(row["gate"]["weights"])})
        gated = predicted(gate, Evidence(np.load(seed / "gzsl_zs.npy"), logits), split)
        for kind, found, labels in (("zsl", among, z), ("gzsl", gated, g)):
            counts = np.array(row["confusions"][kind])
            assert counts.shape == (5, 6)
            for i, k in enumerate(split.unseen):
                assert counts[i].tolist() == [
                    *(((labels == k) & (found == other)).sum() for other in split.unseen),
                    ((labels == k) & np.isin(found, split.seen)).sum(),
                ]
        assert np.trace(np.array(row["confusions"]["zsl"])[:, :5]) / len(z) == pytest.approx(row["ZSL"])
        assert np.trace(np.array(row["confusions"]["gzsl"])[:, :5]) / len(z) == pytest.approx(row["U"])


def test_each_class_has_its_row(finished: tuple[Path, Source]) -> None:
    path, _ = finished
    seeds = json.loads((path / "results.json").read_text())["seeds"]
    zsl, gzsl = (np.sum([row["confusions"][kind] for row in seeds], 0) for kind in ("zsl", "gzsl"))
    text = text_of(path).split("Each unseen class")[1].split("The gate")[0]
    for i, number, name in ((0, 10, "reading"), (1, 11, "writing"), (3, 26, "jump up"), (4, 56, "touch pocket")):
        shares = f"{zsl[i, i] / zsl[i].sum():.1%} {gzsl[i, i] / gzsl[i].sum():.1%} {gzsl[i, -1] / gzsl[i].sum():.1%}"
        assert f"{number} {name} 6 {shares}" in text


def test_a_class_without_clips_and_hostile_words(finished: tuple[Path, Source], tmp_path: Path) -> None:
    found = json.loads((finished[0] / "results.json").read_text())
    for row in found["seeds"]:
        for counts in row["confusions"].values():
            counts[0] = [0] * 6
    villain = "<script>alert(1)</script>"
    findings = [{"phase": villain, "severity": villain, "message": villain, "where": f"/a/b/{villain}"}]
    values = {"about": {"text": villain, "mode": villain, "features": villain}, "title": villain, "caution": villain}
    selection, deviations = {"rule": villain, "meaning": villain}, [{"name": villain, "value": villain, "published": villain}]
    path = changed(
        finished[0], tmp_path / "x", seeds=found["seeds"], findings=findings, selection=selection, deviations=deviations, **values
    )
    assert "no clips" in text_of(path) and "script" not in Reader((path / "report.html").read_text()).tags


def test_one_seed_says_that_it_is_one(finished: tuple[Path, Source], tmp_path: Path) -> None:
    found = json.loads((finished[0] / "results.json").read_text())
    spread = dict.fromkeys(found["spread"])
    text = text_of(changed(finished[0], tmp_path / "x", seeds=found["seeds"][:1], spread=spread))
    assert "one seed, which says little" in text and "standard deviation" not in text


def test_a_data_set_whose_classes_nobody_named(tmp_path: Path) -> None:
    chosen = plan.Plan(split_of(9, [0, 4, 7]), split_of(9, [1, 2, 3], without=[0, 4, 7]), folders.SHORT)
    source = Source(tmp_path / "world")
    synthetic_folder.write(source, synthetic.world(classes=9, seed=0), chosen, per_class=3)
    run(tmp_path / "a", "msf_gzssar", find("msf_gzssar"), chosen, source)
    assert "class 7" in text_of(tmp_path / "a")


def test_a_run_without_an_end_and_results_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(MissingInputError, match="not come to its end"):
        write_report(tmp_path)
    for content in ("{", "[]", '{"classes": 60}', '{"classes": null, "unseen": [1]}'):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(DataError, match=r"results\.json"):
            write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_an_error_among_the_findings_stands_at_the_head(finished: tuple[Path, Source], tmp_path: Path) -> None:
    known = {"phase": "test", "where": "/a/gtest.npy"}
    findings = [{**known, "severity": "error", "message": "it knew"}, {**known, "severity": "warning", "message": "unusual"}]
    head = text_of(changed(finished[0], tmp_path / "x", findings=findings)).split("Accuracy on unseen")[0]
    assert "test: it knew." in head and "unusual" not in head
