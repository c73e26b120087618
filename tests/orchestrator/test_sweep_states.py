"""Exit codes of runs mean in a sweep what the page of exit codes, and the Kubernetes Job, say."""

from __future__ import annotations

import re

import pytest
import yaml

from orchestrator.sweep_states import DONE, FAILED, FINAL, RESUME_ME, RETRY, SAVED_OR_KILLED, WAITING, State, states_of, verdict
from tests.orchestrator.documented import CODES, JOB
from tests.orchestrator.stand_in import sweep_of

SWEEP = sweep_of("a", retries=3)


def test_final_codes_are_those_of_the_kubernetes_job():
    rules = yaml.safe_load(JOB.read_text())["spec"]["podFailurePolicy"]["rules"]
    [job] = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    assert set(job) == FINAL - {126, 127}  # a Job's command is fixed; a sweep's is typed


def test_codes_that_mean_something_here_are_documented():
    rows = re.findall(r"^\| ([\d, ]+) \|", CODES.read_text(), re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(", ")}
    assert documented >= (FINAL | SAVED_OR_KILLED)


@pytest.mark.parametrize(
    ("code", "failures", "asked", "expected"),
    [
        (0, 0, False, (DONE, False)),
        (0, 3, True, (DONE, False)),
        (RESUME_ME, 3, False, (WAITING, False)),
        (143, 0, False, (RETRY, True)),
        (143, 2, False, (RETRY, True)),
        (143, 3, False, (FAILED, True)),
        (143, 3, True, (WAITING, False)),
        (137, 0, True, (WAITING, False)),
        (1, 0, True, (RETRY, True)),
        (65, 0, True, (FAILED, True)),
        *((code, 0, False, (FAILED, True)) for code in FINAL),
    ],
)
def test_what_an_exit_code_means(code, failures, asked, expected):
    assert verdict(code, failures, SWEEP, asked=asked) == expected


def test_events_of_later_versions_change_nothing():
    assert states_of([{"event": "sweep"}, {"event": "renamed", "run": "a"}]) == {"a": State()}
