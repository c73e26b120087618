"""The command line as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sal.__main__ import VERBS, main

ROOT = Path(__file__).resolve().parents[2]


def sal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = sal(capsys)
    assert code == 0
    assert all(f"  {verb}" in out for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean train?"),
        (["train", "ctrgnc"], "did you mean ctrgcn?"),
        (["train", "ctrgcn", "--num-epok", "3"], "did you mean --num-epoch?"),
        (["train"], "no model named"),
        (["data", "chek", "x"], "did you mean check?"),
        (["data", "check", "x", "--layot", "auto"], "did you mean --layout?"),
        (["plan", "--vram", "big"], "--vram"),
        (["plan", "ctrgc"], "did you mean ctrgcn?"),
    ],
)
def test_wrong_words_leave_with_2_and_name_the_nearest(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, _, err = sal(capsys, *words)
    assert code == 2
    assert said in err


def test_data_check(capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path) -> None:
    code, out, _ = sal(capsys, "data", "check", str(tiny_data), "--json")
    assert code == 0
    assert json.loads(out)["layout"] == "kaggle"
    bad = tmp_path / "bad.npz"
    bad.write_bytes(tiny_data.read_bytes()[:5000])
    code, _, err = sal(capsys, "data", "check", str(bad))
    assert code == 65
    assert "bad.npz" in err
    assert sal(capsys, "data", "check", str(tmp_path / "none.npz"))[0] == 66


def test_prepared_store_is_read_like_its_source(capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "tiny.h5"
    assert sal(capsys, "data", "prepare", str(tiny_data), "--out", str(store))[0] == 0
    code, out, _ = sal(capsys, "data", "check", str(store), "--json")
    assert (code, json.loads(out)["layout"]) == (0, "store")
    code, out, _ = sal(capsys, "data", "info", str(store))
    assert code == 0
    assert json.loads(out)


def test_parity_needs_a_fixture(capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path) -> None:
    assert sal(capsys, "parity", str(tiny_data))[0] == 2
    assert sal(capsys, "parity", str(tmp_path / "none.npz"))[0] == 2


def test_a_number_out_of_its_limit_leaves_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from engine.parity import judge
    from engine.parity.lines import Line

    lines = [Line("good", 1e-9, 1e-8), Line("bad", 2e-8, 1e-8), Line("nan", float("nan"), 1e-8)]
    monkeypatch.setattr(judge, "judge", lambda path: lines)
    code, out, _ = sal(capsys, "parity", str(tmp_path / "x.npz"))
    assert code == 1
    assert out.count("FAIL") == 2


WITHOUT_TORCH = """
import sys
for name in ("torch", "numpy", "h5py", "safetensors"):
    sys.modules[name] = None
from sal.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["models"], ["models", "ctrgcn"], ["models", "--json"], ["--help"], ["trian"]])
def test_the_host_side_needs_no_torch(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == (2 if words == ["trian"] else 0), done.stderr
    assert "ctrgcn" in done.stdout or words[0] in ("--help", "trian")


def test_documented_exit_codes_are_those_of_the_errors() -> None:
    from engine import errors, models
    from shared_data import errors as shared

    text = (ROOT / "docs/exit-codes.md").read_text()
    for module in (errors, models, shared):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, shared.LabError) and "exit_code" in vars(kind):
                assert f"| {kind.exit_code} " in text, kind


def test_models_tells_the_recipes_of_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    from engine import models

    cards = models.discover(None)
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name, card in cards.items():
        for folder in ("recipes", "pretrain", "tune"):
            assert told[name][folder] == sorted(file.stem for file in (card.folder / folder).glob("*.yaml")), (name, folder)
    assert told["mamp"]["tune"] and not told["ctrgcn"]["pretrain"]


def test_models_lists_encoders_by_themselves_and_their_recipes_by_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    with_labels, _, without = capsys.readouterr().out.partition("learn without labels")
    assert "ctrgcn " in with_labels and "mamp " not in with_labels
    assert re.search(r"^mamp .* pretrain, tune ", without, re.MULTILINE)
    assert re.search(r"^usdrl .* 27\.84 .* pretrain  ", without, re.MULTILINE)  # not the small one for tests
    assert main(["models", "mamp"]) == 0
    text = capsys.readouterr().out
    tables = re.split(r"^(recipe(?: of sal \w+)?) +what", text, flags=re.MULTILINE)
    assert tables[1::2] == ["recipe of sal pretrain", "recipe of sal tune", "recipe"]
    assert "ntu60_xsub_8gb" in tables[2] and "ntu60_xsub_merged" in tables[4] and "finetune_ntu60_xsub" in tables[6]
    assert main(["models", "ctrgcn"]) == 0
    assert "sal pretrain" not in capsys.readouterr().out
