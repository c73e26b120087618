"""`sal zeroshot` and the scripts of both systems as a user meets them: what they print, refuse, leave behind and go on with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import models
from engine.zeroshot import plan, synthetic, synthetic_folder
from engine.zeroshot.sources import Source
from engine.zeroshot.text import clip_text, clip_tokens
from engine.zeroshot.text.clip_tokens import tokenizer
from sal import zeroshot_scripts
from sal.__main__ import main
from sal.zeroshot_flags import InputFlags, JudgingFlags, TaskFlags, TrainingFlags, plan_of, source_of, spelled, work_folder
from shared_data import zeroshot_splits as splits
from shared_data.errors import UsageError
from shared_data.zeroshot_splits import split_of
from tests.engine.zeroshot import backbones

ROOT = Path(__file__).resolve().parents[2]
TOWER = "ViT-B/32"
SHORT = ["--num_cycles", "2", "--num_epoch_per_cycle", "17", "--latent_size", "20", "--samples", "20", "--classifier-steps", "5"]
SYSTEMS = sorted(models.discover("zeroshot"))
SCRIPTS = {"fsvae": "fsvae_{}.sh", "msf_gzssar": "run{}.sh"}
Said = tuple[int, str, str]
Sal = Callable[..., Said]


@pytest.fixture
def sal(capsys: pytest.CaptureFixture[str]) -> Sal:
    def typed(*words: object) -> Said:
        code = main(["zeroshot", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of 60/5, as a user has them."""
    root = tmp_path_factory.mktemp("world")
    made = synthetic.world(classes=60, seed=0, features=32, text=24)
    synthetic_folder.write(Source(root, TOWER), made, plan.published(60, 5), per_class=4)
    return root


