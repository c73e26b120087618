"""The journal of a sweep: cut off anywhere it holds what had been written whole; one process at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from orchestrator import sweep_journal
from orchestrator.errors import OrchestratorError
from orchestrator.sweep_journal import looked_at, opened
from tests.orchestrator.conftest import ROOT

START = {"attempt": 1, "digest": "d", "context": "", "gpus": "0", "container": "c"}
ENDED = {"state": "done", "code": 0, "why": "", "counted": False}


def test_what_was_written_is_there_the_next_time(tmp_path):
    with opened(tmp_path / "a/b") as journal:
        assert journal.events == ()
        journal.append("start", run="ü", **START)
        label = journal.label
    with opened(tmp_path / "a/b") as journal:
        assert journal.label == label
        assert [event["event"] for event in journal.events] == ["sweep", "start"]
        assert journal.events[1]["run"] == "ü"


def test_cut_off_at_any_byte_the_lines_before_stand(tmp_path):
    with opened(tmp_path) as journal:
        journal.append("start", run="a", **START)
        journal.append("begun", run="a")
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for size in range(len(whole) + 1):
        (tmp_path / "journal.jsonl").write_bytes(whole[:size])
        before = whole[:size].count(b"\n")
        assert len(looked_at(tmp_path)[0]) == before
        with opened(tmp_path) as journal:
            assert len(journal.events) == before
            journal.append("ended", run="a", **ENDED)
        assert len(looked_at(tmp_path)[0]) == max(before, 1) + 1, "nothing was appended to a torn line"


FIRST = '{"event": "sweep", "format": 1, "id": "0"}\n'


def line(event, **values) -> str:
    return FIRST + json.dumps({"event": event, "run": "a", **values}) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        FIRST + '{"ev\n',
        "[]\n",
        '{"event": "sweep", "format": 2, "id": "0"}\n',
        '{"event": "sweep", "format": true, "id": "0"}\n',
        '{"event": "sweep", "format": 1}\n',
        '{"event": "begun", "format": 1, "run": "a"}\n',
        "\0" * 9 + "\n",
        "[" * 100_000 + "\n",
        FIRST + '{"event": "start", "run": "x"}\n',
        FIRST + '{"event": "begun"}\n',
        FIRST + '{"event": ["begun"], "run": "a"}\n',
        line("begun", run=[1]),
        line("renamed", run=[1]),
        line("start", **{**START, "attempt": "1"}),
        line("start", **{**START, "attempt": True}),
        line("start", **{**START, "context": None}),
        line("lost"),
        line("again", same="no"),
        line("ended", **{**ENDED, "code": "0"}),
        line("ended", **{**ENDED, "state": "asleep"}),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path, text):
    (tmp_path / "journal.jsonl").write_text(text)
    with (
        pytest.raises(OrchestratorError, match=rf"journal.jsonl, line {text.count(chr(10))} is damaged") as raised,
        opened(tmp_path),
    ):
        pass
    assert raised.value.exit_code == 65 and "--folder" in raised.value.next_step
    with pytest.raises(OrchestratorError, match="is damaged"):
        looked_at(tmp_path)
    assert (tmp_path / "journal.jsonl").read_text() == text


def test_events_of_later_versions_are_no_damage(tmp_path):
    (tmp_path / "journal.jsonl").write_text(FIRST + '{"event": "paused"}\n{"event": "renamed", "run": "a"}\n')
    assert len(looked_at(tmp_path)[0]) == 3


HOLD = """
import sys
from pathlib import Path
from orchestrator.sweep_journal import opened
with opened(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert looked_at(tmp_path)[1], "it is at work"
        with pytest.raises(OrchestratorError, match=rf"in use by process {holder.pid} on ") as raised, opened(tmp_path):
            pass
        assert raised.value.exit_code == 73
    finally:
        holder.kill()
        holder.communicate(timeout=60)
    assert not looked_at(tmp_path)[1], "it was killed"
    with opened(tmp_path):
        assert looked_at(tmp_path)[1]
    assert not looked_at(tmp_path)[1], "it has ended"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OrchestratorError, match="cannot be used") as raised, opened(tmp_path / "file/sweep"):
        pass
    assert raised.value.exit_code == 73


def test_a_full_disk_ends_it_and_what_was_written_stands(tmp_path, monkeypatch):
    usual = os.write

    def full(file, data):
        usual(file, data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as journal:
        journal.append("start", run="a", **START)
        with monkeypatch.context() as patch:
            patch.setattr(sweep_journal.os, "write", full)
            with pytest.raises(OrchestratorError, match=r"could not write .*: No space left") as raised:
                journal.append("begun", run="a")
        assert raised.value.exit_code == 74
    with opened(tmp_path) as journal:
        assert [event["event"] for event in journal.events] == ["sweep", "start"]


def test_a_short_write_is_gone_on_with_and_each_event_is_on_the_disk(tmp_path, monkeypatch):
    usual, synced = os.write, []
    with opened(tmp_path) as journal, monkeypatch.context() as patch:
        patch.setattr(sweep_journal.os, "write", lambda file, data: usual(file, data[:5]))
        patch.setattr(
            sweep_journal.os, "fsync", lambda file: synced.append((tmp_path / "journal.jsonl").read_bytes().count(b"\n"))
        )
        journal.append("start", run="a", **START)
        journal.append("begun", run="a")
    assert synced == [2, 3], "after the whole line was written"
    assert [event["event"] for event in looked_at(tmp_path)[0]] == ["sweep", "start", "begun"]


def test_nothing_there(tmp_path):
    assert looked_at(tmp_path / "nowhere") == ((), False)
    assert list(tmp_path.iterdir()) == []
