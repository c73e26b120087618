"""The queue of a sweep, with engines that stand in: order, retries, slots, hosts that go away, kills between any two steps."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace

import pytest
from docker import errors as docker_errors

from orchestrator import sweep_queue
from orchestrator.errors import OrchestratorError
from orchestrator.sweep_file import Slot
from orchestrator.sweep_journal import Journal, opened
from orchestrator.sweep_queue import conduct, wait_before
from orchestrator.sweep_states import DONE, FAILED, RUNNING, State, states_of
from tests.orchestrator.stand_in import Engine, engines, sweep_of

__all__ = ["engines"]
BOTH = (Slot("", "0"), Slot("far", "0"))


def conducted(folder, sweep, heard=(), **options) -> dict[str, State]:
    with opened(folder) as journal:
        return conduct(sweep, journal, list(heard), **options)


def until(holds) -> None:
    """Wait for another thread, a minute at most."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def later(work) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_all_run_once_in_their_order_and_nothing_is_left(engines, tmp_path, capsys):
    states = conducted(tmp_path, sweep_of("a", "b", "c"))
    assert [states[name].state for name in "abc"] == [DONE] * 3
    assert engines[""].ran == ["a", "b", "c"] and engines[""].there == {}
    assert "a: started on this engine, no GPU" in capsys.readouterr().err


def test_the_same_command_again_repeats_nothing(engines, tmp_path):
    first = conducted(tmp_path, sweep_of("a", "b"))
    assert conducted(tmp_path, sweep_of("a", "b")) == first
    assert engines[""].ran == ["a", "b"]
    assert conducted(tmp_path, sweep_of("a", "b", "c"))["c"].state == DONE, "the file may grow"
    assert engines[""].ran == ["a", "b", "c"]


@pytest.mark.parametrize("code", [143, 137, 1, 73, 75])
def test_what_may_end_otherwise_is_tried_again(engines, tmp_path, code):
    engines[""].codes["a"] = [code, code]
    state = conducted(tmp_path, sweep_of("a", retries=2))["a"]
    assert (state.state, state.attempt, state.failures) == (DONE, 3, 2)


def test_retries_come_to_an_end(engines, tmp_path):
    engines[""].codes["a"] = [1] * 9
    state = conducted(tmp_path, sweep_of("a", "b", retries=2))["a"]
    assert (state.state, state.attempt, state.code, state.why) == (FAILED, 3, 1, "the last line")
    assert engines[""].ran.count("b") == 1


@pytest.mark.parametrize("code", [2, 65, 66, 70, 76, 78, 127])
def test_what_would_end_the_same_is_not_tried_again(engines, tmp_path, code):
    engines[""].codes["a"] = [code]
    state = conducted(tmp_path, sweep_of("a"))["a"]
    assert (state.state, state.attempt) == (FAILED, 1)
    assert conducted(tmp_path, sweep_of("a"))["a"] == state, "nor by the same command"
    assert conducted(tmp_path, sweep_of("a"), again=True)["a"].state == DONE, "unless asked for"


def test_time_limits_do_not_use_up_retries(engines, tmp_path):
    engines[""].codes["a"] = [85] * 4
    state = conducted(tmp_path, sweep_of("a", retries=0))["a"]
    assert (state.state, state.attempt, state.failures) == (DONE, 5, 0)


def test_waiting_doubles_up_to_ten_minutes():
    assert [wait_before(nth, 30.0) for nth in (1, 2, 3, 6, 5000)] == [30.0, 60.0, 120.0, 600.0, 600.0]


def test_no_slot_holds_more_than_it_may(engines, tmp_path):
    most, engine = [], engines[""]
    usual = engine.start

    def start(run, name):
        usual(run, name)
        engine.there[name] = ("running", 0)
        most.append(sum(status == "running" for status, _ in engine.there.values()))
        threading.Timer(0.05, lambda: engine.there.update({name: ("exited", 0)})).start()

    engine.start = start
    sweep = sweep_of(*"abcdefgh", slots=(Slot("", "0", 2), Slot("", "1")))
    assert {state.state for state in conducted(tmp_path, sweep).values()} == {DONE}
    assert max(most) == 3


