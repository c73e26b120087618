"""`python -m orchestrator run MODEL -- COMMAND`: one command in a model's image, with mounts, GPUs and user set.

The command is written as it would be without Docker, with paths of this machine: `train --recipe ntu60_xsub --data FILE`. What it
reads is mounted read-only, the folder it writes to is mounted, and all of it is printed as the `docker run` that does the same.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from docker import errors as docker_errors
from requests import exceptions as http_errors

from orchestrator import leftovers
from orchestrator.arguments import Parser, amount
from orchestrator.cage import ALL_GPUS, USER, WORK_DIR, Bind, Cage, docker_run, sdk_arguments
from orchestrator.command import Command, read_command
from orchestrator.connection import connect, gives_gpus, is_rootless
from orchestrator.discovery import choose, image_of
from orchestrator.errors import EXIT_NO_ENGINE, EXIT_NO_INPUT, EXIT_UNWRITABLE, OrchestratorError, explain, lost

_EPILOG = """COMMAND is train or test with the arguments of the model's main.py, or any command of the image: sal plan, bash -c ….
Values of --data, --weights and --config are paths of this machine; without a command the image says what it can do.

  python -m orchestrator run ctrgcn -- train --recipe ntu60_xsub --data NTU60_CS.npz

exit codes: those of the command (docs/exit-codes.md); also 1 the image is missing, 2 wrong arguments, 66 a path does not exist,
69 no Docker engine answers, 73 the work folder cannot be made, 77 no permission to use the engine"""
_COMPILER = "org.skeleton-lab.compiler"
_SECONDS_TO_END = 60


def parser() -> argparse.ArgumentParser:
    """What stands before `--`."""
    result = Parser(
        prog="python -m orchestrator run",
        usage="python -m orchestrator run MODEL [options] -- COMMAND…",
        description="Run a command in a model's image.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("model", metavar="MODEL", help="a model with a Dockerfile")
    add(
        "--gpus",
        default="auto",
        metavar="WHICH",
        help="all, none, or numbers and UUIDs: 0,1 (default: all there are)",
    )
    add("--work-dir", type=Path, default=Path("work_dir"), metavar="DIR", help="where runs are written (default work_dir)")
    add("--mount", type=_mount, action="append", default=[], metavar="HERE:THERE[:rw]", help="also mount this, read-only or not")
    add("--user", type=_user, metavar="UID:GID", help="who the command is (default: you)")
    add("--shm", type=amount, default="1g", metavar="SIZE", help="shared memory, for loader workers (default 1g)")
    add("--memory", type=amount, metavar="SIZE", help="memory limit (default: none)")
    add("--network", default="none", choices=("none", "bridge", "host"), help="default none")
    way = result.add_mutually_exclusive_group()
    way.add_argument("--detach", action="store_true", help="start it and come back at once")
    way.add_argument("--interactive", action="store_true", help="with this terminal as its input: a shell")
    way.add_argument("--dry-run", action="store_true", help="only print the docker run line")
    return result


def _mount(text: str) -> Bind:
    here, _, rest = text.partition(":")
    there, _, mode = rest.partition(":")
    if not here or not there.startswith("/") or mode not in ("", "ro", "rw"):
        raise argparse.ArgumentTypeError(f"{text!r} is not HERE:THERE, HERE:THERE:ro or HERE:THERE:rw, with THERE from /")
    return Bind(Path(here), there, mode == "rw")


def _user(text: str) -> str:
    if not re.fullmatch(r"\d+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not UID:GID in numbers")
    return text


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--`, and the command behind it."""
    words = list(argv)
    if "--" not in words:
        return words, []
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def _owner(folder: Path) -> str:
    """Whose the work folder is: yours; for root its owner's, and a new one is who called sudo's, else the images' own user's."""
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    if folder.exists():
        return f"{folder.stat().st_uid}:{folder.stat().st_gid}"
    return f"{os.environ['SUDO_UID']}:{os.environ['SUDO_GID']}" if "SUDO_UID" in os.environ else USER


def _make(folder: Path, owner: str) -> None:
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        what = f"the work folder {folder} cannot be made: {error.strerror}"
        raise OrchestratorError(what, "give another --work-dir", exit_code=EXIT_UNWRITABLE) from error
    if os.getuid() == 0:
        os.chown(folder, *map(int, owner.split(":")))


def cage_of(given: argparse.Namespace, command: Command, client: Any) -> Cage:
    """The container of a command line; `client` None where no engine is asked."""
    for bind in given.mount:
        if not bind.here.exists():
            raise OrchestratorError(f"--mount: no {bind.here} on this machine", "give an existing path", exit_code=EXIT_NO_INPUT)
    image = image_of(given.model)
    owner = "0:0" if client is not None and is_rootless(client) else _owner(command.work_dir)
    programs = client is not None and client.images.get(image).labels.get(_COMPILER) == "1"
    mounts = [Bind(bind.here.resolve(), bind.there, bind.writable) for bind in given.mount]
    return Cage(
        image=image, command=command.words, gpus=_gpus(given.gpus, client), network=given.network, memory=given.memory or "",
        shm=given.shm, user=given.user or owner,
        binds=(*command.binds, *mounts, Bind(command.work_dir.resolve(), WORK_DIR, writable=True)),
        scratch={"/tmp": "2g"}, programs=programs, pids=4096, tty=sys.stdout.isatty(),
        name=f"skeleton-lab-{given.model}-{uuid.uuid4().hex[:8]}",
    )  # fmt: skip


