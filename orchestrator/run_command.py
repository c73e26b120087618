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
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docker import errors as docker_errors

from orchestrator import leftovers
from orchestrator.arguments import Parser, amount
from orchestrator.cage import ALL_GPUS, USER, WORK_DIR, Bind, Cage, docker_run
from orchestrator.command import Command, read_command
from orchestrator.connection import connect, gives_gpus, is_rootless
from orchestrator.discovery import choose, image_of
from orchestrator.errors import EXIT_NO_INPUT, EXIT_UNWRITABLE, EXIT_USAGE, OrchestratorError, explain
from orchestrator.foreground import attached, detached, say
from orchestrator.paths import exists

_EPILOG = """COMMAND is train or test with the arguments of the model's main.py, a sal verb (sal data check FILE, sal plan), or
any other command of the image. Paths in the first two are those of this machine; for the others, and for what else is needed,
there is --mount. Without a command the image says what it can do.

  python -m orchestrator run ctrgcn -- train --recipe ntu60_xsub --data NTU60_CS.npz

exit codes: those of the command (docs/exit-codes.md); also 1 the image is missing or the engine refused, 2 wrong arguments,
66 a path does not exist, 69 no Docker engine answers, 73 the work folder cannot be made, 77 no permission to use the engine"""
_COMPILER = "org.skeleton-lab.compiler"


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
        type=_gpus,
        default="auto",
        metavar="WHICH",
        help="all, none, or numbers and UUIDs: 0,1 (default: all there are)",
    )
    add("--work-dir", type=_folder, default=Path("work_dir"), metavar="DIR", help="where runs are written (default work_dir)")
    add("--mount", type=_mount, action="append", default=[], metavar="HERE:THERE[:rw]", help="also mount this, read-only or not")
    add("--user", type=_user, metavar="UID:GID", help="who the command is (default: you; for root the work folder's owner)")
    add("--shm", type=amount, default="1g", metavar="SIZE", help="shared memory, for loader workers (default 1g)")
    add("--memory", type=amount, metavar="SIZE", help="memory limit (default: none)")
    add("--network", default="none", choices=("none", "bridge", "host"), help="default none")
    way = result.add_mutually_exclusive_group()
    way.add_argument("--detach", action="store_true", help="start it and come back at once")
    way.add_argument("--interactive", action="store_true", help="with this terminal as its input: a shell")
    way.add_argument("--dry-run", action="store_true", help="only print the docker run line")
    return result