def shell(system: str, name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A shell script of a system's folder, run in `cwd`."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", str(ROOT / "models" / system / name), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": paths}, capture_output=True, text=True, check=False)


def cycles_told(out: str) -> list[str]:
    """Which cycles were trained, from the lines of progress."""
    return [line.split(", loss")[0] for line in out.splitlines() if ": cycle " in line]


EVERY_CYCLE = [f"seed 5, {phase}: cycle {n} of 2" for phase in ("test", "val") for n in (1, 2)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_five_stages(sal: Sal, world: Path, tmp_path: Path, system: str) -> None:
    command = [
        "run",
        "--model",
        system,
        "--ntu",
        60,
        "--ss",
        5,
        "--st",
        "r",
        "--root",
        world,
        "--work-dir",
        tmp_path / "w",
        *SHORT,
    ]
    code, out, _ = sal(*command, "--official-log")
    assert code == 0 and cycles_told(out) == EVERY_CYCLE
    assert "10 reading" in out and "oracle: the best cycle on the test clips themselves, as officially" in out
    assert "not as published: cycles 2 (published: 10)" in out and "not as published: latent 20 (published: 100)" in out
    assert "comparable with published figures only on the authors' own feature files" in out
    found = json.loads((tmp_path / "w/results.json").read_text())
    mean = next(line.split()[1:] for line in out.splitlines() if line.split()[:1] == ["mean"])
    assert mean == [f"{100 * found['mean'][column]:.2f}" for column in ("ZSL", "S", "U", "H")]
    assert found["model"] == system and {d["name"] for d in found["deviations"]} == {
        "cycles", "steps", "latent", "samples", "classifier_steps",
    }  # fmt: skip
    assert (tmp_path / "w/ntu60-B32-ls20-nepc17.txt").read_text().split() == mean
    assert "Zero-shot run" in (tmp_path / "w/report.html").read_text()
    code, again, _ = sal(*command, "--seeds", 5, 6)
    assert code == 0 and {line[:6] for line in cycles_told(again)} == {"seed 6"}
    assert len(json.loads((tmp_path / "w/results.json").read_text())["seeds"]) == 2


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_official_scripts_flags(
    world: Path, tmp_path: Path, system: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1 and stage 2 as typed in the official folders, then everything: nothing is trained twice."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = shlex.split("--ntu 60 --ss 5 --st r --ve shift --le ViT-B/32 --tm lb_ad_md --mode train --gpu cpu") + SHORT
    train = ["--phase", "train", "--dataset", "sk_feats/shift_5_r/", "--wdir", "results/5_r"]
    assert zeroshot_scripts.train(system, words + train) == 0
    told = capsys.readouterr().out
    assert cycles_told(told) == EVERY_CYCLE[:2] and "accuracy on unseen classes" in told
    folder = tmp_path / "results/5_r/ViT-B/32/lb_ad_md"
    assert not (folder / "results.json").exists()
    val = ["--phase", "val", "--dataset", "sk_feats/shift_val_5_r/", "--wdir", "results/5_r_val"]
    assert zeroshot_scripts.train(system, words + val) == 0
    told = capsys.readouterr().out
    assert cycles_told(told) == EVERY_CYCLE[2:] and "accuracy on the validation's unseen classes" in told and ", seed 5," in told
    assert zeroshot_scripts.main(system, ["run", *words, "--wdir", "results/5_r"]) == 0
    assert cycles_told(capsys.readouterr().out) == []
    assert zeroshot_scripts.main(system, ["run", *words, "--wdir", "results/5_r", "--lr", "0.1"]) == 73
    err = capsys.readouterr().err
    assert "another --wdir" in err and "--work-dir" not in err and "--force to replace" in err
    assert (folder / "results.json").exists() and not (tmp_path / "results/5_r_val").exists()


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_published_task(world: Path, tmp_path: Path, system: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script goes on past a task without files, and says so at its end."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    modes = ("lb", "ad", "md", "ad_md", "lb_ad_md") if system == SYSTEMS[0] else ("ad_md",)
    chosen = ("--tm", *modes) if len(modes) == 1 else ()
    done = shell(system, SCRIPTS[system].format(60), *SHORT, "--num_cycles", 1, *chosen, cwd=tmp_path)
    assert done.returncode == 66, done.stderr
    table = [line.split()[:2] for line in done.stdout.splitlines()[-2 * len(modes) :]]
    assert table == [[task, mode] for task in ("60/5", "60/12") for mode in modes]
    for mode in modes:
        folder = tmp_path / "results/5_r" / TOWER / mode
        assert (folder / "report.html").exists() and (folder / "ntu60-B32-ls20-nepc17.txt").exists()
    assert "sk_feats/shift_12_r" in done.stdout and not (tmp_path / "results/12_r").exists()
    other = (ROOT / "models" / system / SCRIPTS[system].format(120)).read_text()
    assert 'main.py" published --ntu 120 "$@"' in other
    assert (
        zeroshot_scripts.main(system, ["published", "--ntu", "120", "--root", str(tmp_path), "--wdir", str(tmp_path / "r")]) == 66
    )
    assert "lb_120.npy" in capsys.readouterr().out.splitlines()[-1]


def test_a_split_of_ones_own(sal: Sal, tmp_path: Path) -> None:
    test, val = split_of(10, [1, 4, 7]), split_of(10, [2, 3, 5], without=[1, 4, 7])
    chosen = plan.Plan(test, val, plan.published(60, 5).settings)
    synthetic_folder.write(Source(tmp_path, TOWER, extractor="mine"), synthetic.world(classes=10, seed=0), chosen, per_class=6)
    words = ["run", "--model", "fsvae", "--classes", 10, "--root", tmp_path, "--ve", "mine", "--work-dir", tmp_path / "w", *SHORT]
    code, out, err = sal(*words, "--unseen", 7, 1, 4, "--val-unseen", 2, 3, 5, "--corrected", "--select", "val", "--t", 0)
    assert code == 0, err
    found = json.loads((tmp_path / "w/results.json").read_text())
    assert found["unseen"] == [1, 4, 7] and found["selection"]["rule"] == "val" and found["plan"]["temperature"] is None
    assert "walk around" not in out and "4 sit down" in out
    assert {"noise", "relu_logits", "test split", "gate"} <= {d["name"] for d in found["deviations"]}


def test_from_skeletons(sal: Sal, tmp_path: Path) -> None:
    """Backbones, features, texts and all stages by one command; again, nothing is left to do."""
    data, words = backbones.skeletons(tmp_path), backbones.texts(tmp_path / "texts")
    recipe, flags = backbones.FLAGS[1], shlex.join(backbones.FLAGS[2:])
    command = [
        "run", "--model", "msf_gzssar", "--classes", backbones.CLASSES, "--unseen", 1, 4, "--val-unseen", 0, 3, "--backbone",
        "baselines", "--recipe", recipe, f"--backbone-flags={flags}", "--data", data, "--without-clip", "--descriptions", words,
        "--tm", "lb", "--device", "cpu", "--work-dir", tmp_path / "w", *SHORT,
    ]  # fmt: skip
    code, out, err = sal(*command)
    assert code == 0, err
    assert "know no meaning" in out and "backbone of the validation" in out and len(cycles_told(out)) == 4
    found = json.loads((tmp_path / "w/results.json").read_text())
    assert found["about"]["features"] == "baselines" and found["about"]["backbone"]["test"]["recipe"] == recipe
    assert found["about"]["text"] == "shared_words" and found["unseen"] == [1, 4]
    code, again, _ = sal(*command)
    assert code == 0 and again.count("done before") == 4 and not cycles_told(again)


def spoiled(root: Path, file: str, change: Callable[[Any], Any]) -> None:
    np.save(root / file, change(np.load(root / file)))


def with_nan(values: Any) -> Any:
    values[3] = np.nan
    return values


SK, VAL, TEXT = "sk_feats/shift_5_r", "sk_feats/shift_val_5_r", f"text_feats/{TOWER}"
BAD: dict[str, tuple[Callable[[Path], object], int, tuple[str, ...]]] = {
    "a missing file": (lambda r: (r / SK / "gtest_out.npy").unlink(), 66, ("gtest_out.npy", SK)),
    "a missing folder": (lambda r: shutil.rmtree(r / VAL), 66, ("no such folder", VAL)),
    "no text": (lambda r: (r / f"{TEXT}/md_60.npy").unlink(), 66, ("md_60.npy",)),
    "text of other classes": (lambda r: spoiled(r, f"{TEXT}/lb_60.npy", lambda v: v[:50]), 65, ("lb_60.npy", "50 classes")),
    "text without a width": (lambda r: spoiled(r, f"{TEXT}/ad_60.npy", lambda v: v[:, 0]), 65, ("ad_60.npy", "shape (60,)")),
    "logits of other classes": (lambda r: spoiled(r, f"{VAL}/val_out.npy", lambda v: v[:, :51]), 65, ("val_out.npy", "60")),
    "another width": (lambda r: spoiled(r, f"{SK}/ztest.npy", lambda v: v[:, :31]), 65, ("ztest.npy", "(N, 32)")),
    "NaN features": (lambda r: spoiled(r, f"{SK}/train.npy", with_nan), 65, ("train.npy", "row 3", "NaN")),
    "NaN text": (lambda r: spoiled(r, f"{TEXT}/md_60.npy", with_nan), 65, ("md_60.npy", "row 3")),
    "an unseen class in train": (
        lambda r: spoiled(r, f"{SK}/train_label.npy", lambda v: np.where(v, v, 26)), 65, ("train.npy", "class 26", "only seen"),
    ),
    "a test's unseen class in validation": (
        lambda r: spoiled(r, f"{VAL}/val_label.npy", lambda v: np.where(v == 0, 56, v)), 65, ("val.npy", "class 56"),
    ),
    "labels from 1": (lambda r: spoiled(r, f"{SK}/g_label.npy", lambda v: v + 1), 65, ("g_label.npy", "60", "0 .. 59")),
    "labels of fewer clips": (lambda r: spoiled(r, f"{SK}/z_label.npy", lambda v: v[1:]), 65, ("z_label.npy",)),
    "text of another tower": (lambda r: spoiled(r, f"{TEXT}/ad_60.npy", lambda v: v[:, :10]), 65, ("ad_60.npy", "10 wide", "24")),
    "a validation of another backbone": (
        lambda r: [spoiled(r, f"{VAL}/{name}.npy", lambda v: v[:, :20]) for name in ("train", "ztest", "val")], 65,
        ("32 wide", "20", VAL),
    ),
    "an unseen clip in validation": (
        lambda r: spoiled(r, f"{VAL}/train.npy", lambda v: np.concatenate([np.load(r / SK / "ztest.npy")[:1], v[1:]])), 65,
        ("1 clips of the test's unseen classes", f"{VAL}/train.npy: row 0"),
    ),
    "clips of zeros": (lambda r: spoiled(r, f"{SK}/ztest.npy", np.zeros_like), 65, ("ztest.npy", "all zeros")),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "expected", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_anything_is_trained(
    sal: Sal, world: Path, tmp_path: Path, spoil: Callable[[Path], object], expected: int, words: tuple[str, ...]
) -> None:
    root = shutil.copytree(world, tmp_path / "world")
    spoil(root)
    code, out, err = sal("run", "--model", "fsvae", "--ss", 5, "--root", root, "--work-dir", tmp_path / "w", *SHORT)
    assert code == expected and not cycles_told(out)
    assert all(word in err for word in words), err
    assert not (tmp_path / "w").exists()


def test_all_missing_files_are_named_at_once(sal: Sal, world: Path, tmp_path: Path) -> None:
    root = shutil.copytree(world, tmp_path / "world")
    (root / SK / "gtest_out.npy").unlink()
    (root / VAL).rename(root / "sk_feats/shifd_val_5_r")
    (root / "text_feats/ViT-B/32").rename(root / "text_feats/ViT-B/23")
    code, _, err = sal("run", "--model", "fsvae", "--ss", 5, "--root", root, "--work-dir", tmp_path / "w", *SHORT)
    assert code == 66 and str(root.absolute()) in err
    assert all(name in err for name in ("gtest_out.npy", "val_label.npy", "lb_60.npy", "ad_60.npy", "md_60.npy"))
    assert "did you mean ViT-B/23?" in err and "did you mean shifd?" in err
    assert all(word in err for word in ("sal zeroshot text", "--root", "--backbone"))
    assert not (tmp_path / "w").exists()


def test_published_of_one_choice_of_texts(sal: Sal, world: Path, tmp_path: Path) -> None:
    code, out, _ = sal("published", "--model", "fsvae", "--root", world, "--wdir", tmp_path / "r", "--tm", "lb", *SHORT)
    assert code == 66 and [line for line in out.splitlines() if line.startswith("==")] == ["== 60/5 lb", "== 60/12 lb"]
    assert [file.name for file in (tmp_path / "r/5_r" / TOWER).iterdir()] == ["lb"]
    assert "left out (exit code 66)" in out.splitlines()[-1]


WRONG: dict[str, tuple[list[str], str]] = {
    "no model": (["--ss", "5", "--model", ""], "--model fsvae or msf_gzssar"),
    "a misspelt model": (["--ss", "5", "--model", "fsvea"], "did you mean fsvae?"),
    "a classifier": (["--ss", "5", "--model", "ctrgcn"], "sal train ctrgcn"),
    "no task": ([], "5 of 60, 12 of 60, 10 of 120, 24 of 120"),
    "an unknown task": (["--ss", "7"], "60/5, 60/12, 120/10, 120/24"),
    "another kind of split": (["--ss", "5", "--st", "f"], "--unseen"),
    "half an own split": (["--unseen", "1", "2"], "--val-unseen"),
    "the other half": (["--val-unseen", "1", "2"], "--val-unseen without --unseen"),
    "ss of another size": (["--ss", "5", "--unseen", "1", "--val-unseen", "2"], "--ss 5, and 1 classes"),
    "unequal halves": (["--unseen", "1", "2", "--val-unseen", "3"], "as in the test"),
    "overlapping halves": (["--unseen", "1", "2", "--val-unseen", "2", "3"], "class 2"),
    "no such class": (["--unseen", "1", "60", "--val-unseen", "3", "4"], "class 60"),
    "a threshold as a fraction": (["--ss", "5", "--th", "0.5"], "--th 50"),
    "a threshold of 100": (["--ss", "5", "--th", "100"], "between 0 and 1"),
    "a selection": (["--ss", "5", "--select", "best"], "--select"),
    "a noise": (["--ss", "5", "--noise", "none"], "--noise"),
    "a mode": (["--ss", "5", "--mode", "test"], "is not trained again"),
    "no extractor": (["--ss", "5", "--ve", ""], "is no name"),
    "a text mode": (["--ss", "5", "--tm", "lb_md"], "no text mode"),
    "no cycles": (["--ss", "5", "--num_cycles", "0"], "at least 1"),
    "a seed twice": (["--ss", "5", "--seeds", "1", "1"], "each once"),
    "a misspelt flag": (["--ss", "5", "--num_cicles", "3"], "did you mean --num-cycles?"),
    "two work folders": (["--ss", "5", "--work-dir", "a", "--wdir", "b"], "one of them"),
    "features and a backbone": (["--ss", "5", "--backbone", "ctrgcn"], "no --root"),
    "a recipe without a backbone": (["--ss", "5", "--recipe", "ntu60_xsub"], "--backbone"),
    "a data set of another task": (["--ss", "5", "--dataset", "sk_feats/shift_12_r/"], "…/shift_5_r"),
    "a data set of another phase": (["--ss", "5", "--phase", "val", "--dataset", "sk_feats/shift_5_r/"], "…/shift_val_5_r"),
    "a data set of another extractor": (["--ss", "5", "--ve", "mine", "--dataset", "sk_feats/shift_5_r/"], "--ve shift"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_words_leave_with_2(
    sal: Sal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Path, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", "fsvae", *words] if "--model" not in words else words
    code, _, err = sal("run", "--root", world, *given)
    assert code == 2 and said in err, err
    assert not list(tmp_path.iterdir())


BACKBONE = ["run", "--model", "fsvae", "--ss", "5", "--backbone"]
WRONG_CHAINS: dict[str, tuple[list[str], str]] = {
    "no such backbone": (["ctrgnc", "--data", "x.npz", "--without-clip"], "did you mean ctrgcn?"),
    "a system as a backbone": (["msf_gzssar", "--data", "x.npz", "--without-clip"], "a zero-shot system"),
    "no skeletons": (["ctrgcn", "--without-clip"], "--data"),
    "no weights for the text": (["ctrgcn", "--data", "x.npz"], "--without-clip"),
    "one stage": (["ctrgcn", "--data", "x.npz", "--without-clip", "--phase", "val"], "--phase all"),
    "a text tower": (["ctrgcn", "--data", "x.npz", "--le", "ViT-L/14"], "no text tower"),
    "no such recipe": (["ctrgcn", "--data", "x.npz", "--without-clip", "--recipe", "ntu60_xsup"], "did you mean ntu60_xsub?"),
    "flags that are the chain's": (["ctrgcn", "--data", "x.npz", "--without-clip", "--backbone-flags=--device 0"], "--device"),
    "half a quote": (["ctrgcn", "--data", "x.npz", "--without-clip", "--backbone-flags=--stream 'b"], "--backbone-flags"),
}


@pytest.mark.parametrize(("words", "said"), WRONG_CHAINS.values(), ids=WRONG_CHAINS)
def test_wrong_words_about_a_backbone(
    sal: Sal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = sal(*BACKBONE, *words)
    assert code == 2 and said in err, err
    assert not list(tmp_path.iterdir())


def test_no_gpu_is_said_with_the_way_without_one(sal: Sal, monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    code, _, err = sal("run", "--model", "fsvae", "--ss", 5, "--root", world, "--gpu", 0)
    assert code == 2 and "no GPU 0" in err and "--gpu cpu" in err


def test_a_scripts_usage_names_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for script, name in ((zeroshot_scripts.train, "train.py"), (zeroshot_scripts.text, "gen_text_feat.py")):
        with pytest.raises(SystemExit):
            script("fsvae", ["--help"])
        assert f"usage: python3 {name} [" in capsys.readouterr().out


def test_wrong_verbs_and_help(sal: Sal, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = sal("rn")
    assert code == 2 and "did you mean run?" in err
    assert sal()[0] == 0 and "published" in sal("--help")[1]
    assert zeroshot_scripts.main("fsvae", ["run", "--model", "msf_gzssar", "--ss", "5"]) == 2
    assert "this script is of fsvae" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(sal: Sal, world: Path, tmp_path: Path, number: int) -> None:
    """Ctrl-C or SIGTERM in the middle of training: the documented exit code, then the same bits as without."""
    steps = ["--num_cycles", 3, "--num_epoch_per_cycle", 150, "--latent_size", 20, "--samples", 20, "--classifier-steps", 5]
    command = ["run", "--model", "msf_gzssar", "--ss", 5, "--root", world, *steps]
    process = subprocess.Popen(
        [sys.executable, "-m", "sal", "zeroshot", *map(str, command), "--work-dir", str(tmp_path / "a")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    before = []
    for line in process.stdout:
        before += cycles_told(line)
        if before:
            process.send_signal(number)
            break
    rest, err = process.communicate()
    before += cycles_told(rest)
    assert process.returncode == 128 + number and 1 <= len(before) < 6
    assert f"stopped by {signal.Signals(number).name}" in err and "run the same command again" in err
    code, out, err = sal(*command, "--work-dir", tmp_path / "a")
    assert code == 0, err
    assert len(cycles_told(out)) == 6 - len(before)
    assert sal(*command, "--work-dir", tmp_path / "b")[0] == 0
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert a == b


def test_a_folder_of_another_run_is_refused(sal: Sal, world: Path, tmp_path: Path) -> None:
    command = ["run", "--model", "fsvae", "--ss", 5, "--root", world, "--work-dir", tmp_path / "w", *SHORT]
    assert sal(*command)[0] == 0
    code, _, err = sal(*command, "--num_cycles", 1)
    assert code == 73 and "settings.cycles: 2 -> 1" in err and "--force" in err
    assert sal(*command, "--num_cycles", 1, "--force")[0] == 0
    assert len(json.loads((tmp_path / "w/results.json").read_text())["seeds"][0]["curves"]["test"]) == 1


def test_a_report_before_the_end_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["--ss", "5", "--root", str(world), "--work-dir", str(tmp_path / "w"), *SHORT]
    assert zeroshot_scripts.train("fsvae", train) == 0
    assert main(["report", str(tmp_path / "w")]) == 66
    assert "has not come to its end" in capsys.readouterr().err
    (tmp_path / "w/results.json").write_text('{"classes": 60}')
    assert main(["report", str(tmp_path / "w")]) == 65
    assert "results.json" in capsys.readouterr().err
    assert zeroshot_scripts.main("fsvae", train) == 0  # `run` may be left out
    assert main(["report", str(tmp_path / "w")]) == 0


# -- flags to plans and places ------------------------------------------------------------------------------------------------


def test_flags_in_the_official_spelling() -> None:
    words = ["--num_cycles", "3", "--gpu", "0", "--ntu=60", "--unseen", "1", "4", "--wdir", "results/5_r_val"]
    assert spelled(words) == [
        "--num-cycles", "3", "--device", "0", "--classes=60", "--unseen=[1,4]", "--wdir", "results/5_r_val",
    ]  # fmt: skip


def test_defaults_are_the_published_ones() -> None:
    for classes, unseen in splits.UNSEEN:
        found = plan_of(TaskFlags(classes, unseen), TrainingFlags(), JudgingFlags())
        assert found == plan.published(classes, unseen) and not plan.deviations(found)


def test_each_flag_changes_what_it_says() -> None:
    def changed(*, task: TaskFlags | None = None, judging: JudgingFlags | None = None, **training: Any) -> dict[str, Any]:
        found = plan_of(task or TaskFlags(120, 10), TrainingFlags(**training), judging or JudgingFlags())
        return {d.name: d.value for d in plan.deviations(found)}

    assert changed(num_cycles=1, num_epoch_per_cycle=2, latent_size=3, batch_size=4, lr=5e-3) == {
        "cycles": 1, "steps": 2, "latent": 3, "batch": 4, "lr": 5e-3,
    }  # fmt: skip
    assert changed(samples=6, classifier_steps=7, classifier_lr=8e-3) == {
        "samples": 6, "classifier_steps": 7, "classifier_lr": 8e-3,
    }  # fmt: skip
    assert changed(corrected=True) == {"noise": "per_dimension", "relu_logits": False}
    assert changed(corrected=True, noise="per_sample") == {"relu_logits": False}
    assert changed(no_relu_output=True, no_relu_logits=True) == {"relu_output": False, "relu_logits": False}
    assert changed(task=TaskFlags(120, 10, full_validation_list=True)) == {"seen classes in validation": 100}
    assert changed(judging=JudgingFlags(t=0, th=0)) == {"gate": [None, None]}
    assert changed(judging=JudgingFlags(t=3, th=40)) == {"gate": [3.0, 0.4]}
    found = plan_of(TaskFlags(60, 5), TrainingFlags(), JudgingFlags(seeds=[1, 2], select="last"))
    assert found.seeds == (1, 2) and found.selection == "last"


def test_where_features_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = source_of(InputFlags(dataset=Path("elsewhere/mine_val_5_r/")), 5, "val")
    assert named.features_folder(5, "val") == tmp_path / "elsewhere/mine_val_5_r"
    assert named.features_folder(5, "test") == tmp_path / "elsewhere/mine_5_r"
    assert named.text_folder == Path("text_feats/ViT-B/32")
    usual = source_of(InputFlags(Path("root"), ve="mine"), 12, None)
    assert usual.features_folder(12, "val") == Path("root/sk_feats/mine_val_12_r")
    with pytest.raises(UsageError, match="not named as one"):
        source_of(InputFlags(dataset=Path("features")), 5, None)


def test_where_a_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAL_WORK_DIR", "/w")
    known, source = plan.published(60, 5), Source(Path(), TOWER, "lb")
    assert work_folder("fsvae", known, source, None, None, "all") == Path("/w/fsvae/60_5_shift_ViT-B-32_lb")
    assert work_folder("fsvae", known, source, Path("x"), None, "all") == Path("x")
    for phase, wdir in (("train", "results/5_r"), ("val", "results/5_r_val"), ("val", "results/5_r")):
        assert work_folder("fsvae", known, source, None, Path(wdir), phase) == Path("results/5_r/ViT-B/32/lb")
    own = plan.Plan(split_of(60, [1, 2]), split_of(60, [3, 4], without=[1, 2]), known.settings)
    assert work_folder("fsvae", own, source, None, None, "all").name == "60_1-2_shift_ViT-B-32_lb"


# -- text ---------------------------------------------------------------------------------------------------------------------


def test_text_without_clip(sal: Sal, tmp_path: Path) -> None:
    code, out, err = sal("text", "--without-clip", "--ntu", 10, "--out", tmp_path)
    assert code == 0, err
    assert "know no meaning" in out and "--le shared_words" in out
    files = sorted((tmp_path / "text_feats/shared_words").glob("*.npy"))
    assert [file.name for file in files] == ["ad_10.npy", "lb_10.npy", "md_10.npy"] and np.load(files[0]).shape == (10, 512)


def small_clip(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A tower of CLIP's form that is small, with a tokenizer for it; returns the file of weights."""
    from safetensors.torch import save_file

    shape = clip_text.Shape(vocabulary=514, context=200, width=32, blocks=1, heads=4, vector=20)
    torch.manual_seed(0)
    tower = clip_text.TextTower(shape)
    state = {row.official: row.part(tower.state_dict()[row.ours]).clone() for row in clip_text.table(shape)}
    save_file({name: torch.randn(value.shape) * 0.1 for name, value in state.items()}, folder / "ViT-B-32.safetensors")
    load = clip_text.load
    monkeypatch.setattr(clip_text, "load", lambda path, architecture: load(path, architecture, shape))
    monkeypatch.setattr(clip_tokens, "clip", lambda: tokenizer([]))
    return folder / "ViT-B-32.safetensors"


def test_text_by_clip_from_ones_own_words(sal: Sal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = small_clip(monkeypatch, tmp_path)
    words = tmp_path / "words"
    words.mkdir()
    (words / "lb_3.csv").write_text('idx,label\n1,run\n2,"sit, slowly"\n3,jump\n')
    command = ["text", "--weights", weights, "--classes", 3, "--descriptions", words, "--tm", "lb", "--out", tmp_path]
    code, out, err = sal(*command)
    assert code == 0, err
    file = tmp_path / "text_feats/ViT-B/32/lb_3.npy"
    assert out.split() == [str(file)] and np.load(file).shape == (3, 20)
    np.save(file, np.ones((3, 20), np.float32))  # somebody else's now
    code, _, err = sal(*command)
    assert code == 73 and "--force" in err and np.load(file).max() == 1
    assert sal(*command, "--force")[0] == 0 and len(np.unique(np.load(file), axis=0)) == 3


def test_damaged_weights_for_the_text(sal: Sal, tmp_path: Path) -> None:
    (tmp_path / "clip.safetensors").write_bytes(b"\x10" + bytes(40))
    code, _, err = sal("text", "--weights", tmp_path / "clip.safetensors", "--out", tmp_path)
    assert code == 65 and "clip.safetensors" in err and "again" in err and "--resume" not in err


def test_text_without_what_it_needs(sal: Sal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = sal("text")
    assert code == 2 and "ViT-B-32.pt" in err and "--without-clip" in err
    assert sal("text", "--weights", "none.pt")[0] == 66
    assert sal("text", "--without-clip", "--weights", "x.pt")[0] == 2
    code, _, err = sal("text", "--without-clip", "--classes", 7)
    assert code == 2 and "10, 60, 120" in err
    code, _, err = sal("text", "--without-clip", "--classes", 7, "--descriptions", tmp_path)
    assert code == 66 and "lb_7.csv" in err
    assert not list(tmp_path.iterdir())


def test_weights_lie_where_the_official_scripts_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = small_clip(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text_extractor").mkdir()
    shutil.move(weights, tmp_path / "text_extractor/ViT-B-32.pt")
    monkeypatch.setattr("engine.zeroshot.text.clip_text._state", lambda path: clip_text.checkpoint.read(path)[0])
    assert zeroshot_scripts.text("fsvae", ["--ntu", "10"]) == 0
    assert np.load("text_feats/ViT-B/32/md_10.npy").shape == (10, 20)


# -- scripts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_smoke_test_is_the_repositorys(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: called.append([program, *words]))
    zeroshot_scripts.smoke(system, ["--device", "cpu"])
    smoke = str(ROOT / "smoke_tests/smoke.py")
    assert called == [[sys.executable, sys.executable, smoke, "--model", system, "--device", "cpu"]] and Path(smoke).is_file()
    for name, function in (("main", "main"), ("train", "train"), ("gen_text_feat", "text"), ("smoke_test", "smoke")):
        assert f'{function}("{system}")' in (ROOT / "models" / system / f"{name}.py").read_text()
