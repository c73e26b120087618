"""`python -m orchestrator run`: arguments without an engine, and real containers of the tiny image."""

from __future__ import annotations

import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import __main__ as verbs
from orchestrator import leftovers, run_command
from orchestrator.discovery import discover
from tests.orchestrator.conftest import ROOT, TEST_IMAGE
from tests.orchestrator.hanging import owned_by

MODEL = "ctrgcn"
CODE = f"""
import sys
from orchestrator import __main__ as verbs, run_command
run_command.image_of = lambda _: {TEST_IMAGE!r}
sys.exit(verbs.main(["run", *sys.argv[1:]]))
"""


def run(folder: Path, *argv: str, **options) -> subprocess.CompletedProcess[str]:
    """The command in a folder, with the tiny image for every model's."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, *argv]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/clips.npz").write_text("clips")
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (["ctrgc"], 2, "did you mean ctrgcn?"),
        ([], 2, "MODEL"),
        ([MODEL, "--gpu", "0"], 2, "did you mean --gpus?"),
        ([MODEL, "--mount", "here"], 2, "HERE:THERE"),
        ([MODEL, "--mount", "a:b:rx"], 2, "HERE:THERE"),
        ([MODEL, "--mount", "nowhere:/x"], 66, "no nowhere on this machine"),
        ([MODEL, "--user", "me"], 2, "UID:GID"),
        ([MODEL, "--memory", "lots"], 2, "amount of memory"),
        ([MODEL, "--detach", "--interactive"], 2, "not allowed with"),
        ([MODEL, "train", "--recipe", "x"], 2, "write -- in front"),
        ([MODEL, "--gpus", "0 1"], 2, "numbers and UUIDs"),
        ([MODEL, "--gpus", ""], 2, "numbers and UUIDs"),
        ([MODEL, "--user", "99999999999:0"], 2, "UID:GID"),
        ([MODEL, "--mount", "/etc:/workspace"], 2, "mounted over each other"),
        ([MODEL, "--mount", "/etc:/tmp"], 2, "mounted over each other"),
        ([MODEL, "--mount", "/etc:/x", "--mount", "/usr:/x/y"], 2, "mounted over each other"),
        ([MODEL, "--work-dir", "/"], 2, "the work folder is / itself"),
        ([MODEL, "--", "train", "--data", "nowhere.npz"], 66, "no nowhere.npz"),
    ],
)
def test_wrong_arguments(argv, code, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert verbs.main(["run", "--dry-run", *argv] if "--detach" not in argv else ["run", *argv]) == code
    err = capsys.readouterr().err
    assert word in err and "next:" in err
    assert list(tmp_path.iterdir()) == [], "nothing is made for a command that is refused"


@pytest.mark.parametrize(("argv", "code"), [([], 0), (["--help"], 0), (["smok"], 2)])
def test_verbs(argv, code, capsys):
    assert verbs.main(argv) == code
    assert "run a command in a model's image" in "".join(capsys.readouterr())


def test_a_dry_run_prints_a_line_and_makes_nothing(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")  # no engine is needed
    monkeypatch.setattr(run_command.shutil, "which", lambda _: None)
    assert verbs.main(["run", MODEL, "--dry-run", "--", "train", "--recipe", "ntu60_xsub", "--data", "data/clips.npz"]) == 0
    words = capsys.readouterr().out
    for part in (
        "docker run --rm --init",
        f"source={folder}/work_dir,target=/workspace/work_dir",
        "--network none",
        f"source={folder}/data/clips.npz,target=/workspace/data/clips.npz,readonly",
        "skeleton-lab:ctrgcn python3 main.py --phase train --recipe ntu60_xsub --data /workspace/data/clips.npz",
    ):
        assert part in words, words
    assert "--gpus" not in words and not (folder / "work_dir").exists()


def test_every_model_can_be_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in discover():
        assert verbs.main(["run", name, "--dry-run", "--gpus", "0", "--", "sal", "plan"]) == 0
        assert f"skeleton-lab:{name} sal plan" in capsys.readouterr().out


@pytest.mark.docker
def test_output_exit_code_and_files(client, busybox, folder):
    script = "echo out; echo err >&2; cat /workspace/data/clips.npz; id -u >/workspace/work_dir/uid; exit 65"
    done = run(folder, MODEL, "--mount", "data:/workspace/data", "--", "sh", "-c", script)
    assert done.returncode == 65, done.stderr
    assert done.stdout.startswith("docker run --rm") and done.stdout.endswith("out\nclips")
    assert done.stderr == "err\n"
    owner = (folder / "work_dir").stat()
    assert (folder / "work_dir/uid").read_text().strip() == str(owner.st_uid)
    assert owner.st_uid == (os.getuid() or 10001)


@pytest.mark.docker
def test_what_is_mounted_without_rw_cannot_be_written(client, busybox, folder):
    done = run(folder, MODEL, "--mount", "data:/workspace/data", "--", "touch", "/workspace/data/new")
    assert done.returncode == 1 and "Read-only" in done.stderr
    assert not (folder / "data/new").exists()


@pytest.mark.docker
def test_root_gets_the_user_whose_folder_it_is(client, busybox, folder):
    if os.getuid() != 0:
        pytest.skip("only root may write for others")
    (folder / "work_dir").mkdir()
    os.chown(folder / "work_dir", 1234, 1234)
    assert run(folder, MODEL, "--", "id", "-u").stdout.endswith("\n1234\n")
    assert run(folder, MODEL, "--user", "77:88", "--", "id", "-g").stdout.endswith("\n88\n")


@pytest.mark.docker
def test_a_missing_image_and_a_missing_program(client, busybox, folder):
    code = CODE.replace(TEST_IMAGE, "skeleton-lab-test:absent")
    done = subprocess.run([sys.executable, "-c", code, MODEL, "--", "true"], cwd=folder, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 1 and "is not on this engine" in done.stderr and "build_all_images.sh" in done.stderr
    assert not (folder / "work_dir").exists()
    assert run(folder, MODEL, "--", "not-a-program").returncode == 127


@pytest.mark.docker
@pytest.mark.parametrize("way", [[], ["--detach"]])
def test_what_the_engine_refuses_at_the_start(client, busybox, folder, way):
    if "nvidia" in client.info().get("Runtimes", {}):
        pytest.skip("this engine has a GPU runtime")
    before = {one.id for one in client.containers.list(all=True)}
    done = run(folder, MODEL, "--gpus", "0", *way, "--", "true")
    assert done.returncode == 1 and "the engine has no GPU runtime" in done.stderr, done.stderr
    made = [one for one in client.containers.list(all=True, ignore_removed=True) if one.id not in before]
    assert not [one.name for one in made if one.name.startswith(f"skeleton-lab-{MODEL}")]


@pytest.mark.docker
@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_output_that_cannot_be_written(client, busybox, folder, where):
    code = "import os; os.close(1)\n" + CODE if where == "closed" else CODE
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, MODEL, "--", "true"], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
    assert "Traceback" not in done.stderr and "docker system prune" not in done.stderr, done.stderr
    assert done.returncode == (0 if where == "closed" else 74), done.stderr


@pytest.mark.docker
def test_a_signal_while_the_container_starts_is_not_forgotten(client, busybox, folder):
    """Sent from inside the call that starts it."""
    code = CODE.replace(
        "sys.exit", "import os, signal\nfrom docker.models.containers import Container\nusual = Container.start\n"
        "def start(self):\n    os.kill(os.getpid(), signal.SIGTERM)\n    usual(self)\nContainer.start = start\nsys.exit",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, MODEL, "--", "sleep", "30"], cwd=folder, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=25)  # fmt: skip
    assert done.returncode == 143, done.stderr


@pytest.mark.docker
def test_killed_for_memory(client, busybox, folder):
    done = run(folder, MODEL, "--memory", "32m", "--", "tail", "/dev/zero")
    assert done.returncode == 137 and "killed for memory at its limit of 32m" in done.stderr


def begun(client, folder: Path, script: str, *argv: str) -> subprocess.Popen[str]:
    """The command, once its container has said "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, MODEL, *argv, "--", "sh", "-c", script],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            return process
    raise AssertionError(process.communicate())


