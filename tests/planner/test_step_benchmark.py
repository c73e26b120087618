"""benchmarks/step.py's own logic: its check can fail, its table goes on where it was cut off and never tells where it ran."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are not installed with the packages

from benchmarks import step, step_table
from benchmarks.step_counts import counted, counts
from benchmarks.step_table import COLUMNS, OFFICIAL, cells, fill, reason, with_official
from benchmarks.step_task import PAPER_BATCH, Task, task
from benchmarks.table_file import TableFile
from engine.environment import describe
from engine.errors import ConfigError

CPU = torch.device("cpu")


def given(*words: str) -> Namespace:
    return step.arguments().parse_args(["--model", "baselines", "--recipe", "stgcn", "--frames", "8", "--batch", "4", *words])


def test_the_same_step_has_the_same_losses_and_another_one_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    work, device = task(given("--device", "cpu"))
    assert work.clip == (3, 8, 25, 2) and work.config.recompute == "none" and device == CPU
    assert step.checked(work, device) == {"checked_clips": 4, "difference": 0.0, "allowed": 0.0, "right": True}

    def biased(self: Task, network: nn.Module, *rest: Any, usual: Any = Task.step) -> Any:
        made = usual(self, network, *rest)
        if self.config.recompute == "cheap":  # what is checked, not what it is checked against
            made.optimizer.param_groups[0]["lr"] *= 1.001
        return made

    monkeypatch.setattr(Task, "step", biased)
    found = step.checked(work.having(recompute="cheap"), device)
    assert not found["right"] and 0 < found["difference"] < 1e-2


def test_bf16_is_near_fp32_but_not_equal() -> None:
    work, device = task(given("--device", "cpu", "--precision", "bf16"))
    found = step.checked(work, device)
    assert found["right"] and found["allowed"] == 2e-2 and found["difference"] > 0


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match="GPU"):
        task(given("--device", "cpu", "--cuda-graphs"))
    with pytest.raises(ConfigError):
        task(given("--device", "meta", "--compile"))


def test_meta_stands_for_a_gpu() -> None:
    assert task(given("--device", "meta"))[0].config.recompute == "cheap"
    assert task(given("--device", "meta", "--recompute", "none"))[0].config.recompute == "none"


def test_what_is_counted_grows_with_the_clips_but_the_launches() -> None:
    work = task(given("--device", "meta", "--recompute", "none"))[0]
    four, eight = counted(work, 4, 8)
    assert four.work.launches == eight.work.launches > 100
    assert eight.work.matrix_flops == 2 * four.work.matrix_flops > 0
    assert four.kept < eight.kept <= 2 * four.kept and four.peak < eight.peak < 2 * four.peak
    (pieces,) = counted(work.having(forward_batch_size=4), 8)
    assert pieces.work.matrix_flops == eight.work.matrix_flops and pieces.peak < eight.peak
    assert pieces.work.launches > 1.5 * four.work.launches
    (half,) = counted(work.having(precision="bf16"), 8)
    assert half.kept < 0.8 * eight.kept and half.work.matrix_flops == pytest.approx(eight.work.matrix_flops)


@pytest.mark.parametrize("pieces", [None, 4, 2])
def test_memory_per_clip_is_that_of_a_step_in_one_piece(pieces: int | None) -> None:
    work = task(given("--device", "meta", "--recompute", "none"))[0].having(forward_batch_size=pieces)
    four, eight = counted(work.having(forward_batch_size=None), 4, 8)
    row = counts(work, plain=False)
    assert row["kept_mib_per_clip"] == round((eight.kept - four.kept) / 4 / 2**20, 1) > 0
    assert row["launches"] == four.work.launches if pieces != 2 else row["launches"] > 1.5 * four.work.launches


def test_tied_weights_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(*, tied: bool) -> int:
        def wider(self: Task, usual: Any = Task.network) -> nn.Module:
            network: nn.Module = usual(self)
            network.one, network.other = (nn.Linear(512, 512, bias=False) for _ in range(2))  # that no clip goes through
            if tied:
                network.other.weight = network.one.weight
            return network

        with monkeypatch.context() as patch:
            patch.setattr(Task, "network", wider)
            return counted(task(given("--device", "meta"))[0], 4)[0].peak

    assert peak(tied=False) - peak(tied=True) == 4 * 512 * 512


def test_a_comparison_with_the_plain_form_is_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, float]] = {}

    def stub(name: str, row: dict[str, Any]) -> None:
        def called(work: Task, *_: Any, **__: Any) -> dict[str, Any]:
            seen[name] = work.dropout()
            return dict(row)

        monkeypatch.setattr(step, name, called)

    for name, row in (("measured", {"notes": "first"}), ("checked", {}), ("counts", {}), ("small_gpu", {})):
        stub(name, row)
    words = ["--model", "skateformer", "--device", "cpu", "--batch", "4", "--threads", str(torch.get_num_threads())]
    recipe = {"attn_drop": 0.5, "drop_path": 0.2}
    row = step.one(step.arguments().parse_args([*words, "--plain"]))
    assert seen == {"measured": {}, "checked": recipe, "counts": {}, "small_gpu": recipe}
    assert row["notes"].startswith("first; compared without dropout") and "attn_drop 0.5, drop_path 0.2" in row["notes"]
    assert "notes" in COLUMNS and "notes" in step_table.SHORT
    row = step.one(step.arguments().parse_args(words))
    assert set(map(str, seen.values())) == {str(recipe)} and row["notes"] == "first"
    words[1] = "ctrgcn"
    assert step.one(step.arguments().parse_args([*words, "--plain"]))["notes"] == "first"  # its recipe has none


def test_without_dropout_no_module_drops_anything() -> None:
    work = task(step.arguments().parse_args(["--model", "skateformer", "--device", "cpu", "--batch", "4"]))[0]
    before, after = (
        sum(getattr(module, "p", 0) or getattr(module, "drop_prob", 0) for module in made.modules())
        for made in (work.network(), work.without_dropout().network())
    )
    assert before > 0 == after


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "ctrgcn"], ["--recipe", "ntu60_xsub"], ["--batch", "4"], ["--precision", "fp32"], ["--recompute", "none"],
        ["--frames", "64"], ["--forward-batch-size", "4"], ["--cuda-graphs"], ["--compile"], ["--json"], ["--plain"],
        ["--workspace-mib", "64"],
    ],
)  # fmt: skip
def test_the_table_takes_no_words_for_one_cell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        step.parsed(["--all", "--device", "cpu", *words, "--threads", "2"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert words[0] in said.splitlines()[-1] and "--threads" not in said.splitlines()[-1]


def test_the_table_takes_its_own_words() -> None:
    words = ["--all", "--device", "cpu", "--threads", "2", "--steps", "3", "--only", "ctrgcn", "--out", "a.csv", "--seconds", "9"]
    assert step.parsed(words).threads == 2


def test_the_table_does_without_the_program() -> None:
    told = "import sys, benchmarks.step_table; print('benchmarks.step' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", told], cwd=root, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert ran.stdout.strip() == "False"  # else the program, whose name is __main__, would be loaded a second time


def test_every_published_network_has_its_cells() -> None:
    assert {cell.model for cell in cells("cuda", list(PAPER_BATCH))} == set(PAPER_BATCH)
    found = [cell.key for cell in cells("cuda", ["ctrgcn"])]
    assert len(found) == len(set(found)) == 2 * 2 * 4
    measured = {(model, precision, "compile" if way == "compile" else "eager", int(batch))
                for model, way, precision, batch in (cell.key for cell in cells("cuda", list(PAPER_BATCH)))}  # fmt: skip
    assert set(OFFICIAL) <= measured
    meta = list(cells("meta", ["ctrgcn"]))
    assert [(cell.way, "--plain" in cell.words) for cell in meta] == [
        ("none", False), ("cheap", False), ("blocks", False), ("plain", True),
    ]  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What this machine says of itself, the same whatever happens to the checkout meanwhile."""
    about: dict[str, Any] = {**describe(), "git": "abc"}
    monkeypatch.setattr(step_table, "describe", lambda: dict(about))
    return about