def _gpus(wish: str, client: Any) -> str:
    if wish == "auto":
        there = shutil.which("nvidia-smi") is not None if client is None else gives_gpus(client)
        return ALL_GPUS if there else ""
    return "" if wish == "none" else wish


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    before, words = split(argv)
    given = parser().parse_args(before)
    [given.model] = choose([given.model])
    command = read_command(words, given.model, given.work_dir)
    client = None if given.dry_run else connect()
    try:
        try:
            cage = cage_of(given, command, client)
        except docker_errors.ImageNotFound as error:
            raise explain(error, image=image_of(given.model)) from error
        shown = docker_run(cage)
        if given.interactive:
            shown[2:2] = ["--interactive", *([] if cage.tty else ["--tty"])]
        print(shlex.join(shown), flush=True)
        if given.dry_run:
            return 0
        _make(command.work_dir, cage.user)
        if given.interactive:
            return _become(shown)
        for name in leftovers.sweep(client):
            print(f"removed {name}, which an ended run had left", file=sys.stderr)
        for name in leftovers.orphans(client):
            print(f"still at work, its terminal is gone: docker logs -f {name}; docker stop {name}", file=sys.stderr)
        code = _detached(client, cage) if given.detach else _attached(client, cage)
        if command.is_main:
            print(f"{WORK_DIR} is {command.work_dir} here", file=sys.stderr)
        return code
    finally:
        if client is not None:
            client.close()


def _become(words: Sequence[str]) -> int:
    if shutil.which(words[0]) is None:
        raise OrchestratorError("--interactive needs the docker command, which is not on PATH", "install Docker's command line")
    sys.stdout.flush()
    os.execvp(words[0], list(words))  # noqa: S606 - the docker command takes this process over


def _detached(client: Any, cage: Cage) -> int:
    """Start and leave: nobody owns it, so nobody removes it but the user."""
    labels = {leftovers.MODEL: cage.image}
    container = client.containers.create(**sdk_arguments(cage) | {"labels": labels})
    try:
        container.start()
    except BaseException:
        leftovers.remove(container)
        raise
    print(f"{cage.name} runs: docker logs -f {cage.name}; docker stop {cage.name} saves its state; then docker rm {cage.name}")
    return 0


def _attached(client: Any, cage: Cage) -> int:
    """Run to the end with its output here and our signals there; returns its exit code. What has ended is removed."""
    labels = leftovers.labels(uuid.uuid4().hex, cage.image)
    container = client.containers.create(**sdk_arguments(cage) | {"labels": labels})
    try:
        stream = container.attach(stream=True, demux=True)  # before the start: nothing is missed
        with _signals_to(container):
            container.start()
            if cage.tty:
                columns, rows = shutil.get_terminal_size()
                container.resize(height=rows, width=columns)
            _copy(stream, container)
            code = int(container.wait(timeout=_SECONDS_TO_END)["StatusCode"])
        container.reload()
        if container.attrs["State"]["OOMKilled"]:
            limit = f"its limit of {cage.memory}" if cage.memory else "this machine's memory"
            print(f"killed for memory at {limit}: lower --num-worker or --test-batch-size, or give more", file=sys.stderr)
        return code
    except http_errors.RequestException as error:
        next_step = f"when it answers again: docker logs -f {cage.name} shows whether the command still runs"
        raise OrchestratorError(lost().what, next_step, exit_code=EXIT_NO_ENGINE) from error
    finally:
        _remove_ended(container)


def _remove_ended(container: Any) -> None:
    try:
        container.reload()
        if container.status != "running":
            leftovers.remove(container)
    except (docker_errors.DockerException, http_errors.RequestException):
        pass  # the engine is gone; the next start removes it


def _copy(stream: Any, container: Any) -> None:
    """The container's output to ours, until it ends. Where nobody reads ours any more, the command is asked to end."""
    readers: list[BinaryIO] = [sys.stdout.buffer, sys.stderr.buffer]
    for pieces in stream:
        for out, piece in zip(readers, pieces, strict=True):
            if not piece:
                continue
            try:
                out.write(piece)
                out.flush()
            except OSError:
                _pass_on(container, signal.SIGTERM)


@contextmanager
def _signals_to(container: Any) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP (as SIGTERM) go to the command, which then saves its state; a third one kills it."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        asked = signal.SIGKILL if len(heard) > 2 else signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        _pass_on(container, asked)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(container: Any, number: signal.Signals) -> None:
    try:
        container.kill(signal=number.name)
    except docker_errors.APIError as error:
        if "is not running" not in str(error):
            raise