@pytest.mark.docker
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_goes_to_the_command_which_saves_its_state(client, busybox, folder, number, code):
    script = """
        trap 'echo saved >/workspace/work_dir/state; exit 130' INT
        trap 'echo saved >/workspace/work_dir/state; exit 143' TERM
        echo ready; while true; do sleep 0.1; done
    """
    process = begun(client, folder, script)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert (folder / "work_dir/state").read_text() == "saved\n"
    assert owned_by(client, process.pid) == []


@pytest.mark.docker
def test_the_third_signal_kills_what_does_not_listen(client, busybox, folder):
    process = begun(client, folder, "trap '' INT TERM; echo ready; while true; do sleep 0.1; done")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=60)
    assert process.returncode == 137
    assert owned_by(client, process.pid) == []


@pytest.mark.docker
def test_nobody_reads_any_more(client, busybox, folder):
    process = begun(client, folder, "trap 'exit 143' TERM; echo ready; while true; do echo more; sleep 0.05; done")
    process.stdout.close()
    assert process.wait(timeout=60) == 143
    process.stderr.close()
    assert owned_by(client, process.pid) == []


@pytest.mark.docker
def test_a_training_goes_on_when_its_terminal_is_killed_and_is_swept_when_it_has_ended(client, busybox, folder):
    process = begun(client, folder, "echo ready; while [ ! -e /workspace/work_dir/end ]; do sleep 0.1; done")
    process.kill()
    process.communicate(timeout=60)
    [container] = owned_by(client, process.pid)
    try:
        assert leftovers.sweep(client) == [] and container.name in leftovers.orphans(client)
        again = run(folder, MODEL, "--", "true")
        assert again.returncode == 0 and f"docker stop -t 60 {container.name}" in again.stderr
        (folder / "work_dir/end").touch()
        container.wait(timeout=30)
        assert f"removed {container.name}" in run(folder, MODEL, "--", "true").stderr
        assert owned_by(client, process.pid) == []
    finally:
        leftovers.remove(container)


