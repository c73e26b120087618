"""Whether segmentation fits: steps and streamed evaluation are traced, at any length, and `--fit` pulls levers."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are not installed with the packages

from benchmarks.vram_judges import AllocatorLog
from engine import models
from engine.config import RunConfig, parse
from engine.segmentation import stream
from planner.answers import recipe_config
from planner.costs import LONGEST, SegmentCosts, Size, asked_of, costs_of, item_shape, size_of
from planner.fit import DoesNotFit, fitted, size_of_data
from planner.lengths import Lengths
from planner.measure import built, measured_phase
from planner.steps.peak import Steps
from planner.steps.segmenting import _through_the_head
from sal.__main__ import main
from shared_data.errors import LabError
from shared_data.sequence_store import write_sequences
from shared_data.synthetic_sequences import synthetic_sequences

MIB = 2**20
SMALL = Size(5, "ntu25", 2, 96)


@pytest.fixture(autouse=True)
def not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAL_PLAN_CACHE", "off")


def made(model: str = "usdrl", mode: str = "full", **given: object) -> RunConfig:
    words = ["--batch-size", "4", "--test-batch-size", "4", "--train-window-size", "16", "--device", "cpu", "--clip-grad", "1"]
    words += ["--pipeline", "lasa" if model == "lasa" else "normalised", "--optimizer", "AdamW"]
    config = parse(words, model=model, stage="segment")
    args = {"usdrl": {"width": 32}, "lasa": {"layers": 2, "refine_layers": 2, "scales": 3}}[model]
    segment = {"mode": mode, "head_width": 16, "head_layers": 3} if model == "usdrl" else {}
    return dataclasses.replace(config, model_args=args, segment_args=segment, **given)  # type: ignore[arg-type]


def costs(config: RunConfig, size: Size = SMALL) -> SegmentCosts:
    found = costs_of(models.find_for(config.model, "segment"), config, size)
    assert isinstance(found, SegmentCosts)
    return found


def test_a_length_is_stated_where_data_are_not_known() -> None:
    assert size_of("pku_mmd2", "segment") == Size(52, "ntu25", 2, LONGEST) == size_of("auto", "segment")
    assert size_of("nw_ucla", "segment", 4000) == Size(11, "ucla20", 1, 4000)
    with pytest.raises(LabError, match="ntu60"):
        size_of("ntu60", "segment")
    assert item_shape(made(), SMALL) == (6, 25, 96)
    assert item_shape(made(mode="window"), SMALL) == (6, 25, 16)
    assert item_shape(made("lasa"), SMALL) == (12, 25, 96)


@pytest.mark.parametrize(
    ("model", "mode", "phase", "given"),
    [
        ("usdrl", "full", "train", {"recompute": "none"}),
        ("usdrl", "full", "train", {"recompute": "blocks", "forward_batch_size": 2, "precision": "bf16"}),
        ("usdrl", "full", "eval", {}),
        ("usdrl", "window", "train", {"recompute": "cheap", "precision": "bf16"}),
        ("lasa", "full", "train", {"recompute": "cheap"}),
        ("lasa", "full", "eval", {}),
    ],
)
def test_the_peak_is_that_of_the_allocator(model: str, mode: str, phase: str, given: dict[str, object]) -> None:
    """Real steps on the CPU: every block that its allocator hands out, but a CPU's workspaces."""
    config = made(model, mode, **given)
    card, steps = models.find_for(model, "segment"), costs(config).steps
    on_cpu = Steps(steps.build, steps.clip_shape, steps.num_classes, steps.settings, kernels="cpu", bench=steps.bench)
    level = "none" if config.recompute == "auto" else config.recompute
    told = on_cpu.traced(
        phase, 4, precision=config.precision, recompute=level, micro_batch=config.forward_batch_size  # type: ignore[arg-type]
    )  # fmt: skip
    log = AllocatorLog()
    assert measured_phase(phase, config, card, SMALL, log, steps=1, warm_up=1)  # type: ignore[arg-type]
    rooms = 0.0  # what of the log is the host's: the sequence that is shown, and the scores
    if phase == "eval":
        rooms = (np.prod(item_shape(config, SMALL)) + SMALL.frames * (SMALL.classes + 1)) * 4 / MIB
    # random states of a CPU, 5 kB for each block that is computed again, are no GPU's
    assert told == pytest.approx(log.without_workspaces - rooms, rel=0.03, abs=0.3)


def test_evaluation_grows_to_a_level_with_the_length_and_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE", 128)
    config = made()
    found = [
        costs(config, dataclasses.replace(SMALL, frames=n)).evaluation(asked_of(config)) for n in (16, 256, 384, 5_000, 9_000)
    ]
    assert found == sorted(found) and found[0] < found[-1] == found[-2]
    lasa = made("lasa")
    one, other = (costs(lasa, dataclasses.replace(SMALL, frames=n)).evaluation(asked_of(lasa)) for n in (1_000, 2_000))
    assert other > 1.5 * one  # a network of its own kind sees all of it