def test_the_slot_with_the_least_to_do_comes_first(engines, tmp_path):
    for name in "abc":
        engines[""].codes[name] = [None]
    heard: list[signal.Signals] = []
    with opened(tmp_path) as journal:

        def stop():
            until(lambda: len(engines[""].ran) == 3)
            heard.append(signal.SIGTERM)

        stopping = later(stop)
        with pytest.raises(OrchestratorError):
            conduct(sweep_of("a", "b", "c", slots=(Slot("", "0", 2), Slot("", "1", 2))), journal, heard)
        stopping.join()
    with opened(tmp_path) as journal:
        assert [event["gpus"] for event in journal.events if event["event"] == "start"] == ["0", "1", "0"]


def test_an_interrupt_goes_to_the_runs_and_the_same_command_goes_on(engines, tmp_path):
    engines[""].codes["a"] = [None]
    heard: list[signal.Signals] = []

    def stop():
        until(lambda: engines[""].ran)
        heard.append(signal.SIGINT)

    stopping = later(stop)
    with opened(tmp_path) as journal, pytest.raises(OrchestratorError, match="no run is at work") as raised:
        conduct(sweep_of("a", "b", retries=0), journal, heard)
    stopping.join()
    assert raised.value.exit_code == 130
    assert [number for _, number in engines[""].heard] == ["SIGINT"] and engines[""].there == {}
    state = conducted(tmp_path, sweep_of("a", "b", retries=0))["a"]
    assert (state.state, state.attempt, state.failures) == (DONE, 2, 0), "it is not to blame"


