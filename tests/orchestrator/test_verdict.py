"""What passes and what does not."""

from __future__ import annotations

import json

import pytest

from orchestrator.verdict import Finished, failed_assertions, judge, result_line, unclean_lines

GOOD = json.dumps({"kind": "smoke_result", "assertions": {"forward": True, "loss_error": True}, "note": "ERROR: none"})


def verdict(log: str = GOOD, *, exit_code: int = 0, oom_killed: bool = False, timed_out: bool = False):
    return judge("m", Finished(exit_code, oom_killed, timed_out, 1.5, log), timeout=7, memory="1g")


def test_all_conditions_hold():
    result = verdict(f"hello\n{GOOD}\n")
    assert result.passed and result.reason == "passed" and result.seconds == 1.5
    assert result.result["assertions"] == {"forward": True, "loss_error": True}
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
        ({"log": GOOD.replace("true", "false", 1)}, "forward"),
        ({"log": '{"kind": "smoke_result", "assertions": {}}'}, "none made"),
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
    "line",
    [
        "WARNING: old file",
        "2024-01-01 ERROR disk",
        "Traceback (most recent call last):",
        "ValueError: x",
        "/a/b.py:3: FutureWarning: gone soon",
        "[W1121 10:00:00 x.cpp:1] something",
        "CRITICAL now",
    ],
)
def test_unclean_lines_are_found(line):
    assert unclean_lines(f"fine\n{line}\n{GOOD}") == [line]


@pytest.mark.parametrize("line", ["mean error 0.1", "no warnings", "error_rate 3", "Errors 0", "[W] shape (3, 3)"])
def test_clean_lines_are_not(line):
    assert unclean_lines(line) == []


def test_the_last_result_line_counts_and_others_are_ignored():
    older = json.dumps({"kind": "smoke_result", "assertions": {"a": False}})
    assert result_line(f"{older}\n{GOOD}\n{{smoke_result broken\n") == json.loads(GOOD)
    assert result_line('{"kind": "other smoke_result"}') is None


def test_only_true_holds():
    assert failed_assertions({"assertions": {"a": 1, "b": "yes", "c": True}}) == ["a", "b"]
