"""`sal features` as a user meets it."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine import config, models
from engine.zeroshot import features
from sal import signature
from sal.__main__ import main
from sal.features import features as features_verb
from shared_data import withheld
from shared_data import zeroshot_splits as splits
from tests.engine.zeroshot import backbones
from tests.orchestrator.documented import simple_commands

TEST, VAL = splits.split_of(6, (1, 4)), splits.split_of(6, (0, 3), without=(1, 4))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs: all, test, val, and val without clips held out."""
    root = tmp_path_factory.mktemp("runs")
    data = backbones.skeletons(root)
    for name, flags in {
        "all": [], "test": ["--leave-out", "1,4"], "val": ["--leave-out", "1,4+0,3", "--hold-out", "2"],
        "unheld": ["--leave-out", "1,4+0,3"],
    }.items():  # fmt: skip
        backbones.backbone(data, root / name, *flags)
    return root


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["features", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_the_folders_of_both_phases(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, split in (("test", TEST), ("val", VAL)):
        code, out, _ = said(capsys, runs / name, "--out", tmp_path, "--seen-only", "--device", "cpu")
        folder = tmp_path / "sk_feats" / features.folder_name(2, name, extractor="baselines")  # type: ignore[arg-type]
        assert code == 0 and str(folder) in out
        found = features.read(folder, split, name)  # type: ignore[arg-type]
        assert f"train  {len(found.train.labels)} clips" in out
        code, out, _ = said(capsys, runs / name, "--out", tmp_path, "--seen-only", "--device", "cpu")
        assert code == 0 and "done before" in out


def test_all_clips(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copy(runs / "synthetic.npz", tmp_path / "synthetic_moved.npz")
    words = ("--out", tmp_path / "out", "--data", moved, "--extractor", "mlp", "--weights", "best", "--test-batch-size", "2")
    code, out, _ = said(capsys, runs / "all", *words)
    assert code == 0 and "mlp" in out
    with np.load(tmp_path / "out/mlp/test.npz") as found:
        assert found["features"].shape == (18, 256) and set(found.files) == {"ids", "labels", "features", "logits"}
    code, _, err = said(capsys, runs / "test", *words)
    assert code == 73 and "run.leave_out:  -> 1,4" in err
    assert said(capsys, runs / "test", *words, "--force")[0] == 0


@pytest.mark.parametrize(
    ("run", "words", "code", "message"),
    [
        ("all", ("--seen-only",), 2, "--leave-out 60/5"),
        ("unheld", ("--seen-only",), 2, "--hold-out 3"),
        ("none", (), 66, "not a run folder"),
        ("test", ("--weights", "worst"), 2, "worst"),
        ("test", ("--extractor", "a/b"), 2, "'a/b' is no name"),
        ("test", ("--test-batch-size", "0"), 2, "test_batch_size is 0"),
        ("test", ("--full-validation-list",), 2, "--seen-only"),
        ("test", ("--data", "none.npz"), 66, "none.npz"),
        ("test", ("--seen_onyl",), 2, "did you mean --seen-only"),
    ],
)
def test_wrong_words(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str, words: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = said(capsys, runs / run, "--out", tmp_path / "out", *words)
    assert (found, message in err) == (code, True), err
    assert not (tmp_path / "out").exists()


def test_a_run_that_began_with_other_weights_says_so(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What these weights had seen cannot be known, and it may be the unseen classes."""
    weights = runs / "all/checkpoints/best.safetensors"
    flags = ("--leave-out", "1,4", "--weights", str(weights))
    folder = backbones.backbone(runs / "synthetic.npz", tmp_path / "run", *flags)
    capsys.readouterr()
    code, out, _ = said(capsys, folder, "--out", tmp_path / "out", "--seen-only")
    assert code == 0 and "note: this run began with the weights" in out


PAGE = Path(__file__).resolve().parents[2] / "docs/features.md"
COMMANDS = [
    words for block in re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.M | re.S) for words in simple_commands(block)
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_documented_command_is_accepted(words: tuple[str, ...]) -> None:
    program, verb, *rest = words
    assert program == "sal"
    if verb == "train":
        left = withheld.read(config.parse(rest[1:], model=rest[0]).leave_out)
        assert left.split(60) and rest[0] in models.discover()
    else:
        assert verb == "features" and signature.parser(features_verb, "sal features").parse_args(rest).out


def test_every_flag_is_documented() -> None:
    text = PAGE.read_text()
    flags = {f"--{name.replace('_', '-')}" for name in inspect.signature(features_verb).parameters if name != "run"}
    assert COMMANDS and {flag for flag in flags if flag not in text} == set()