def _mount(text: str) -> Bind:
    found = re.fullmatch(r"(.+?):(/[^:]*)(?::(ro|rw))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not HERE:THERE, HERE:THERE:ro or HERE:THERE:rw, with THERE from /")
    return Bind(_folder(found[1]), found[2].rstrip("/") or "/", found[3] == "rw")


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _user(text: str) -> str:
    numbers = text.split(":")
    if len(numbers) != 2 or not all(number.isdigit() and int(number) < 2**31 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not UID:GID in numbers")
    return text


def _gpus(text: str) -> str:
    if not re.fullmatch(r"[\w-]+(?:,[\w-]+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not all, none, or numbers and UUIDs with commas between them")
    return text


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--`, and the command behind it."""
    words = list(argv)
    if "--" not in words:
        return words, []
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def _given(argv: Sequence[str], words: Sequence[str]) -> argparse.Namespace:
    given, more = parser().parse_known_args(argv)
    if more and not words and not more[0].startswith("-"):
        raise OrchestratorError(
            f"{more[0]!r} stands where the options do", "write -- in front of the command", exit_code=EXIT_USAGE
        )
    return parser().parse_args(argv) if more else given


def _owner(folder: Path) -> str:
    """Whose the work folder is: yours; for root its owner's, and a new one is who called sudo's, else the images' own user's."""
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    if folder.exists():
        return f"{folder.stat().st_uid}:{folder.stat().st_gid}"
    return f"{os.environ['SUDO_UID']}:{os.environ['SUDO_GID']}" if "SUDO_UID" in os.environ else USER


def make_folder(folder: Path, owner: str) -> None:
    """Make the work folder where it is not there, with the folders above it, for that user."""
    try:
        missing = [one for one in (folder, *folder.absolute().parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the work folder {folder} cannot be made: {error.strerror}"
        raise OrchestratorError(what, "give another --work-dir", exit_code=EXIT_UNWRITABLE) from error
    if os.getuid() == 0:
        for one in missing:
            os.chown(one, *map(int, owner.split(":")))


def _checked(binds: Sequence[Bind]) -> tuple[Bind, ...]:
    """`binds`; refuses those that cover each other, or what every container needs."""
    for i, bind in enumerate(binds):
        if any(ord(sign) < ord(" ") for sign in str(bind.here)):
            raise _refused(f"{str(bind.here)!r} has a control character in its name", "rename it, or give it a link")
        for other in ("/tmp", *(one.there for one in binds[:i])):
            if f"{other}/".startswith(f"{bind.there.rstrip('/')}/") or f"{bind.there}/".startswith(f"{other}/"):
                raise _refused(f"{bind.there} and {other} would be mounted over each other", "give --mount another place")
    if Path(binds[-1].here).parent == Path(binds[-1].here):
        raise _refused("the work folder is / itself", "give another --work-dir")
    return tuple(binds)


def _refused(what: str, next_step: str) -> OrchestratorError:
    return OrchestratorError(what, next_step, exit_code=EXIT_USAGE)


def cage_of(given: argparse.Namespace, command: Command, client: Any) -> Cage:
    """The container of a command line; `client` None where no engine answers, and none is needed."""
    for bind in given.mount:
        if not exists(bind.here, "--mount"):
            raise OrchestratorError(f"--mount: no {bind.here} on this machine", "give an existing path", exit_code=EXIT_NO_INPUT)
    image = image_of(given.model)
    owner = "0:0" if client is not None and is_rootless(client) else _owner(command.work_dir)
    programs = client is not None and client.images.get(image).labels.get(_COMPILER) == "1"
    mounts = [Bind(bind.here.resolve(), bind.there, bind.writable) for bind in given.mount]
    return Cage(
        image=image, command=command.words, gpus=_chosen(given.gpus, client), network=given.network, memory=given.memory or "",
        shm=given.shm, user=given.user or owner,
        binds=_checked((*command.binds, *mounts, Bind(command.work_dir.resolve(), WORK_DIR, writable=True))),
        scratch={"/tmp": "2g"}, programs=programs, pids=4096, tty=sys.stdout.isatty(),
        name=f"skeleton-lab-{given.model}-{uuid.uuid4().hex[:8]}",
    )  # fmt: skip


def _chosen(wish: str, client: Any) -> str:
    if wish == "auto":
        there = shutil.which("nvidia-smi") is not None if client is None else gives_gpus(client)
        return ALL_GPUS if there else ""
    return "" if wish == "none" else wish


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    before, words = split(argv)
    given = _given(before, words)
    [given.model] = choose([given.model])
    command = read_command(words, given.model, given.work_dir)
    client = _engine(needed=not given.dry_run)
    try:
        try:
            cage = cage_of(given, command, client)
        except docker_errors.ImageNotFound as error:
            if not given.dry_run:
                raise explain(error, image=image_of(given.model)) from error
            cage = cage_of(given, command, None)
        if not given.dry_run:
            make_folder(command.work_dir, cage.user)
        print(shlex.join(_shown(given, cage)), flush=True)
        if given.dry_run:
            return 0
        if given.interactive:
            return _become(_shown(given, cage))
        return _run(given, command, cage, client)
    finally:
        if client is not None:
            client.close()


def _engine(*, needed: bool) -> Any:
    try:
        return connect()
    except OrchestratorError:
        if needed:
            raise
        return None


def _shown(given: argparse.Namespace, cage: Cage) -> list[str]:
    """The `docker run` line."""
    if given.detach:
        _, _, _, *rest = docker_run(cage)  # docker run --rm
        return ["docker", "run", "--detach", "--name", cage.name, *rest]
    words = docker_run(cage)
    if given.interactive:
        words[2:2] = ["--interactive", *([] if cage.tty or not sys.stdin.isatty() else ["--tty"])]
    return words


def _run(given: argparse.Namespace, command: Command, cage: Cage, client: Any) -> int:
    for name in leftovers.sweep(client):
        say(f"removed {name}, which an ended run had left")
    for name in leftovers.orphans(client):
        say(f"still at work, its terminal is gone: docker logs -f {name}; docker stop -t 60 {name}")
    if given.detach:
        return detached(client, cage)
    code = attached(client, cage)
    if command.writes:
        say(f"{WORK_DIR} is {command.work_dir.resolve()} here")
    return code


def _become(words: Sequence[str]) -> int:
    if shutil.which(words[0]) is None:
        raise OrchestratorError("--interactive needs the docker command, which is not on PATH", "install Docker's command line")
    sys.stdout.flush()
    os.execvp(words[0], list(words))  # noqa: S606 - the docker command takes this process over
