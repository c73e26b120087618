"""What passes and what does not."""

from __future__ import annotations

import json

import pytest

from orchestrator import log as logs
from orchestrator.log import Log
from orchestrator.verdict import REQUIRED, Finished, failed_assertions, judge
from tests.orchestrator.conftest import good

GOOD = good("m", note="ERROR: none")


def verdict(log: str = GOOD, *, exit_code: int = 0, oom_killed: bool = False, timed_out: bool = False, vram: bool = False):
    return judge("m", Finished(exit_code, oom_killed, timed_out, 1.5, Log.of(log)), timeout=7, memory="1g", vram=vram)


def test_all_conditions_hold():
    result = verdict(f"hello\n{GOOD}\n")
    assert result.passed and result.reason == "passed" and result.seconds == 1.5
    assert set(result.result["assertions"]) == REQUIRED
    assert json.loads(json.dumps(result.as_dict()))["passed"] is True


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"exit_code": 1}, "exit code 1"),
        ({"exit_code": 1, "log": "OSError: [Errno 28] No space left on device"}, "full"),
        ({"exit_code": 137, "timed_out": True}, "7 s"),
        ({"exit_code": 137, "oom_killed": True}, "limit of 1g"),
        ({"exit_code": 0, "oom_killed": True}, "child"),
        ({"log": ""}, "no result line"),
        ({"log": GOOD.replace('"forward": true', '"forward": false')}, "do not hold: forward"),
        ({"log": '{"kind": "smoke_result", "model": "m", "assertions": {}}'}, "backward (not made)"),
        ({"log": '{"kind": "smoke_result", "model": "m", "assertions": [1]}'}, "backward (not made)"),
        ({"log": good("other")}, "of model 'other'"),
        ({"log": f"{GOOD}\n{GOOD}"}, "2 result lines"),
        ({"log": f"UserWarning: slow\n{GOOD}"}, "UserWarning"),
    ],
)
def test_each_condition_alone_fails(changes, word):
    log = changes.pop("log", GOOD)
    result = verdict(log, **changes)
    assert not result.passed
    assert word in result.reason
    assert result.next_step


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("touch: /file: Read-only file system", "write outside"),
        ("OSError: [Errno 30] Read-only file system: '/opt/x'", "write outside"),
        ("OSError: [Errno 101] Network is unreachable", "network"),
        ("urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>", "network"),
        ("wget: bad address 'weights.example'", "network"),
    ],
)
@pytest.mark.parametrize("exit_code", [0, 1])
def test_what_it_tried_and_may_not_is_named(line, word, exit_code):
    result = verdict(f"{line}\n{GOOD}", exit_code=exit_code)
    assert not result.passed and word in result.reason and line[:40] in result.reason
    assert ("exit code 1" in result.reason) == bool(exit_code)


def test_an_endless_log_fails():
    log = Log.of(GOOD)
    log.size = logs.LIMIT + 1
    result = judge("m", Finished(137, False, False, 1.5, log), timeout=7, memory="1g")
    assert not result.passed and "64 MiB of log" in result.reason


def test_only_true_holds():
    held = dict.fromkeys(REQUIRED, True)
    assert failed_assertions({"assertions": {**held, "a": 1, "b": "yes", "c": True}}) == ["a", "b"]
    del held["forward"]
    assert failed_assertions({"assertions": held}) == ["forward (not made)"]


def test_a_log_that_was_not_read_to_its_end_passes_nothing():
    log = Log.of(GOOD)
    log.broken = "ValueError: cut"
    result = judge("m", Finished(0, False, False, 1.5, log), timeout=7, memory="1g")
    assert not result.passed and "ValueError: cut" in result.reason


def judged(word: str, reason: str, *, others: bool = True, **changed):
    """The result line of a container that was asked about 8 GiB."""
    vram = {
        "limit_gib": 8.0, "recipe": "ntu60_xsub", "batch": 64, "word": word, "reason": reason, "usable_mib": 7424.0,
        "predicted_mib": {"train": 9000.0, "eval": 900.0}, "interval": {"train": [8000.0, 9900.0], "eval": [800.0, 990.0]},
        "measured_allocated_mib": None, "measured_reserved_mib": None, "measured_note": "not measured (no GPU)", **changed,
    }  # fmt: skip
    reserved = vram["measured_reserved_mib"]
    holds = {
        **dict.fromkeys(REQUIRED, True),
        "forward": others,
        "fits_vram_limit": word != "no",
        "measured_within_vram_limit": not ((reserved and reserved > 7424.0) or "out of memory" in vram["measured_note"]),
    }
    return json.dumps({"kind": "smoke_result", "model": "m", "assertions": holds, "vram": vram})


def test_a_recipe_that_does_not_fit_fails_with_the_planners_reason():
    line = judged("no", "no lever is enough: --recompute blocks would need a card of 21.3 GiB")
    result = verdict(line, exit_code=1, vram=True)
    assert not result.passed
    assert result.reason == (
        "ntu60_xsub on 8 GiB of GPU memory: no; no lever is enough: --recompute blocks would need a card of 21.3 GiB"
    )
    assert result.next_step and result.result["vram"]["word"] == "no"


@pytest.mark.parametrize("word", ["comfortable", "fits", "tight"])
def test_every_other_word_passes(word):
    assert verdict(judged(word, ""), vram=True).passed


def test_a_measurement_that_gives_the_lie_to_a_prediction_fails():
    line = judged("fits", "", measured_allocated_mib=7000.0, measured_reserved_mib=7600.0, measured_note="")
    result = verdict(line, exit_code=1, vram=True)
    assert not result.passed and "7600 MiB were measured" in result.reason and "7424" in result.reason
    assert "sal calibrate" in result.next_step


def test_running_out_of_memory_where_it_was_to_fit_fails():
    line = judged("fits", "", measured_note="not measured: out of memory on this GPU of 8192 MiB")
    result = verdict(line, exit_code=1, vram=True)
    assert not result.passed and "out of memory on this GPU" in result.reason


def test_gpu_memory_does_not_hide_another_failure():
    result = verdict(judged("no", "no lever", others=False), exit_code=1, vram=True)
    assert "forward" in result.reason and "fits_vram_limit" in result.reason


def test_an_image_that_knows_nothing_of_gpu_memory():
    usage = "smoke.py: error: unrecognized arguments: --vram-limit 8"
    for log, code in ((usage, 2), (GOOD, 0), (GOOD.replace('"note"', '"vram": {"word": "fits"}, "note"'), 0)):
        result = verdict(log, exit_code=code, vram=True)
        assert not result.passed and "rebuild" in result.next_step, log
    assert verdict(GOOD).passed


def test_a_model_without_a_recipe_to_predict_says_so_and_passes():
    line = json.loads(judged("fits", ""))
    assert verdict(json.dumps({**line, "vram": None}), vram=True).passed
    del line["vram"]
    assert not verdict(json.dumps(line), vram=True).passed
