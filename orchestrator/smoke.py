"""The smoke test of every image: run them side by side, judge each, leave nothing behind whatever happens."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers
from orchestrator.cage import WORKSPACE, docker_run, memory_bytes
from orchestrator.discovery import image_of
from orchestrator.errors import explain, lost
from orchestrator.signals import told_of_signals
from orchestrator.smoke_container import Job, Limits, Session, cage_of, run
from orchestrator.verdict import Verdict, judge

_POLL_SECONDS = 0.2
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


def job_of(plan: Plan, model: str) -> Job:
    """The container of one model."""
    data = plan.hyper_data if model == "hypergcn" and plan.hyper_data else plan.data
    files = {} if data is None else {data.resolve(): f"{WORKSPACE}/data/{data.name}"}
    command = ["python3", SCRIPT, "--model", model, "--device", plan.device]
    for there in files.values():
        command += ["--data", there]
    if plan.vram_limit is not None:
        command += ["--vram-limit", f"{plan.vram_limit:.10g}"]
    return Job(model, image_of(model), command, files, plan.gpu)


def side_by_side(plan: Plan, engine_memory: int) -> int:
    """How many containers at once: half the cores up to 4 unless asked otherwise, and never more than memory allows.

    One on a GPU unless asked otherwise: they would share its memory, which is measured.
    """
    usual = 1 if plan.gpu is not None else max(min((os.cpu_count() or 2) // 2, 4), 1)
    wanted = plan.jobs or usual
    fitting = max(engine_memory // memory_bytes(plan.limits.memory), 1)
    return min(wanted, fitting, max(len(plan.models), 1))


def smoke_one(session: Session, plan: Plan, model: str, told: Callable[[str], None]) -> Verdict:
    """One model's verdict; an error of the engine becomes a failed verdict, a lost engine is raised."""
    job = job_of(plan, model)
    command = shlex.join(docker_run(cage_of(job, plan.limits, session.run)))
    try:
        image = session.client.images.get(job.image).attrs
        if holes := sorted((image.get("Config") or {}).get("Volumes") or ()):
            what = f"the image declares volumes, which could be written: {', '.join(holes)}"
            return Verdict(model, False, what, "take VOLUME out of its Dockerfile", command=command)
        finished = run(session, job, plan.limits, told)
    except (docker_errors.DockerException, http_errors.RequestException) as error:
        if not isinstance(error, docker_errors.APIError):
            raise lost() from error  # the connection, not this container
        told_error = explain(error, image=job.image)
        return Verdict(model, False, told_error.what, told_error.next_step, command=command)
    verdict = judge(model, finished, timeout=plan.limits.timeout, memory=plan.limits.memory, vram=plan.vram_limit is not None)
    return replace(verdict, image_bytes=int(image["Size"]), command=command)


def smoke(client: Any, plan: Plan, told: Callable[[str, str], None] = lambda *_: None) -> list[Verdict]:
    """Verdicts in the order of `plan.models`; with `fail_fast` only those reached before the first failure.

    `told(model, stage)` hears every change. Whatever ends this call, no container of it is left: an interrupt raises
    KeyboardInterrupt after the clean-up.
    """
    session = Session(client, uuid.uuid4().hex, threading.Event())
    verdicts: dict[str, Verdict] = {}

    def one(model: str) -> Verdict:
        return smoke_one(session, plan, model, lambda stage: told(model, stage))

    heard: list[signal.Signals] = []
    with told_of_signals(heard.append):
        pool = ThreadPoolExecutor(side_by_side(plan, int(client.info()["MemTotal"])), thread_name_prefix="smoke")
        try:
            running = {pool.submit(one, model) for model in plan.models}
            while running and not heard:
                done, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for verdict in (future.result() for future in done):
                    verdicts[verdict.model] = verdict
                    told(verdict.model, "passed" if verdict.passed else "failed")
                if plan.fail_fast and not all(verdict.passed for verdict in verdicts.values()):
                    break
        finally:
            _end(session, pool)
    if heard:
        raise KeyboardInterrupt(heard[0].name)
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
