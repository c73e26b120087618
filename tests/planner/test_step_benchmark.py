"""benchmarks/step.py's own logic: its check can fail, its table goes on where it was cut off and never tells where it ran."""

from __future__ import annotations

import csv
import json
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
from benchmarks.step_table import COLUMNS, OFFICIAL, PAPER_BATCH, cells, fill, reason, with_official
from benchmarks.step_task import Task, task
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


def test_every_published_network_has_its_cells() -> None:
    assert {cell.model for cell in cells("cuda", list(PAPER_BATCH))} == set(PAPER_BATCH)
    found = [cell.key for cell in cells("cuda", ["ctrgcn"])]
    assert len(found) == len(set(found)) == 2 * 2 * 4
    measured = {(model, precision, "compile" if way == "compile" else "eager", int(batch))
                for model, way, precision, batch in (cell.key for cell in cells("cuda", list(PAPER_BATCH)))}  # fmt: skip
    assert set(OFFICIAL) <= measured


def test_the_table_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def ran(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if "blocks" in command:
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nRuntimeError: no room in /home/somebody/lab/file.py\n")
        if "cheap" in command:
            raise subprocess.TimeoutExpired(command, 1)
        row = {"ms_median": 5.0, "ms_q1": 4.0, "ms_q3": 6.0, "right": len(asked) > 1, "difference": 0.1, "launches": 7}
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

    assert fill(step.arguments().parse_args(words), words) == 0 and len(asked) == 3 and out.read_text() == text
    out.write_text("".join(line for line in text.splitlines(keepends=True) if ",blocks," not in line))
    assert fill(step.arguments().parse_args(words), words) == 0 and len(asked) == 4 and out.read_text() == text

    out.write_text(text.replace("# ", "# another machine, ", 1))
    with pytest.raises(ConfigError, match="machine"):
        fill(step.arguments().parse_args(words), words)
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
