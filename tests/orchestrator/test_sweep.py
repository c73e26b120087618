"""`python -m orchestrator sweep` with a real engine and the tiny image: twice, killed, interrupted, over two contexts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator import leftovers, sweep_journal
from tests.orchestrator.conftest import ROOT, TEST_IMAGE, absent, with_context
from tests.orchestrator.test_killed import Between

pytestmark = pytest.mark.docker

CODE = f"""
import sys
from orchestrator import __main__ as verbs, run_command, sweep_hosts, sweep_queue
run_command.image_of = sweep_hosts.image_of = lambda _: {TEST_IMAGE!r}
sweep_queue._AWAY = 0.5
sys.exit(verbs.main(["sweep", *sys.argv[1:]]))
"""
CPU = {"gpu": "cpu", "at_once": 2}


def begin(folder: Path, *argv: str, **variables: str) -> subprocess.Popen[str]:
    """The command in a folder, with the tiny image for every model's."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "sweep.yaml", *argv], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def sweep(folder: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same to its end."""
    process = begin(folder, *argv, **variables)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def written(folder: Path, *runs: dict[str, object], slots: list[dict[str, object]] | None = None, **settings: object) -> None:
    """The file of a sweep."""
    content = {"slots": slots or [CPU], "runs": [{"model": "ctrgcn", **run} for run in runs], "back_off": 0.1, **settings}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))


def shell(name: str, script: str, **more: object) -> dict[str, object]:
    return {"name": name, "command": ["sh", "-c", f"echo begun >>/workspace/work_dir/begun; {script}"], **more}


def starts(folder: Path) -> dict[str, int]:
    """Run -> how often its container ran."""
    return {
        one.parent.name: len(one.read_text().splitlines()) for one in sorted(folder.glob("work_dir/sweeps/sweep/runs/*/begun"))
    }


def events(folder: Path) -> list[dict[str, object]]:
    return list(sweep_journal.looked_at(folder / "work_dir/sweeps/sweep")[0])


def ours(client, folder: Path) -> list[str]:
    """The containers of the sweep."""
    label = events(folder)[0]["id"]
    found = client.containers.list(all=True, filters={"label": f"{leftovers.RUN}={label}"}, ignore_removed=True)
    return [one.name for one in found]


