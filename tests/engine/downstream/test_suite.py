"""From features to a sealed record and a table with the published figures beside ours; probes that are fused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.downstream import evaluations, suite
from engine.downstream.autoencoder import AutoencoderSettings
from engine.downstream.collapse import collapse
from engine.downstream.evaluations import knn, knn_of_bottleneck, linear, write_probe_scores
from engine.downstream.features import Features, read, together
from engine.downstream.probe import ProbeSettings, probe
from engine.downstream.results import Published, Result
from engine.downstream.suite import Judged, collapse_told
from engine.ensemble import join
from engine.score_files import read_scores
from shared_data.errors import DataError, MissingInputError

SETTINGS = ProbeSettings(0.1, 16, 4)
CLASSES = 6
ROOT = Path(__file__).resolve().parents[3]


def made(count: int, seed: int, apart: float = 2.0, stream: int = 0) -> Features:
    rng = np.random.default_rng((seed, stream))
    labels = np.arange(count) % CLASSES
    values = (rng.normal(size=(count, 12)) + apart * np.eye(CLASSES, 12)[labels]).astype(np.float32)
    return Features(np.array([f"clip_{seed}_{n}" for n in range(count)]), labels, values)


@pytest.fixture(scope="module")
def judged() -> Judged:
    train, test = made(90, 0), made(48, 1)
    results = [
        *linear(probe(train, test, CLASSES, SETTINGS, seeds=(0, 1), validation=np.arange(0, 90, 9)), "isc"),
        *knn(train, test, (1, 5)),
        *knn(train, test, (5,), temperature=0.1),
        *knn_of_bottleneck(train, test, settings=AutoencoderSettings((8, 4), epochs=3), seeds=(0, 1)),
    ]
    published = (
        Published("linear", "isc", 0.763, "the paper's figure", "best_on_test"),
        Published("k-NN", "k = 1", 0.625, "the paper's figure"),
        Published("k-NN", "k = 2", 0.1, "of nothing here"),
    )
    return Judged(
        {"model": "isc", "weights_sha256": "12ab"}, {"dataset": "made <up>", "protocol": "xsub"}, tuple(results), published,
        collapse_told(collapse(train.values)),
    )  # fmt: skip


def test_results(judged: Judged) -> None:
    found = {(one.evaluation, one.setting, one.rule): one for one in judged.results}
    assert list(found) == [
        ("linear", "isc", "last"), ("linear", "isc", "best_on_validation"), ("linear", "isc", "best_on_test"),
        ("k-NN", "k = 1", "none"), ("k-NN", "k = 5", "none"), ("k-NN weighted", "k = 5, temperature 0.1", "none"),
        ("k-NN of autoencoder", "k = 1, 4-d", "last"),
    ]  # fmt: skip
    last, best = found["linear", "isc", "last"], found["linear", "isc", "best_on_test"]
    assert last.seeds == (0, 1)
    assert all(a <= b for a, b in zip(last.top1, best.top1, strict=True))
    assert last.note == "epoch 4, 4 of 4"
    assert len(last.top5) == 2
    assert found["k-NN", "k = 1", "none"].mean > 0.5


def test_each_seed_has_a_bottleneck_of_its_own() -> None:
    train, test = made(60, 0, 0.5), made(120, 1, 0.5)
    settings = AutoencoderSettings((8, 4), epochs=2)
    (many,) = knn_of_bottleneck(train, test, settings=settings, seeds=(0, 1, 2))
    assert many.top1 == tuple(knn_of_bottleneck(train, test, settings=settings, seeds=(n,))[0].top1[0] for n in range(3))
    assert len(set(many.top1)) > 1


def test_the_record_comes_back(judged: Judged, tmp_path: Path) -> None:
    suite.write(tmp_path, judged)
    assert suite.read(tmp_path) == judged
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["results"][0]["mean"] == judged.results[0].mean
    assert record["selection"].keys() == {"last", "best_on_validation", "best_on_test", "none"}
    assert record["collapse"]["state"] == "spread out"


def test_a_record_that_was_changed_is_refused(judged: Judged, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no evaluation"):
        suite.read(tmp_path)
    suite.write(tmp_path, judged)
    file = tmp_path / "evaluation.json"
    record = json.loads(file.read_text())
    record["results"][0]["top1"][0] = 1.0
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match="not as it was written"):
        suite.read(tmp_path)


def test_published_figures_stand_beside_ours(judged: Judged) -> None:
    rows = suite.rows(judged)
    assert all(len(row) == len(suite.TITLES) for row in rows)
    beside = {row[:3]: row[6:] for row in rows}
    assert beside["linear", "isc", "last"] == ("76.30", "best_on_test", "the paper's figure")
    assert beside["k-NN", "k = 1", "none"] == ("62.50", "not told", "the paper's figure")
    assert beside["k-NN", "k = 5", "none"] == ("", "", "")
    words = suite.text(judged)
    assert words.startswith("model: isc\nweights_sha256: 12ab\ndataset: made <up>\n")
    assert "of nothing here" not in words
    for told in ("best_on_test: the best epoch on the test clips themselves", "no collapse: spread", "spread: standard"):
        assert told in words
    two = replace(judged, published=(*judged.published, Published("k-NN", "k = 1", 0.5, "elsewhere", "none")))
    assert len(suite.rows(two)) == len(rows) + 1


def test_the_page_escapes_what_is_from_outside(judged: Judged) -> None:
    page = suite.page(judged)
    assert "made &lt;up&gt;" in page
    assert "<up>" not in page
    assert "76.30" in page


def test_results_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="1 figures"):
        Result("linear", "isc", "last", (0.5,), seeds=(0, 1))
    one = Result("k-NN", "k = 1", "none", (0.5,))
    assert (one.mean, one.spread) == (0.5, None)
    assert Result("k-NN", "k = 1", "none", (0.5, 0.7)).spread == pytest.approx(0.02**0.5)


def test_streams_are_fused_from_their_scores(tmp_path: Path) -> None:
    files = []
    for stream in (0, 1):
        folder = tmp_path / str(stream)
        folder.mkdir()
        (probed,) = probe(made(60, 0, 0.7, stream), made(300, 1, 0.7, stream), CLASSES, SETTINGS)
        write_probe_scores(folder, probed)
        files.append(read_scores(folder / "scores.npz"))
        np.testing.assert_array_equal(files[-1].logits, probed.selected["last"].scores.logits)
        assert (folder / evaluations.BEST).exists()
    joined = join(files)
    alone = [float((joined.of(n).logits.argmax(1) == joined.labels).mean()) for n in (0, 1)]
    assert float((joined.fused((1, 1)).logits.argmax(1) == joined.labels).mean()) > max(alone)


def test_features_are_read_from_their_files(tmp_path: Path) -> None:
    one = made(12, 0)
    np.savez(tmp_path / "train.npz", ids=one.ids, labels=one.labels, features=one.values, logits=one.values)
    found = read(tmp_path / "train.npz")
    for name in ("ids", "labels", "values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))
    np.savez(tmp_path / "other.npz", ids=one.ids, labels=one.labels)
    with pytest.raises(DataError, match="no features in it"):
        read(tmp_path / "other.npz")
    broken = one.values.copy()
    broken[3] = np.nan
    np.savez(tmp_path / "broken.npz", ids=one.ids, labels=one.labels, features=broken)
    with pytest.raises(DataError, match="NaN or infinite numbers in 1 of 12 rows"):
        read(tmp_path / "broken.npz")
    with pytest.raises(DataError, match=r"features \(12, 12\) with \(11,\) labels"):
        Features(one.ids, one.labels[1:], one.values)
    with pytest.raises(DataError, match="of 12 and of 3 numbers"):
        together(one, replace(one, values=one.values[:, :3]))


def test_neither_scikit_learn_nor_scipy_is_needed() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('sklearn', 'scipy', 'skopt')));"
        "from engine.downstream import suite, evaluations, fewshot, judging, collapse; from engine import labelled"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
