"""Text features where nobody brings them: written once, read by a run, never over somebody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import WorkDirError
from engine.zeroshot.text import clip_text, clip_tokens, descriptions, shared_words
from engine.zeroshot.text import rows as text_rows
from engine.zeroshot.text import source as text_source
from engine.zeroshot.text.source import TextSource
from shared_data.errors import DataError, MissingInputError, UsageError
from tests.engine.zeroshot import backbones

ALL = TextSource(mode="lb_ad_md")


def test_shared_words_of_our_descriptions(tmp_path: Path) -> None:
    files = text_source.write(tmp_path, ALL, 10)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        f"text_feats/shared_words/{kind}_10.npy" for kind in descriptions.KINDS
    ]
    for kind, file in zip(descriptions.KINDS, files, strict=True):
        assert np.array_equal(np.load(file), shared_words.features(descriptions.ours(kind, 10).texts))
    assert text_rows.read(files[0].parent, "lb_ad_md", 10).rows.shape == (10, 3 * shared_words.WIDTH)


def test_own_descriptions(tmp_path: Path) -> None:
    texts = backbones.texts(tmp_path / "texts", 6)
    (file,) = text_source.write(tmp_path, TextSource(descriptions=texts), 6)
    rows = np.load(file)
    assert rows.shape == (6, shared_words.WIDTH) and rows[0] @ rows[1] > 0.3, "wave left hand, wave right hand"
    with pytest.raises(UsageError, match="no descriptions of a data set of 6 classes"):
        text_source.write(tmp_path / "b", TextSource(), 6)
    with pytest.raises(MissingInputError, match=r"md_6\.csv|ad_6\.csv"):
        text_source.write(tmp_path / "b", replace(ALL, descriptions=texts), 6)
    with pytest.raises(UsageError, match="no text mode"):
        text_source.write(tmp_path / "b", TextSource(mode="label"), 10)


def test_a_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, passes = tmp_path / "w.pt", []
    weights.write_bytes(b"weights")
    monkeypatch.setattr(clip_text, "load", lambda path, architecture: (path, architecture))
    monkeypatch.setattr(clip_tokens, "clip", lambda: "tokens")

    def features(tower: object, tokenizer: object, texts: tuple[str, ...]) -> np.ndarray:
        assert (tower, tokenizer) == ((weights, "ViT-B/32"), "tokens")
        passes.append(texts)
        return np.ones((len(texts), 4), np.float32) * np.arange(1, len(texts) + 1)[:, None].astype(np.float32)

    monkeypatch.setattr(clip_text, "features", features)
    source = TextSource("ad_md", weights, "ViT-B/32")
    files = text_source.write(tmp_path, source, 60)
    assert [file.relative_to(tmp_path / "text_feats").as_posix() for file in files] == [
        "ViT-B/32/ad_60.npy", "ViT-B/32/md_60.npy",
    ]  # fmt: skip
    assert passes == [descriptions.ours(kind, 60).texts for kind in ("ad", "md")]
    text_source.write(tmp_path, source, 60)
    assert len(passes) == 2, "not made again"
    weights.write_bytes(b"others")
    with pytest.raises(WorkDirError, match="other text features"):
        text_source.write(tmp_path, source, 60)
    text_source.write(tmp_path, source, 60, force=True)
    assert len(passes) == 4


def test_what_is_there_is_kept_or_refused(tmp_path: Path) -> None:
    (file,) = text_source.write(tmp_path, TextSource(), 10)
    before = file.stat().st_mtime_ns
    text_source.write(tmp_path, TextSource(), 10)
    assert file.stat().st_mtime_ns == before
    np.save(file, np.ones((10, 4), np.float32))
    with pytest.raises(WorkDirError, match="other text features"):
        text_source.write(tmp_path, TextSource(), 10)
    assert np.load(file).shape == (10, 4)
    text_source.write(tmp_path, TextSource(), 10, force=True)
    assert np.load(file).shape == (10, shared_words.WIDTH)
    file.with_suffix(".json").unlink()
    with pytest.raises(WorkDirError):  # nobody says that they are ours
        text_source.write(tmp_path, TextSource(), 10)


def test_two_classes_with_one_text_are_refused(tmp_path: Path) -> None:
    texts = backbones.texts(tmp_path / "texts", 6, [0, 1, 2, 3, 4, 4])
    with pytest.raises(DataError, match="same text"):
        text_source.write(tmp_path, TextSource(descriptions=texts), 6)