@pytest.mark.parametrize(("number", "sent"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGTERM")])
def test_an_end_that_is_not_from_the_keyboard(engines, tmp_path, number, sent):
    engines[""].codes["a"] = [None]
    heard: list[signal.Signals] = []
    later(lambda: (until(lambda: engines[""].ran), heard.append(number)))
    with opened(tmp_path) as journal, pytest.raises(OrchestratorError) as raised:
        conduct(sweep_of("a"), journal, heard)
    assert raised.value.exit_code == 143
    assert [one for _, one in engines[""].heard] == [sent]


def test_the_third_signal_kills(engines, tmp_path):
    engine = engines[""]
    engine.codes["a"] = [None]
    sent = []

    def send(name, number):
        sent.append(number)
        if number == "SIGKILL":
            engine.there[name] = ("exited", 137)

    engine.send = send
    heard: list[signal.Signals] = []

    def stop():
        until(lambda: engine.ran)
        for count in (1, 2, 3):
            heard.append(signal.SIGINT)
            until(lambda count=count: len(sent) == count)

    stopping = later(stop)
    with opened(tmp_path) as journal, pytest.raises(OrchestratorError):
        conduct(sweep_of("a"), journal, heard)
    stopping.join()
    assert sent == ["SIGINT", "SIGINT", "SIGKILL"]


# Hosts.


def test_runs_go_to_every_host(engines, tmp_path):
    conducted(tmp_path, sweep_of(*"abcd", slots=BOTH))
    assert sorted(engines[""].ran + engines["far"].ran) == list("abcd")
    assert engines[""].ran and engines["far"].ran


def test_a_host_that_does_not_answer_is_left_out(engines, tmp_path, capsys):
    engines["far"].silent = True
    states = conducted(tmp_path, sweep_of("a", "b", slots=BOTH))
    assert {state.state for state in states.values()} == {DONE} and engines[""].ran == ["a", "b"]
    assert "context far is set aside" in capsys.readouterr().err


def test_no_host_answers_at_the_start(engines, tmp_path):
    for engine in engines.values():
        engine.silent = True
    with pytest.raises(OrchestratorError, match="no Docker engine answers") as raised:
        conducted(tmp_path, sweep_of("a", slots=BOTH))
    assert raised.value.exit_code == 69


def test_where_all_is_done_no_engine_is_needed(engines, tmp_path):
    conducted(tmp_path, sweep_of("a"))
    engines[""].silent = True
    assert conducted(tmp_path, sweep_of("a"))["a"].state == DONE


def test_nothing_begins_where_an_image_is_missing(engines, tmp_path):
    engines["far"].images = False
    with pytest.raises(OrchestratorError, match="context far: the image of ctrgcn") as raised:
        conducted(tmp_path, sweep_of("a", slots=BOTH))
    assert raised.value.exit_code == 1 and engines[""].ran == []


def test_a_run_whose_host_went_away_waits_for_it(engines, tmp_path, capsys):
    """Its checkpoints are there. The others go on elsewhere."""
    engines["far"].codes["b"] = [None]

    def away():
        until(lambda: engines["far"].ran)
        engines["far"].silent = True
        until(lambda: len(engines[""].ran) == 2)
        [name] = engines["far"].there
        engines["far"].there[name] = ("exited", 0)
        until(lambda: engines["far"].unanswered)
        engines["far"].silent = False

    going = later(away)
    states = conducted(tmp_path, sweep_of("a", "b", "c", slots=BOTH))
    going.join()
    assert {name: state.attempt for name, state in states.items()} == {"a": 1, "b": 1, "c": 1}
    assert engines["far"].ran == ["b"] and engines["far"].there == {}
    assert "context far answers again" in capsys.readouterr().err


@pytest.mark.parametrize(("shared", "where"), [(False, "far"), (True, "")])
def test_a_run_goes_on_where_its_checkpoints_are(engines, tmp_path, shared, where):
    """The first slot is free, the second one is not."""
    engines[""].codes["a"] = [None]
    engines["far"].codes.update(b=[143], c=[None])
    heard: list[signal.Signals] = []

    def stop():
        until(lambda: "c" in engines["far"].ran)
        for name in engines[""].there:
            engines[""].there[name] = ("exited", 0)
        until(lambda: engines[""].there == {})
        time.sleep(0.05)
        engines["far"].there.update(dict.fromkeys(engines["far"].there, ("exited", 0)))

    stopping = later(stop)
    sweep = sweep_of("a", "b", "c", slots=BOTH, back_off=0.02, shared=shared)
    with opened(tmp_path) as journal:
        state = conduct(sweep, journal, heard)["b"]
    stopping.join()
    assert (state.state, state.attempt, state.context) == (DONE, 2, where)


def test_on_a_shared_file_system_it_goes_on_elsewhere_and_the_other_one_is_ended(engines, tmp_path):
    engines["far"].codes["b"] = [None]
    engines[""].codes["c"] = [None]

    def away():
        until(lambda: engines["far"].ran)
        engines["far"].silent = True
        until(lambda: "b" in engines[""].ran)
        until(lambda: engines["far"].unanswered)
        engines["far"].silent = False
        until(lambda: engines["far"].heard)
        [name] = [name for name in engines[""].there if "-c-" in name]
        engines[""].there[name] = ("exited", 0)

    going = later(away)
    states = conducted(tmp_path, sweep_of("a", "b", "c", slots=(Slot("", "0", 2), Slot("far", "0")), shared=True))
    going.join()
    assert states["b"].attempt == 2 and states["b"].state == DONE and states["b"].failures == 0
    assert [number for _, number in engines["far"].heard] == ["SIGTERM"] and engines["far"].there == {}


def test_on_a_shared_file_system_one_that_still_runs_when_its_host_is_back_is_kept(engines, tmp_path):
    engines["far"].codes["a"] = [None]

    def away():
        until(lambda: engines["far"].ran)
        engines["far"].silent = True
        with_journal = tmp_path / "journal.jsonl"
        until(lambda: '"lost"' in with_journal.read_text())
        until(lambda: engines["far"].unanswered)
        engines["far"].silent = False
        until(lambda: with_journal.read_text().count('"begun"') == 2)
        [name] = engines["far"].there
        engines["far"].there[name] = ("exited", 0)

    going = later(away)
    states = conducted(tmp_path, sweep_of("a", slots=(Slot("far", "0"),), shared=True))
    going.join()
    assert (states["a"].state, states["a"].attempt) == (DONE, 1)


def test_a_host_that_hangs_holds_up_no_other(engines, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_queue, "_HUNG", 0.5)
    engines["far"].hangs = threading.Event()
    try:
        assert conducted(tmp_path, sweep_of("a", "b", slots=BOTH))["b"].state == DONE
    finally:
        engines["far"].hangs.set()
    assert engines["far"].ran == []


def test_a_host_that_refuses_is_set_aside_and_the_run_is_not_lost(engines, tmp_path):
    engines["far"].refuses = docker_errors.APIError("could not select device driver")
    states = conducted(tmp_path, sweep_of("a", "b", slots=(Slot("far", "0"), Slot("", "0"))))
    assert {state.state for state in states.values()} == {DONE}
    assert sorted(engines[""].ran) == ["a", "b"]


def test_what_every_host_refuses_has_failed_in_the_end(engines, tmp_path):
    engines[""].refuses = docker_errors.APIError("could not select device driver")
    state = conducted(tmp_path, sweep_of("a", retries=1))["a"]
    assert (state.state, state.attempt) == (FAILED, 2) and "no GPU runtime" in state.why


def test_a_container_that_somebody_removed_is_begun_anew(engines, tmp_path):
    engines[""].codes["a"] = [None]
    later(lambda: (until(lambda: engines[""].ran), until(lambda: engines[""].there), engines[""].there.clear()))
    state = conducted(tmp_path, sweep_of("a"))["a"]
    assert (state.state, state.attempt, state.failures) == (DONE, 2, 1)


# Other runs than those of the journal.


def changed(sweep):
    return replace(sweep, runs=[replace(run, digest="another") for run in sweep.runs])


def test_a_run_that_is_done_cannot_become_another(engines, tmp_path):
    conducted(tmp_path, sweep_of("a"))
    with pytest.raises(OrchestratorError, match="a is done, and is another run in the file") as raised:
        conducted(tmp_path, changed(sweep_of("a")))
    assert raised.value.exit_code == 73


def test_a_run_that_failed_may_be_corrected(engines, tmp_path):
    engines[""].codes["a"] = [2]
    conducted(tmp_path, sweep_of("a"))
    assert conducted(tmp_path, changed(sweep_of("a")))["a"].state == DONE


def test_a_run_that_is_at_work_cannot_leave_the_file(engines, tmp_path):
    engines[""].codes["a"] = [None]
    with pytest.raises(Killed):
        killed_at(tmp_path, sweep_of("a"), 3)
    with pytest.raises(OrchestratorError, match="a runs, and is not in the file any more") as raised:
        conducted(tmp_path, sweep_of("b"))
    assert raised.value.exit_code == 73 and engines[""].ran == ["a"]


# Kills.


class Killed(BaseException):
    """As SIGKILL ends it: nothing that follows is done."""


def killed_at(folder, sweep, nth: int, *, written: bool = True) -> None:
    """Conduct it, and be killed at the nth event, after or before it was written."""
    count = 0
    usual = Journal.append

    def append(self, event, **values):
        nonlocal count
        count += 1
        if count < nth:
            return usual(self, event, **values)
        if written:
            usual(self, event, **values)
        raise Killed

    threads = set(threading.enumerate())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "append", append)
            conducted(folder, sweep)
    finally:
        for thread in set(threading.enumerate()) - threads:
            thread.join(10)


@pytest.mark.parametrize("written", [True, False])
def test_killed_at_any_event_every_run_runs_as_often_as_without(engines, tmp_path, written):
    def fresh() -> None:
        engines[""] = Engine(codes={"b": [143], "c": [65]})

    fresh()
    expected = {name: state.state for name, state in conducted(tmp_path / "whole", sweep_of("a", "b", "c")).items()}
    ran = sorted(engines[""].ran)
    with opened(tmp_path / "whole") as journal:
        events = len(journal.events)
    assert ran == ["a", "b", "b", "c"] and events == 1 + 3 * len(ran)
    for nth in range(1, events + 1):
        fresh()
        folder = tmp_path / f"{nth}"
        with pytest.raises(Killed):
            killed_at(folder, sweep_of("a", "b", "c"), nth, written=written)
        states = conducted(folder, sweep_of("a", "b", "c"))
        assert {name: state.state for name, state in states.items()} == expected, nth
        assert sorted(engines[""].ran) == ran, nth
        assert engines[""].there == {}, nth


def test_killed_again_and_again(engines, tmp_path):
    """Each process writes three events and is killed."""
    engines[""].codes = {"b": [143], "c": [65]}
    for _ in range(40):
        try:
            killed_at(tmp_path, sweep_of("a", "b", "c"), 3)
        except Killed:
            continue
        break
    with opened(tmp_path) as journal:
        states = states_of(journal.events)
    assert [states[name].state for name in "abc"] == [DONE, DONE, FAILED]
    assert sorted(engines[""].ran) == ["a", "b", "b", "c"]


def test_what_still_runs_is_found_and_not_begun_twice(engines, tmp_path, capsys):
    engines[""].codes["a"] = [None]
    with pytest.raises(Killed):
        killed_at(tmp_path, sweep_of("a"), 3)
    [container] = engines[""].there
    with opened(tmp_path) as journal:
        assert states_of(journal.events)["a"].state == RUNNING
    finishing = later(lambda: (time.sleep(0.1), engines[""].there.update({container: ("exited", 0)})))
    state = conducted(tmp_path, sweep_of("a"))["a"]
    finishing.join()
    assert (state.state, state.attempt, state.container) == (DONE, 1, container)
    assert engines[""].ran == ["a"]
