"""Text features without weights, and text features as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SaveError, WorkDirError
from engine.zeroshot.text import descriptions, shared_words
from engine.zeroshot.text import files as text_files
from shared_data.errors import DataError, UsageError

ROOT = Path(__file__).parents[4]


def nearness(texts: tuple[str, ...]) -> dict[tuple[str, str], float]:
    rows = shared_words.features(texts)
    labels = descriptions.ours("lb", len(texts)).texts
    return {(a, b): float(rows[i] @ rows[j]) for i, a in enumerate(labels) for j, b in enumerate(labels)}


@pytest.mark.parametrize("kind", descriptions.KINDS)
def test_related_classes_are_nearer_than_unrelated_ones(kind: descriptions.Kind) -> None:
    near = nearness(descriptions.ours(kind, 120).texts)
    related = [
        ("put on a shoe", "take off a shoe"),
        ("put on headphone", "take off headphone"),
        ("put on jacket", "take off jacket"),
    ]
    typical = float(np.median([value for (a, b), value in near.items() if a != b]))
    for a, b in related:
        assert near[a, b] > near[a, "kicking something"] + 0.05 and near[a, b] > near[b, "hugging"] + 0.05
        assert near[a, b] > typical + 0.05


def test_parts_of_words_count_and_common_words_do_not() -> None:
    rows = shared_words.features(["the jump", "the jumping", "the salute", "the hug"])
    assert rows[0] @ rows[1] > 0.2 + abs(rows[0] @ rows[2])
    assert abs(rows[0] @ rows[2]) < 0.3


def test_vectors_have_unit_length_and_the_width_asked_for() -> None:
    texts = descriptions.ours("ad", 60).texts
    for width in (64, shared_words.WIDTH):
        rows = shared_words.features(texts, width)
        assert rows.shape == (60, width) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-6)
    assert not np.array_equal(shared_words.features(texts, 64), shared_words.features(texts, 512)[:, :64])


def test_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from engine.zeroshot.text import shared_words as s; "
        "print(hashlib.sha256(s.features(['sit down', 'stand up']).tobytes()).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def test_what_gives_no_features() -> None:
    with pytest.raises(DataError, match=r"without a word\n.*text 2"):
        shared_words.features(["sit", "?!"])
    with pytest.raises(UsageError, match="width 4"):
        shared_words.features(["sit"], 4)


def made(tmp_path: Path, **changes: object) -> Path:
    described = descriptions.ours("md", 60)
    rows = shared_words.features(described.texts, 64)
    given = {"architecture": "ViT-B/32", "features": rows, "made_by": {"method": "shared words"}} | changes
    return text_files.write(tmp_path / "text_feats", described=described, **given)


def test_files_and_their_record(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert path == tmp_path / "text_feats/ViT-B/32/md_60.npy"
    described = descriptions.ours("md", 60)
    found = np.load(path, allow_pickle=False)
    assert found.dtype == np.float32 and np.array_equal(found, shared_words.features(described.texts, 64))
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["made_by"] == {"method": "shared words"} and record["texts_sha256"] == described.sha256
    assert record["shape"] == [60, 64] and record["kind"] == "md" and str(tmp_path) not in json.dumps(record)
    assert sorted(p.name for p in path.parent.iterdir()) == ["md_60.json", "md_60.npy"]
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    assert made(tmp_path) == path and (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def test_a_record_of_other_features_is_recognised(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert text_files.matches_record(path)
    np.save(path, np.load(path) * 2)
    assert not text_files.matches_record(path)
    path.with_suffix(".json").unlink()
    assert not text_files.matches_record(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "../up"}, "no name of an architecture"),
        ({"architecture": "/etc"}, "no name of an architecture"),
        ({"architecture": "a/../b"}, "no name of an architecture"),
        ({"architecture": "ViT-B/32\n"}, "no name of an architecture"),
        ({"features": np.ones((59, 4), np.float32)}, r"float32 \(59, 4\)"),
        ({"features": np.ones((60, 4))}, "float64"),
        ({"features": np.zeros((60, 4), np.float32)}, "all zero"),
        ({"features": np.full((60, 4), np.nan, np.float32)}, "no numbers"),
    ],
)
def test_what_is_not_written(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        made(tmp_path, **changes)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    (tmp_path / "text_feats").write_text("in the way")
    with pytest.raises(WorkDirError, match="cannot make the folder"):
        made(tmp_path)
    (tmp_path / "text_feats").unlink()
    path = made(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SaveError, match=r"md_60\.npy"):
        made(tmp_path)
