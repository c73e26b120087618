"""The queue of a sweep: runs are given to slots, looked after, and taken up again, until all have ended or the user wants an end.

What is done is written into the journal first, so that it can be killed at any moment: a container is begun only after its name
is there, and removed only after its end is. The next process finds by label and name what still runs, or has ended meanwhile.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from docker import errors as docker_errors

from orchestrator import leftovers, sweep_hosts
from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_UNWRITABLE, OrchestratorError
from orchestrator.foreground import say
from orchestrator.sweep_file import Run, Slot, Sweep
from orchestrator.sweep_hosts import Answer, Host
from orchestrator.sweep_journal import Journal
from orchestrator.sweep_states import DONE, FAILED, RETRY, RUNNING, WAITING, State, after, states_of, verdict

_TICK = 0.2  # seconds
_LOOK = 1.0
_HUNG = 90.0  # a client gives up after 60; ssh may hang for ever
_LONGEST_WAIT = 600.0
_AWAY = 5.0
_LOST = 3  # times in a row without an answer, after which runs move
_PATIENCE = 2  # signals that are passed on as they are; the next one kills


def conduct(sweep: Sweep, journal: Journal, heard: list[signal.Signals], *, again: bool = False) -> dict[str, State]:
    """Run all that has not been done; returns where each run of the sweep stands in the end.

    heard   signals that ask for an end, put there at any moment: they go to all runs, which save their state
    again   whether failed runs wait anew, too

    Raises `OrchestratorError`: exit 130 or 143 where an end was asked for, 69 or 77 where no engine answers at the start, 1 where
    one of them lacks an image, 73 where the folder is that of other runs, 74 where the journal cannot be written.
    """
    queue = _Queue(sweep, journal, heard)
    try:
        queue.admit(again=again)
        queue.run()
    finally:
        for host in queue.hosts.values():
            host.leave()
    if heard:
        code = EXIT_INTERRUPTED if heard[0] == signal.SIGINT else EXIT_TERMINATED
        raise OrchestratorError(
            f"interrupted; {queue.left_running()}", "the same command goes on with all that is not done", exit_code=code
        )
    return {run.name: queue.states[run.name] for run in sweep.runs}


def wait_before(nth: int, first: float) -> float:
    """Seconds before the nth try again: `first`, then twice as long each time, ten minutes at most."""
    return min(first * 2.0 ** min(nth - 1, 20), _LONGEST_WAIT)


class _Queue:
    """All that changes while a sweep is run. Only its own thread touches it."""

    def __init__(self, sweep: Sweep, journal: Journal, heard: list[signal.Signals]) -> None:
        self.sweep, self.journal, self.heard = sweep, journal, heard
        self.runs: Mapping[str, Run] = {run.name: run for run in sweep.runs}
        self.states = {run.name: State() for run in sweep.runs} | states_of(journal.events)
        self.answers: SimpleQueue[Answer] = SimpleQueue()
        at_work = [state.context for state in self.states.values() if state.state == RUNNING or state.lost]
        contexts = dict.fromkeys([*(slot.context for slot in sweep.slots), *at_work])
        self.hosts = {context: Host(context, self.answers) for context in contexts}
        self.due: dict[str, float] = {}  # run -> when it may be started again, on the monotonic clock
        self.sent: Counter[str] = Counter()  # container -> signals that it got
        self.trouble: OrchestratorError | None = None
        self.begun = False  # whether every host has been asked once, and one has answered

    # What was there before.

    def admit(self, *, again: bool) -> None:
        """Refuse runs that are others than those of the journal; failed ones wait anew if asked, or if changed."""
        for name, state in self.states.items():
            run = self.runs.get(name)
            same = run is not None and run.digest == state.digest
            if state.state == RUNNING and run is None:
                raise _others(f"{name} runs, and is not in the file any more", f"put it back, or docker stop {state.container}")
            if run is None or not state.digest:
                continue
            if not same and state.state in (RUNNING, RETRY, DONE):
                raise _others(f"{name} is {state.state}, and is another run in the file", "give it another name, or --folder")
            if state.state == FAILED and (again or not same):
                self.note("again", name, same=same)

    def note(self, event: str, name: str, **values: object) -> None:
        """Write an event of a run into the journal, and hold to it."""
        self.states[name] = after(self.states[name], self.journal.append(event, run=name, **values))

    # The loop.

    def run(self) -> None:
        while not self.is_over():
            with suppress(Empty):
                self.take(self.answers.get(timeout=_TICK))
                while True:
                    self.take(self.answers.get_nowait())
            for host in list(self.hosts.values()):
                self.look(host)
            self.judge_start()
            if self.heard:
                self.pass_on()
            elif self.begun:
                self.fill()

    def is_over(self) -> bool:
        """Nothing is left to do, or to wait for, with any host that answers."""
        if len(self.heard) > _PATIENCE + 1:
            return True
        for host in self.hosts.values():
            under_way = any(kind != "look" for kind, _ in host.asked) or (host.strangers and not self.heard)
            if host.up is None or (host.up and under_way):
                return False
        states = [self.states[name] for name in self.runs]
        if self.heard:
            return not any(state.state == RUNNING and self.hosts[state.context].up for state in states)
        return all(state.state in (DONE, FAILED) for state in states)

    def judge_start(self) -> None:
        """Nothing is begun before each host has answered, or has not."""
        if self.begun or any(host.up is None for host in self.hosts.values()):
            return
        self.begun = True
        if any(host.up for host in self.hosts.values()) or self.is_over():
            return
        assert self.trouble is not None
        raise self.trouble

    def fill(self) -> None:
        """Start what may be started."""
        now = time.monotonic()
        for run in self.sweep.runs:
            state = self.states[run.name]
            if state.state in (WAITING, RETRY) and self.due.get(run.name, 0.0) <= now and (slot := self.room(state, now)):
                self.start(run, slot)

    def room(self, state: State, now: float) -> Slot | None:
        """The slot with the least to do of those where a run may go: once it has begun, where its checkpoints are.

        A host that refused the last run that it was given comes after all others.
        """
        used = Counter((one.context, one.gpus) for one in self.states.values() if one.state == RUNNING)
        free = []
        for slot in self.sweep.slots:
            host, load = self.hosts[slot.context], used[slot.context, slot.gpus]
            at_home = self.sweep.shared or state.home is None or state.home == slot.context
            if host.up and host.start_at <= now and load < slot.at_once and at_home:
                free.append((host.refusals, load / slot.at_once, slot))
        return min(free, key=lambda one: one[:2])[2] if free else None

    def start(self, run: Run, slot: Slot) -> None:
        attempt = self.states[run.name].attempt + 1
        container = f"skeleton-lab-sweep-{self.journal.label[:8]}-{run.name}-{attempt}"
        self.note(
            "start", run.name, attempt=attempt, digest=run.digest, context=slot.context, gpus=slot.gpus, container=container
        )
        work = partial(sweep_hosts.start, run=run, gpus=slot.gpus, name=container, label=self.journal.label)
        self.hosts[slot.context].ask("start", container, work)

    def pass_on(self) -> None:
        """Each signal goes to each run, once: the first two as they are, then they are killed."""
        for name in self.runs:
            state = self.states[name]
            host = self.hosts.get(state.context)
            if state.state != RUNNING or not state.begun or host is None or not host.up:
                continue
            for number in self.heard[self.sent[state.container] :]:
                asked = signal.SIGTERM if number == signal.SIGHUP else number
                what = asked if self.sent[state.container] < _PATIENCE else signal.SIGKILL
                self.sent[state.container] += 1
                host.ask("send", state.container, partial(sweep_hosts.send, name=state.container, signal=what.name))

    def left_running(self) -> str:
        """What is to be said of runs that could not be told."""
        names = [name for name in self.runs if self.states[name].state == RUNNING]
        return f"{', '.join(names)} may go on, for nobody answered there" if names else "no run is at work"

    # Hosts and what they answer.

    def look(self, host: Host) -> None:
        """Ask it what it runs, when it is time to; give up on one that has not answered anything for long."""
        now = time.monotonic()
        if host.asked and now - host.since > _HUNG:
            self.hosts[host.context] = anew = Host(host.context, self.answers, False, host.troubles)
            host.leave()
            self.set_aside(anew, OrchestratorError(f"no answer within {_HUNG:.0f} s"))
        elif now >= host.look_at and ("look", "") not in host.asked:
            host.ask("look", "", partial(sweep_hosts.containers, label=self.journal.label))
            host.look_at = now + _LOOK

    def take(self, answer: Answer) -> None:
        host, error = answer.host, answer.error
        if self.hosts.get(host.context) is not host:
            return  # it was given up
        host.asked.remove((answer.kind, answer.about))
        host.since = time.monotonic()
        if error is not None and (sweep_hosts.is_silence(error) or answer.kind == "look"):
            if host.up is not False or answer.kind == "look":  # all that was asked fails at once: told once
                self.set_aside(host, error)
            return
        match answer.kind:
            case "look":
                self.seen(host, answer.value)
            case "images":
                self.refuse_without(host, answer.value)
            case "start":
                if name := self.run_in(answer.about):
                    self.started(host, name, error)
            case "collect" if error is None:
                if name := self.run_in(answer.about):
                    self.ended(name, *answer.value)
            case _ if error is not None and not isinstance(error, docker_errors.NotFound):
                say(f"{host}: {sweep_hosts.told(error).what}")

    def run_in(self, container: str) -> str:
        """Whose container it is; "" where its run was taken up elsewhere meanwhile."""
        return next((name for name, state in self.states.items() if state.container == container), "")

    def set_aside(self, host: Host, error: Exception) -> None:
        """It does not answer: it is given nothing, and asked again later and later. Its runs move where they can."""
        self.trouble = told = sweep_hosts.told(error)
        host.up, host.strangers = False, 0
        host.troubles += 1
        wait = wait_before(host.troubles, _AWAY)
        host.look_at = time.monotonic() + wait
        say(f"{host} is set aside, and asked again in {wait:.0f} s: {told.what}")
        moves = self.sweep.shared and self.begun and host.troubles >= _LOST
        for name in self.runs:
            state = self.states[name]
            if moves and state.state == RUNNING and state.context == host.context:
                self.note("lost", name, why=f"{host} does not answer")

    def seen(self, host: Host, there: Mapping[str, str]) -> None:
        """What it runs: set against what the journal says that it should."""
        if not host.up:
            if host.troubles:
                say(f"{host} answers again")
            host.up, host.troubles = True, 0
            models = {self.runs[name].model for name in self.runs if self.states[name].state in (WAITING, RETRY)}
            if models and not self.begun:
                host.up = None  # until its images are looked for
                host.ask("images", "", partial(sweep_hosts.missing_images, models=sorted(models)))
        for name in self.runs:
            state = self.states[name]
            if state.context == host.context and (state.state == RUNNING or state.lost):
                self.compare(host, name, state, there.get(state.container, ""))
        current = {state.container for state in self.states.values() if state.state == RUNNING or state.lost}
        strangers = [name for name in there if name not in current]
        host.strangers = len(strangers)
        for name in strangers:
            self.dismiss(host, name, there[name])

    def compare(self, host: Host, name: str, state: State, status: str) -> None:
        """One run with its container; `status` "" where there is none."""
        if {("start", state.container), ("collect", state.container)} & set(host.asked):
            return  # the answer is on its way
        if not status or status == "created":
            if state.lost:
                self.note("ended", name, state=WAITING, code=None, why="", counted=False)
            elif state.begun:
                self.again(name, "its container is gone")
            else:  # the process that began it was killed, or the connection broke, before it ran
                self.note("ended", name, state=WAITING, code=None, why="it was not begun", counted=False)
            return
        if not state.begun or state.lost:
            say(f"{name}: found at work on {host}: {state.container}")
            self.note("begun", name)
        if status not in leftovers.AT_WORK:
            log = self.journal.folder / "logs" / f"{name}-{state.attempt}.log"
            host.ask("collect", state.container, partial(sweep_hosts.collect, name=state.container, log=log))

    def dismiss(self, host: Host, name: str, status: str) -> None:
        """A container that no run has any more: one that runs is asked to save its state first, for it may have hours of work."""
        if status in leftovers.AT_WORK:
            if not self.sent[name]:
                self.sent[name] += 1
                say(f"{name} on {host} was taken up elsewhere, and is asked to end")
                host.ask("send", name, partial(sweep_hosts.send, name=name, signal="SIGTERM"))
        elif ("remove", name) not in host.asked:
            host.ask("remove", name, partial(sweep_hosts.remove, name=name))

    def refuse_without(self, host: Host, missing: list[OrchestratorError]) -> None:
        """A sweep does not begin where an engine lacks an image; one that comes later is seen at the start of a run."""
        if missing:
            raise OrchestratorError(f"{host}: {missing[0].what}", missing[0].next_step)
        host.up = True

    # What becomes of a run.

    def started(self, host: Host, name: str, error: Exception | None) -> None:
        if error is None:
            host.refusals = 0
            self.note("begun", name)
            state = self.states[name]
            say(f"{name}: started on {host}, {_gpus(state.gpus)}: {state.container}")
            return
        told = sweep_hosts.told(error)
        if not isinstance(error, docker_errors.APIError):  # the work folder, a file: not this engine's fault
            self.note("ended", name, state=FAILED, code=None, why=told.what, counted=True)
            say(f"{name}: failed: {told}")
            return
        host.refusals += 1
        host.start_at = time.monotonic() + wait_before(host.refusals, self.sweep.back_off)
        self.again(name, f"{host}: {told.what}")

    def again(self, name: str, why: str) -> None:
        """It ended without an exit code."""
        state = RETRY if self.states[name].failures < self.sweep.retries else FAILED
        self.end(name, state, None, why, counted=True)

    def ended(self, name: str, code: int, last: str) -> None:
        before = self.states[name]
        state, counted = verdict(code, before.failures, self.sweep, asked=bool(self.heard))
        self.end(name, state, code, last, counted=counted)
        container = before.container
        self.hosts[before.context].ask("remove", container, partial(sweep_hosts.remove, name=container))

    def end(self, name: str, state: str, code: int | None, why: str, *, counted: bool) -> None:
        self.note("ended", name, state=state, code=code, why=why, counted=counted)
        ended = f"exit code {code}" if code is not None else why
        if state == RETRY:
            wait = wait_before(self.states[name].failures, self.sweep.back_off)
            self.due[name] = time.monotonic() + wait
            say(f"{name}: {ended}; again in {wait:.0f} s, {self.states[name].failures} of {self.sweep.retries} retries")
        else:
            say(f"{name}: {state}" + ("" if state == DONE else f", {ended}"))


def _gpus(gpus: str) -> str:
    return "no GPU" if gpus == "none" else f"GPU {gpus}"


def _others(what: str, next_step: str) -> OrchestratorError:
    return OrchestratorError(what, next_step, exit_code=EXIT_UNWRITABLE)