@pytest.mark.usefixtures("here")
def test_the_table_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    broken = True

    def ran(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if "blocks" in command and broken:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nRuntimeError: no room in /home/somebody/lab/file.py\n")
        if "cheap" in command and broken:
            raise subprocess.TimeoutExpired(command, 1)
        row = {
            "ms_median": 5.0,
            "ms_q1": 4.0,
            "ms_q3": 6.0,
            "right": "none" not in command or not broken,
            "difference": 0.1,
            "launches": 7,
        }
        return subprocess.CompletedProcess(command, 0, "words\n" + json.dumps(row) + "\n", "")

    stub = SimpleNamespace(run=ran, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(step_table, "subprocess", stub)
    out = tmp_path / "table.csv"
    words = ["--all", "--device", "cpu", "--out", str(out), "--only", "ctrgcn"]
    assert fill(step.arguments().parse_args(words), words) == 1
    text = out.read_text()
    assert str(tmp_path) not in text and "/home" not in text and "table.csv" in text
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert [row["way"] for row in rows] == ["none", "cheap", "blocks"] and rows[0]["launches"] == "7"
    assert "given up" in rows[1]["error"] and rows[2]["error"] == "RuntimeError: no room in file.py"

    said = capsys.readouterr().out
    assert "2 of 3 cells FAILED" in said and "1 of 3 cells have WRONG losses" in said

    assert fill(step.arguments().parse_args(words), words) == 1 and out.read_text() == text  # those that failed, again
    assert [command[-2] for command in asked[3:]] == ["cheap", "blocks"] and not list(tmp_path.glob("*.new"))
    out.write_text("".join(line for line in text.splitlines(keepends=True) if ",none," not in line))
    broken = False
    assert fill(step.arguments().parse_args(words), words) == 0 and len(asked) == 8
    text = out.read_text()
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert sorted(row["way"] for row in rows) == ["blocks", "cheap", "none"] and not any(row["error"] for row in rows)
    assert fill(step.arguments().parse_args(words), words) == 0 and len(asked) == 8 and out.read_text() == text


@pytest.mark.usefixtures("here")
def test_a_table_in_which_every_cell_failed_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_table, "measure", lambda *_: {"error": "no"})
    words = ["--all", "--device", "meta", "--out", str(tmp_path / "table.csv")]
    assert fill(step.parsed(words), words) == 1


def test_a_table_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: dict[str, Any]) -> None:
    monkeypatch.setattr(step_table, "measure", lambda *_: {"launches": 7})
    out = tmp_path / "table.csv"
    words = ["--all", "--device", "meta", "--out", str(out), "--only", "ctrgcn"]

    def again(*more: str) -> int:
        return fill(step.parsed([*words, *more]), words)

    assert again() == again() == 0
    text = out.read_text()
    for name, other in (("git", "abd"), ("torch", "0.1"), ("cpu", "another one")):
        usual = here[name]
        here[name] = other
        with pytest.raises(ConfigError, match="revision" if name == "git" else "machine or torch") as refused:
            again()
        here[name] = usual
        assert "remove the file" in str(refused.value)
    for more in (("--threads", "2"), ("--steps", "3"), ("--device", "cpu")):
        with pytest.raises(ConfigError, match="--threads or --steps"):
            again(*more)
    assert out.read_text() == text and again("--seconds", "9") == 0

    lines = text.splitlines(keepends=True)
    out.write_text("".join([lines[0], *lines[4:]]))  # a file without the rest of the head
    with pytest.raises(ConfigError, match="none given"):
        again()
    with pytest.raises(ConfigError, match="ctrgnc"):
        fill(step.arguments().parse_args([*words[:-1], "ctrgnc"]), words)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("note\nerror: the GPU ran out\n  where:    here\n", "error: the GPU ran out"),
        ("torch.OutOfMemoryError: CUDA out of memory\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("OSError: '/a/b.c/d.so' and ~/x/y: 3/4 of clips/s", "OSError: 'd.so' and y: 3/4 of clips/s"),
        ("", ""),
    ],
)
def test_reasons_do_not_tell_where_they_happened(said: str, told: str) -> None:
    assert reason(said) == told