@pytest.fixture
def folder(client, busybox, tmp_path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    yield tmp_path
    if events(tmp_path):
        leftovers.remove_run(client, str(events(tmp_path)[0]["id"]))


def until(process: subprocess.Popen[str], words: str) -> None:
    """Read what the command says until there is a line with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(process.communicate())


def test_a_whole_sweep_and_the_same_again(client, folder):
    written(
        folder,
        shell("grid", "echo $0 $1 $2 $3 >/workspace/work_dir/said", each={"seed": [1, 2], "stream": ["j", "b"]}),
        shell("bad", "echo error: wrong data; echo; echo next: look; exit 65"),
        shell("again", "test -e /workspace/work_dir/state && exit 0; touch /workspace/work_dir/state; exit 143"),
    )
    done = sweep(folder)
    assert done.returncode == 1, done.stderr
    assert "5 of 6 done, 1 failed" in done.stdout
    assert "again: exit code 143; again in 0 s, 1 of 5 retries" in done.stderr
    assert starts(folder) == {"again": 2, "bad": 1, "grid-1-b": 1, "grid-1-j": 1, "grid-2-b": 1, "grid-2-j": 1}
    runs = folder / "work_dir/sweeps/sweep/runs"
    assert (runs / "grid-2-b/said").read_text() == "--seed 2 --stream b\n"
    assert (runs / "grid-2-b").stat().st_uid == (os.getuid() or 10001)
    assert (folder / "work_dir/sweeps/sweep/logs/bad-1.log").read_text() == "error: wrong data\n\nnext: look\n"
    assert [event["why"] for event in events(folder) if event["event"] == "ended" and event["run"] == "bad"] == [
        "error: wrong data"
    ]
    assert ours(client, folder) == []
    before = starts(folder)
    repeated = sweep(folder)
    assert repeated.returncode == 1 and repeated.stdout == done.stdout and repeated.stderr == ""
    assert starts(folder) == before


def test_status_and_page(client, folder):
    written(folder, shell("a", "echo at work; sleep 60"), shell("b", "true"), slots=[{"gpu": "cpu"}])
    runs = folder / "work_dir/sweeps/sweep/runs"
    (runs / "b").mkdir(parents=True)
    (runs / "b/metrics.json").write_text(json.dumps({"selection": {"last": {"top1": 0.9012}, "best_on_test": {"top1": 0.905}}}))
    process = begin(folder)
    until(process, "a: started")
    try:
        time.sleep(0.5)
        told = sweep(folder, "--status", "--html", "page.html")
        assert told.returncode == 0, told.stderr
        assert "0 of 2 done, 1 running, 1 waiting" in told.stdout and "no process" not in told.stdout
        assert "at work" in told.stdout and "90.12" in told.stdout and "90.50" in told.stdout
        assert "0 of 2 done" in (folder / "page.html").read_text()
        refused = sweep(folder)
        assert refused.returncode == 73 and f"in use by process {process.pid} on" in refused.stderr
    finally:
        process.kill()
        process.communicate(timeout=60)
    told = sweep(folder, "--status")
    assert "1 running, 1 waiting; no process is at work on it" in told.stdout


def test_an_interrupt_saves_every_run_and_the_same_command_goes_on(client, folder):
    script = """
        test -e /workspace/work_dir/state && exit 0
        trap 'echo saved >/workspace/work_dir/state; exit 130' INT; echo ready; while true; do sleep 0.1; done
    """
    written(folder, shell("a", script), shell("b", script))
    process = begin(folder)
    until(process, ": started")
    until(process, ": started")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; no run is at work" in err, err
    assert ours(client, folder) == []
    assert [(folder / f"work_dir/sweeps/sweep/runs/{name}/state").read_text() for name in "ab"] == ["saved\n"] * 2
    done = sweep(folder)
    assert done.returncode == 0 and starts(folder) == {"a": 2, "b": 2}, done.stderr


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_random_moments_no_run_is_lost_or_repeated(client, folder, kills):
    names = [f"run{i}" for i in range(2 * kills)]
    written(folder, *(shell(name, "sleep 0.5; echo end >>/workspace/work_dir/ended") for name in names))
    draw, killed = random.Random(kills), 0
    while killed < kills or len(starts(folder)) < kills:  # a slow machine gets more of them, and later ones
        assert killed < 10 * kills
        process = begin(folder)
        while not sweep_journal.looked_at(folder / "work_dir/sweeps/sweep")[1]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 1.5 + 0.2 * killed / kills))
        process.kill()
        process.communicate(timeout=60)
        killed += 1
    begun = len(starts(folder))
    done = sweep(folder)
    assert done.returncode == 0, done.stderr
    print(f"killed {killed} times; {begun} of {len(names)} runs had begun by then")
    assert starts(folder) == dict.fromkeys(sorted(names), 1)
    assert ours(client, folder) == []


def test_what_runs_when_the_sweep_is_killed_is_neither_ended_nor_begun_again(client, folder):
    written(folder, shell("a", "while [ ! -e /workspace/work_dir/end ]; do sleep 0.1; done; exit 65"))
    process = begin(folder)
    until(process, "a: started")
    process.kill()
    process.communicate(timeout=60)
    [name] = ours(client, folder)
    assert leftovers.sweep(client) == [] and name not in leftovers.orphans(client)
    (folder / "work_dir/sweeps/sweep/runs/a/end").touch()
    client.containers.get(name).wait(timeout=30)
    assert leftovers.sweep(client) == [], "its exit code is still wanted"
    done = sweep(folder)
    assert done.returncode == 1 and "a: failed, exit code 65" in done.stderr
    assert starts(folder) == {"a": 1} and ours(client, folder) == []


def test_what_the_engine_refuses(client, folder):
    if "nvidia" in client.info().get("Runtimes", {}):
        pytest.skip("this engine has a GPU runtime")
    written(folder, shell("a", "true"), slots=[{"gpu": 0}], retries=1)
    done = sweep(folder)
    assert done.returncode == 1 and "the engine has no GPU runtime" in done.stderr, done.stderr
    assert ours(client, folder) == [] and starts(folder) == {}


@pytest.fixture
def lab(tmp_path) -> Path:
    """Settings of docker with a context "lab", whose engine is at a socket of its own."""
    config = tmp_path / "docker"
    with_context(config, "lab", f"unix://{tmp_path}/lab.sock")
    return config


def test_two_hosts_of_which_one_goes_away_and_comes_back(client, folder, lab):
    if not Path("/var/run/docker.sock").exists():
        absent("the engine is not at /var/run/docker.sock")
    between = Between(folder / "lab.sock")
    waits = "while [ ! -e /workspace/work_dir/end ]; do sleep 0.1; done"
    slots = [{"gpu": "cpu"}, {"context": "lab", "gpu": "cpu"}]
    written(folder, shell("a", "true"), shell("b", waits), shell("c", "true"), slots=slots)
    process = begin(folder, DOCKER_CONFIG=str(lab))
    try:
        until(process, "b: started on context lab")
        between.cut()
        until(process, "context lab is set aside")
        until(process, "c: done")
        between = Between(folder / "lab.sock")
        until(process, "context lab answers again")
        (folder / "work_dir/sweeps/sweep/runs/b/end").touch()
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate(timeout=60)
        between.cut()
    assert process.returncode == 0 and "3 of 3 done" in out
    assert starts(folder) == {"a": 1, "b": 1, "c": 1} and ours(client, folder) == []


def test_no_engine(folder):
    written(folder, shell("a", "true"))
    done = sweep(folder, DOCKER_HOST=f"unix://{folder}/nowhere.sock")
    assert done.returncode == 69 and "no Docker engine runs here" in done.stderr and "next:" in done.stderr
