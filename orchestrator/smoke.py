"""The smoke test of every image: run them side by side, judge each, leave nothing behind whatever happens."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers
from orchestrator.cage import WORKSPACE, docker_run, memory_bytes
from orchestrator.discovery import image_of
from orchestrator.errors import explain, lost
from orchestrator.smoke_container import Job, Limits, Session, Stopped, cage_of, run
from orchestrator.verdict import Verdict, judge

SCRIPT = f"{WORKSPACE}/smoke_tests/smoke.py"


@dataclass(frozen=True)
class Plan:
    """One call of the command. `gpu` None means no GPU; `data` and `hyper_data` are files here, mounted read-only.

    vram_limit   GiB of the card that each model's main recipe is judged for, None to leave that out
    """

    models: Sequence[str]
    device: str = "cpu"
    gpu: str | None = None
    jobs: int | None = None
    limits: Limits = field(default_factory=Limits)
    data: Path | None = None
    hyper_data: Path | None = None
    fail_fast: bool = False
    vram_limit: float | None = None
    command: Sequence[str] | None = None


def job_of(plan: Plan, model: str) -> Job:
    """The container of one model."""
    data = plan.hyper_data if model == "hypergcn" and plan.hyper_data else plan.data
    files = {} if data is None else {data.resolve(): f"{WORKSPACE}/data/{data.name}"}
    command = list(plan.command or ["python3", SCRIPT, "--model", model, "--device", plan.device])
    for there in files.values():
        command += ["--data", there]
    if plan.vram_limit is not None:
        command += ["--vram-limit", f"{plan.vram_limit:.10g}"]
    return Job(model, image_of(model), command, files, plan.gpu)


def side_by_side(plan: Plan, engine_memory: int) -> int:
    """How many containers at once: half the cores up to 4 unless asked otherwise, and never more than memory allows."""
    wanted = plan.jobs or max(min((os.cpu_count() or 2) // 2, 4), 1)
    fitting = max(engine_memory // memory_bytes(plan.limits.memory), 1)
    return min(wanted, fitting, max(len(plan.models), 1))


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt here, also where a shell has set SIGINT to be ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else [])]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not stop the clean-up of the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def smoke_one(session: Session, plan: Plan, model: str, told: Callable[[str], None]) -> Verdict:
    """One model's verdict; an error of the engine becomes a failed verdict, a lost engine is raised."""
    job = job_of(plan, model)
    command = shlex.join(docker_run(cage_of(job, plan.limits, session.run)))
    try:
        image_bytes = int(session.client.images.get(job.image).attrs["Size"])
        finished = run(session, job, plan.limits, told)
    except (docker_errors.DockerException, http_errors.RequestException) as error:
        if not isinstance(error, docker_errors.APIError):
            raise lost() from error  # the connection, not this container
        told_error = explain(error, image=job.image)
        return Verdict(model, False, told_error.what, told_error.next_step, command=command)
    verdict = judge(model, finished, timeout=plan.limits.timeout, memory=plan.limits.memory, vram=plan.vram_limit is not None)
    return replace(verdict, image_bytes=image_bytes, command=command)


def smoke(client: Any, plan: Plan, told: Callable[[str, str], None] = lambda *_: None) -> list[Verdict]:
    """Verdicts in the order of `plan.models`; with `fail_fast` only those reached before the first failure.

    `told(model, stage)` hears every change. Whatever ends this call, no container of it is left: an interrupt raises
    KeyboardInterrupt after the clean-up.
    """
    session = Session(client, uuid.uuid4().hex, threading.Event())
    verdicts: dict[str, Verdict] = {}

    def one(model: str) -> Verdict:
        return smoke_one(session, plan, model, lambda stage: told(model, stage))

    with _interruptible():
        pool = ThreadPoolExecutor(side_by_side(plan, int(client.info()["MemTotal"])), thread_name_prefix="smoke")
        try:
            futures: dict[Future[Verdict], str] = {pool.submit(one, model): model for model in plan.models}
            for future in as_completed(futures):
                try:
                    verdict = future.result()
                except Stopped:
                    continue
                verdicts[verdict.model] = verdict
                told(verdict.model, "passed" if verdict.passed else "failed")
                if plan.fail_fast and not verdict.passed:
                    break
        finally:
            with _undisturbed():
                _end(session, pool)
    return [verdicts[model] for model in plan.models if model in verdicts]


def _end(session: Session, pool: ThreadPoolExecutor) -> None:
    """Stop the threads, then remove what is left: a thread may have created one more container while we looked."""
    session.stop.set()
    try:
        leftovers.remove_run(session.client, session.run)
        pool.shutdown(wait=True, cancel_futures=True)
        leftovers.remove_run(session.client, session.run)
    except (docker_errors.DockerException, http_errors.RequestException) as error:
        pool.shutdown(wait=False, cancel_futures=True)
        raise lost() from error