@pytest.mark.docker
def test_detached(client, busybox, folder):
    done = run(folder, MODEL, "--detach", "--", "sh", "-c", "echo hello; sleep 60")
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[-1].split()[0]
    container = client.containers.get(name)
    try:
        assert container.status == "running" and f"docker logs -f {name}" in done.stdout
        assert leftovers.sweep(client) == []
    finally:
        leftovers.remove(container)


@pytest.mark.docker
def test_in_a_terminal_the_command_has_one_of_the_same_size(client, busybox, folder):
    if not hasattr(pty, "openpty"):
        pytest.skip("no pseudo-terminals here")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    script = "sleep 1; test -t 1 && busybox stty size"
    process = subprocess.Popen([sys.executable, "-c", CODE, MODEL, "--", "sh", "-c", script], cwd=folder, stdout=theirs,
                               stderr=theirs, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0, said
    assert b"33 111" in said and b"--tty" in said


def test_the_work_folder_cannot_be_made(folder, monkeypatch):
    (folder / "file").touch()
    with pytest.raises(run_command.OrchestratorError, match="cannot be made") as raised:
        run_command.make_folder(folder / "file/runs", "10001:10001")
    assert raised.value.exit_code == 73


def test_a_new_work_folder_is_the_users(folder):
    run_command.make_folder(folder / "a/b", "10001:10001")
    made = (folder / "a/b").stat()
    assert stat.S_ISDIR(made.st_mode) and made.st_uid == (os.getuid() or 10001)
    assert (folder / "a").stat().st_uid == made.st_uid, "the folders above it, too"