def test_official_ratios_are_for_the_same_kind_of_gpu() -> None:
    row = {"model": "ctrgcn", "way": "default", "precision": "bf16", "batch": "64", "ms_median": 41.115, "allocated_gib": 4.117}
    there = with_official({**row, "gpu": "NVIDIA H200"})
    assert (there["official_ms"], there["official_fp32_ms"]) == (86.06, 82.23)
    assert (there["time_of_official_fp32"], there["memory_of_official_fp32"]) == (0.5, 0.5)
    assert "time_of_official_fp32" not in with_official({**row, "gpu": "NVIDIA GeForce RTX 4060"})
    assert "official_ms" not in with_official({**row, "batch": "4"})
    assert set(there) <= set(COLUMNS) | {"gpu"}


def test_figures_over_seeds(tmp_path: Path) -> None:
    table = TableFile(tmp_path / "t.csv", ("model", "seed", "top1", "f1"), ("model", "seed"))
    table.begin(describe(), {"recipe": "r"}, ["benchmark.py"])
    for model, seed, top1, f1 in (("a", 1, 10.0, ""), ("a", 2, 14.0, 5.0), ("b", 1, 7.0, 1.0)):
        table.put({"model": model, "seed": seed, "top1": top1, "f1": f1})
    assert table.over_seeds(("model",), digits=1) == {
        ("a",): "2 seeds: top1 12.0 ± 2.8, f1 5.0 ± 0.0",
        ("b",): "1 seeds: top1 7.0 ± 0.0, f1 1.0 ± 0.0",
    }