def test_the_hardest_length_is_reckoned_as_the_head_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = made()
    network = built(config, models.find("usdrl"), SMALL).eval()
    seen: list[int] = []
    network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))  # type: ignore[union-attr]
    for frames in (16, 100, 333, 640, 641):
        seen.clear()
        shown = torch.zeros(*item_shape(config, SMALL)[:-1], frames)
        stream.sequence_scores(network, shown, device=torch.device("cpu"), clips=3, piece=100)
        assert max(seen) == _through_the_head(frames, 3 * 16, 100, network.head.reach), frames  # type: ignore[union-attr]


def test_the_peak_is_a_line_in_the_length() -> None:
    config = made()
    law = Lengths(models.find("usdrl"), config, SMALL, {})
    lengths = (160, 400, 800, 1_000, 1_600)
    told = law.table(lengths)
    assert [one.frames for one in told] == list(lengths) and [one.traced for one in told] == [True, False, True, False, True]
    for one in told:
        assert one.train == pytest.approx(law.at(one.frames).train, rel=0.005)
        assert one.eval >= law.at(one.frames).eval
    room = told[3].peak
    longest = law.longest(room)
    assert 980 <= longest <= 1_008 and law.at(longest).peak <= room < law.at(longest + 128).peak
    assert law.longest(0.01) == 0
    assert not Lengths(models.find("usdrl"), made(mode="window"), SMALL, {}).matters


def test_fewer_windows_at_a_time_where_evaluation_is_too_much() -> None:
    config = made(test_batch_size=32)
    found = costs(config, dataclasses.replace(SMALL, frames=1_000))
    asked = asked_of(config)
    all_at_once = found.largest(asked, "eval", 1e6)
    assert all_at_once == found.windows == 63
    room = found.evaluation(dataclasses.replace(asked, test_batch_size=20))
    most = found.largest(asked, "eval", room)
    assert 20 <= most < 32 and found.evaluation(dataclasses.replace(asked, test_batch_size=most)) <= room
    assert found.largest(asked, "eval", 0.1) == 0


def test_plan_has_the_recipes_and_the_lengths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SAL_PLAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ["plan", "usdrl", "--vram", "8", "--recipe", "segment/smoke", "--frames", "500,1000"]
    assert main([*asked, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["cards"][0]["answers"]
    assert (told["recipe"], told["word"], told["frames"]) == ("segment/smoke", "comfortable", 1000)
    assert [one["frames"] for one in told["lengths"]] == [500, 1000]
    assert told["tensors_mib"]["train"] == pytest.approx(told["lengths"][-1]["train"], rel=0.02)
    assert told["longest_sequence"] > 20_000 and told["affine"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "longest sequence" in text and "1,000" in text and "sal segment train usdrl --recipe smoke --data FILE" in text
    assert main(["plan", "usdrl", "--frames", "long"]) == 2
    assert "--frames" in capsys.readouterr().err


def test_fit_pulls_levers() -> None:
    config = made(batch_size=64, fit="2GiB", dataset="pku_mmd2", test_batch_size=256)
    result = fitted(config)  # 10,000 frames are assumed
    before, after = (result.record["predicted_mib"][when]["train"] for when in ("before", "after"))
    assert before > result.record["room_mib"] >= after
    assert result.config.forward_batch_size and result.config.recompute == "blocks"
    assert "no BatchNorm" in "\n".join(result.lines)
    assert not fitted(dataclasses.replace(config, fit="64GiB")).record["levers"]
    with pytest.raises(DoesNotFit):
        fitted(config, frozenset({"forward_batch_size", "recompute", "precision"}))


def test_fit_asks_the_data_for_their_longest_and_the_verb_runs_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = synthetic_sequences(classes=2, train=3, test=1, actions=2, lengths=(20, 30), pauses=(5, 9))
    store = write_sequences(source, tmp_path / "sequences.npz")
    longest = max(int(part.lengths.max()) for part in source.splits.values())
    assert size_of_data(dataclasses.replace(made(), data=str(store))) == Size(3, "ntu25", 2, longest)
    ran: list[tuple[RunConfig, dict[str, object]]] = []
    monkeypatch.setattr("sal.train.run", lambda config, keep, **_: ran.append((config, keep)) or 0)
    words = ["usdrl", "--recipe", "smoke", "--data", str(store), "--work-dir", str(tmp_path / "run"), "--fit", "8GiB"]
    assert main(["segment", "train", *words]) == 0
    ((config, kept),) = ran
    assert (config.stage, config.recompute) == ("segment", "cheap")  # a GPU's "auto", which was predicted
    assert kept["fit.json"]["predicted_mib"]["after"]["train"] > 0  # type: ignore[index]


@pytest.mark.slow
def test_the_seeds_windows_fit_eight_gigabytes() -> None:
    """512 windows of 64 frames in bf16: in pieces at each level, with what a GPU that was not measured takes."""
    config = recipe_config(models.find("usdrl"), "segment/sttr_pku_mmd2_xsub_window_8gb")
    assert (config.batch_size, config.train_window_size, config.precision) == (512, 64, "bf16")
    result = fitted(dataclasses.replace(config, fit="8GiB"))
    assert not result.record["levers"]
