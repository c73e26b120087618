"""Several processes train as one: real ones, started by torchrun, over gloo on the CPU.

How close is close: a sum over processes adds the same float32 numbers in another order than one process does. That moves each
result by about one part in 2**24 (6e-8), which a few dozen steps carry on; measured are 2e-7 for loss and gradient norm in six
steps, and CLOSE leaves room for fifty times that. A share that is weighted wrongly is off by more than 1e-2.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine import distributed
from engine.checkpoint import read
from engine.config import RunConfig, parse
from engine.distributed import Place, World, meeting, own_device, place, require_shares
from engine.errors import ConfigError, PeerError
from engine.evaluate import _whole
from engine.metrics import Scores
from engine.runfolder import read_log
from engine.shared_batchnorm import SharedBatchNorm
from sal.__main__ import main
from shared_data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[2]
CLOSE = 1e-5
TIMELESS = ("seconds", "clips_per_s", "rss_mib", "peak_allocated_mib", "peak_reserved_mib")


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 training and 9 test clips: neither count can be divided by two or four."""
    file = tmp_path_factory.mktemp("data") / "odd_synthetic.npz"
    return write_synthetic(file, classes=3, train_per_class=7, test_per_class=3, frames=40, seed=3)


@pytest.fixture(scope="module")
def flags(odd_data: Path) -> list[str]:
    """Two epochs of four steps. Batches of five: shares of three and two. Test batches of two: three batches and two."""
    return ["--recipe", "tiny_cpu", "--num-epoch", "2", "--batch-size", "5", "--test-batch-size", "2", "--device", "cpu",
            "--train-window-size", "16", "--test-window-size", "16", "--log-interval", "1", "--data", str(odd_data),
            "--lr-schedule", "step", "--model-args", "{architecture: mlp, dropout: 0}", "--sync-batchnorm"]  # fmt: skip


def torchrun(processes: int, words: list[str], *options: str) -> list[str]:
    """The command line."""
    how = [] if "--rdzv-backend" in options else ["--standalone"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *how, "--nproc-per-node", str(processes), *options]
    return [*launcher, *words]


def sal(flags: list[str], folder: Path, *more: str) -> list[str]:
    return ["-m", "sal", "train", "baselines", *flags, "--work-dir", str(folder), *more]


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False, cwd=ROOT, env=environment(), **options
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def alone(flags: list[str], folder: Path, *more: str) -> Path:
    assert main(["train", "baselines", *flags, "--work-dir", str(folder), *more]) == 0
    return folder


@pytest.fixture(scope="module")
def one(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, not interrupted."""
    return alone(flags, tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def two(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two; what was printed is in `said` beside it."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    done = run(torchrun(2, sal(flags, folder)))
    assert done.returncode == 0, done.stderr
    (folder.parent / "said").write_text(done.stdout)
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in TIMELESS} for event in read_log(folder / "log.jsonl")]


def assert_close(a: Path, b: Path, tolerance: float = CLOSE) -> None:
    """Log, weights, BatchNorm statistics, momentum and scores are the same but for rounding."""
    for one, other in zip(events(a), events(b), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == (value if isinstance(value, str) else pytest.approx(value, rel=tolerance)), (one, other)
    states = [read(f / "checkpoints/last.safetensors")[0] for f in (a, b)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=tolerance, atol=tolerance)
    with np.load(a / "scores.npz") as one, np.load(b / "scores.npz") as other:
        np.testing.assert_array_equal(one["ids"], other["ids"])
        np.testing.assert_array_equal(one["labels"], other["labels"])
        largest = np.abs(one["logits"]).max()  # what a logit is rounded by is as large as its summands, not as the logit
        np.testing.assert_allclose(one["logits"], other["logits"], rtol=tolerance, atol=tolerance * largest)


def assert_same_bits(a: Path, b: Path) -> None:
    for name in ("last", "best"):
        one, other = (read(f / "checkpoints" / f"{name}.safetensors")[0] for f in (a, b))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert events(a) == events(b)
    with np.load(a / "scores.npz") as one, np.load(b / "scores.npz") as other:
        assert all(np.array_equal(one[key], other[key]) for key in ("ids", "labels", "logits"))


def exit_codes(said: str) -> set[int]:
    """Those of the workers, by torchrun's table."""
    return {int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", said)}


# -- two processes ----------------------------------------------------------------------------------------------------


def test_the_curve_is_that_of_one_process(one: Path, two: Path) -> None:
    assert_close(one, two)
    assert len(np.unique(np.load(two / "scores.npz")["ids"])) == 9


def test_the_first_process_alone_writes_and_speaks(one: Path, two: Path) -> None:
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    said = (two.parent / "said").read_text()
    assert [said.count(words) for words in ("epoch   1/2", "epoch   2/2", "report: ")] == [1, 1, 1]
    assert json.loads((two / "env.json").read_text())["processes"] == 2


def wait_for_step(process: subprocess.Popen[str], log: Path, step: int) -> None:
    for _ in range(12000):
        if any(e.get("step", 0) >= step for e in read_log(log) if e["event"] == "step"):
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended early: {process.communicate()}")
        time.sleep(0.01)
    pytest.fail("no such step in the log after two minutes")


LONG = ["--num-epoch", "200", "--eval-interval", "200"]


def test_sigterm_to_torchrun_saves_once_and_one_process_goes_on(flags: list[str], tmp_path: Path) -> None:
    """The scheduler's way: torchrun is stopped, and passes the signal on to its workers."""
    folder = tmp_path / "run"
    with subprocess.Popen(
        torchrun(2, sal([*flags, *LONG], folder)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(),
    ) as process:  # fmt: skip
        wait_for_step(process, folder / "log.jsonl", 3)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("run the same command again to go on") == 1, said
    header = json.loads(read(folder / "checkpoints/last.safetensors")[1]["position"])
    steps = [e["step"] for e in read_log(folder / "log.jsonl") if e["event"] == "step"]
    assert steps[-1] == header["global_step"] >= 3  # the step that was under way, and no other
    words = [*flags, "--num-epoch", str(header["epoch"] + 2), "--eval-interval", "200"]  # so that it ends soon
    alone(words, folder, "--force")
    # As many steps as it made before it heard the signal, and more: they carry differences further than CLOSE is made for.
    assert_close(alone(words, tmp_path / "straight"), folder, 100 * CLOSE)


FAILING = """
import importlib, os, sys, torch
import engine.train
from sal.__main__ import main

where, at = os.environ["WHERE"].split()
module, calls = importlib.import_module(f"engine.{where}"), 0
real = module.forward

def forward(*arguments):
    global calls
    calls += 1
    if calls == int(at) and os.environ["RANK"] == "1":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return real(*arguments)

module.forward = forward
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("where", "saved"),
    [
        ("step 6", (1, 0)),  # the second step of the second epoch: back to the epoch's start
        pytest.param("evaluate 3", (0, 4), marks=pytest.mark.slow),  # after the rehearsal: the steps before it are saved
    ],
)
def test_a_failure_of_one_process_ends_all_with_its_exit_code(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, saved: tuple[int, int]
) -> None:
    monkeypatch.setenv("WHERE", where)
    folder, words = tmp_path / "run", [flag for flag in flags if flag != "--sync-batchnorm"]
    done = run(torchrun(2, ["--no-python", sys.executable, "-c", FAILING, *sal(words, folder)[2:]]))
    assert done.returncode != 0
    assert exit_codes(done.stderr) <= {75, -15} and 75 in exit_codes(done.stderr), done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Tried to allocate 2 GiB" in done.stderr
    header = json.loads(read(folder / "checkpoints/last.safetensors")[1]["position"])
    assert (header["epoch"], header["step"]) == saved


@pytest.mark.slow
def test_a_process_that_fails_while_the_others_wait_for_its_statistics(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the middle of a pass nobody votes: the others see its connection end."""
    monkeypatch.setenv("WHERE", "step 6")
    done = run(torchrun(2, ["--no-python", sys.executable, "-c", FAILING, *sal(flags, tmp_path / "run")[2:]]))
    assert exit_codes(done.stderr) <= {75, 69, -15} and 75 in exit_codes(done.stderr), done.stderr
    assert "Tried to allocate 2 GiB" in done.stderr


@pytest.mark.slow
def test_processes_that_were_given_different_data_are_refused(flags: list[str], odd_data: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "data_1_synthetic.npz", classes=3, train_per_class=7, test_per_class=4, frames=40, seed=3)
    shutil.copy(odd_data, tmp_path / "data_0_synthetic.npz")
    shell = f'exec {sys.executable} "$@" --data {tmp_path}/data_${{RANK}}_synthetic.npz'
    done = run(torchrun(2, ["--no-python", "bash", "-c", shell, "bash", *sal(flags, tmp_path / "run")]))
    assert done.stderr.count("error: ") == 1 and "do not agree" in done.stderr and "clips: " in done.stderr, done.stderr
    assert exit_codes(done.stderr) <= {2, -15}
    assert not (tmp_path / "run").exists()


# -- more of them, and lost ones ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "micro"), [("6", []), ("4", []), ("8", ["--forward-batch-size", "1"])])
def test_four_processes_train_as_one(flags: list[str], tmp_path: Path, batch: str, micro: list[str]) -> None:
    """Shares of two and one clips, of one each, of two in two pieces; nine test clips."""
    words = [*flags, "--batch-size", batch]
    done = run(torchrun(4, sal(words, tmp_path / "four", *micro)))
    assert done.returncode == 0, done.stderr
    if not micro:  # BatchNorm sees the pieces: of one process one clip at a time, of four four
        assert_close(alone(words, tmp_path / "one"), tmp_path / "four")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_the_bits_stay(flags: list[str], tmp_path: Path) -> None:
    words = [*flags, "--num-epoch", "40", "--eval-interval", "10", "--save-steps", "3"]
    straight = run(torchrun(2, sal(words, tmp_path / "straight")))
    assert straight.returncode == 0, straight.stderr
    folder = tmp_path / "run"
    with subprocess.Popen(
        torchrun(2, sal(words, folder), "--max-restarts", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=environment(),
    ) as process:  # fmt: skip
        wait_for_step(process, folder / "log.jsonl", 6)
        killed = workers(process.pid)[1]
        os.kill(killed, signal.SIGKILL)
        out, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert out.count("resuming: ") == 1, (out, said)
    assert_same_bits(tmp_path / "straight", folder)


@pytest.mark.slow
def test_workers_whose_torchrun_is_killed_save_and_end(flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*flags, "--num-epoch", "4000", "--eval-interval", "4000"]
    nobody = subprocess.DEVNULL
    with subprocess.Popen(
        torchrun(2, sal(words, folder)), cwd=ROOT, env=environment(), stdout=nobody, stderr=nobody, text=True
    ) as process:
        wait_for_step(process, folder / "log.jsonl", 6)
        left = workers(process.pid)
        process.kill()
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in left):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"still there after a minute: {left}")
    steps = [event["step"] for event in read_log(folder / "log.jsonl") if event["event"] == "step"]
    position = json.loads(read(folder / "checkpoints" / "last.safetensors")[1]["position"])
    assert len(left) == 2 and position["global_step"] == steps[-1] >= 6


def workers(launcher: int) -> list[int]:
    """The processes that `launcher` has started, oldest first."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if b"sal" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_nodes_that_count_their_restarts_apart_find_each_other_again(flags: list[str], tmp_path: Path) -> None:
    """Two of torchrun as two nodes. A worker dies; the other node hears of it before its own ends, and counts no restart."""
    words = [*flags, "--num-epoch", "40", "--eval-interval", "20", "--save-steps", "3"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, nodes = tmp_path / "run", []
    how = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two",
           "--local-addr", "127.0.0.1", "--max-restarts", "1")  # fmt: skip
    try:
        for name in "ab":
            with (tmp_path / name).open("w") as said:
                command = torchrun(1, sal(words, folder), *how)
                nodes.append(subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=said, stderr=said, text=True))
        wait_for_step(nodes[0], folder / "log.jsonl", 6)
        (survivor,), (killed,) = (workers(node.pid) for node in nodes)
        os.kill(survivor, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        wait_for_sigterm(survivor)
        os.kill(survivor, signal.SIGCONT)
        codes = [node.wait(timeout=150) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    said = [(tmp_path / name).read_text() for name in "ab"]
    assert codes == [0, 0], said
    assert sum(text.count("resuming: ") for text in said) == 1, said


def wait_for_sigterm(stopped: int) -> None:
    """Until it waits for the `stopped` process."""
    for _ in range(3000):
        (pending,) = re.findall(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{stopped}/status").read_text(), re.MULTILINE)
        if int(pending, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    pytest.fail("no SIGTERM in half a minute")


@pytest.mark.slow
def test_a_run_goes_on_with_more_processes_than_it_began_with(flags: list[str], one: Path, tmp_path: Path) -> None:
    folder = alone(flags, tmp_path / "run", "--num-epoch", "1")
    done = run(torchrun(3, sal(flags, folder, "--force")))
    assert done.returncode == 0, done.stderr
    assert "goes on at epoch 2, step 0" in done.stdout
    assert_close(one, folder)


@pytest.mark.slow
def test_the_untouched_test_set_is_shared_too(flags: list[str], tmp_path: Path) -> None:
    words = [*flags, "--protocol", "honest", "--num-epoch", "1", "--batch-size", "4"]
    done = run(torchrun(2, sal(words, tmp_path / "two")))
    assert done.returncode == 0, done.stderr
    straight = alone(words, tmp_path / "one")
    found = [json.loads((f / "metrics.json").read_text())["test"] for f in (straight, tmp_path / "two")]
    assert found[0]["last"]["confusion"] == found[1]["last"]["confusion"]
    assert found[0]["best_on_validation"]["loss"] == pytest.approx(found[1]["best_on_validation"]["loss"], rel=CLOSE)


@pytest.mark.slow
def test_weights_are_scored_by_two_processes_as_by_one(flags: list[str], one: Path, tmp_path: Path) -> None:
    words = [*flags, "--weights", str(one / "checkpoints/last.safetensors"), "--work-dir", str(tmp_path / "t")]
    done = run(torchrun(2, ["-m", "sal", "test", "baselines", *words]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1
    with np.load(one / "scores.npz") as trained, np.load(tmp_path / "t/scores.npz") as tested:
        np.testing.assert_array_equal(trained["ids"], tested["ids"])
        np.testing.assert_allclose(trained["logits"], tested["logits"], rtol=CLOSE, atol=CLOSE)


@pytest.mark.slow
def test_without_synchronised_statistics_the_curve_is_another(flags: list[str], one: Path, tmp_path: Path) -> None:
    """docs/many-gpus.md says so; the running mean is that of the whole batch all the same."""
    plain = [flag for flag in flags if flag != "--sync-batchnorm"]
    done = run(torchrun(2, sal(plain, tmp_path / "two")))
    assert done.returncode == 0, done.stderr
    states = [read(f / "checkpoints/last.safetensors")[0] for f in (one, tmp_path / "two")]
    mean, variance = (f"model/network.standardise.running_{name}" for name in ("mean", "var"))
    torch.testing.assert_close(states[0][mean], states[1][mean], rtol=CLOSE, atol=CLOSE)
    assert not torch.allclose(states[0][variance], states[1][variance], rtol=1e-3)


# -- two nodes --------------------------------------------------------------------------------------------------------


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def two_nodes() -> Iterator[list[tuple[str, str]]]:
    """(namespace, interface) of two network namespaces with a cable between them: 10.99.0.1 and 10.99.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces as nodes need root and the program ip")
    nodes = [(f"sal{os.getpid()}{letter}", f"v{letter}{os.getpid()}") for letter in "ab"]
    made = []
    try:
        try:
            for name, _ in nodes:
                ip("netns", "add", name)
                made.append(name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespace: {error.stderr.strip()}")
        (a, at_a), (b, at_b) = nodes
        ip("link", "add", at_a, "netns", a, "type", "veth", "peer", "name", at_b, "netns", b)
        for number, (name, interface) in enumerate(nodes, 1):
            ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield nodes
    finally:
        for name in made:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_nodes_outlive_a_cut_cable(flags: list[str], two_nodes: list[tuple[str, str]], tmp_path: Path) -> None:
    """While it is cut no step is made; afterwards the run goes on by itself, with the bits of two processes on one node."""
    words = [*flags, "--num-epoch", "60", "--eval-interval", "60"]
    folder, processes = tmp_path / "run", []
    try:
        for rank, (name, interface) in enumerate(two_nodes):
            where = ("--nnodes", "2", "--node-rank", str(rank), "--master-addr", "10.99.0.1", "--master-port", "29500")
            command = torchrun(1, sal(words, folder), *where)
            command.remove("--standalone")
            variables = {**environment(), "GLOO_SOCKET_IFNAME": interface}
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", name, *command],
                    cwd=ROOT,
                    env=variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        wait_for_step(processes[0], folder / "log.jsonl", 6)
        name, interface = two_nodes[1]
        ip("-n", name, "link", "set", interface, "down")
        time.sleep(1)
        cut = len(events(folder))
        time.sleep(4)
        assert len(events(folder)) == cut < 4 * 60
        ip("-n", name, "link", "set", interface, "up")
        said = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    done = run(torchrun(2, sal(words, tmp_path / "near")))
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "near", folder)


# -- pieces -----------------------------------------------------------------------------------------------------------


def test_one_process_without_torchrun() -> None:
    assert place() == Place()
    world = World()
    assert world.first and world.gather(3) == [3] and world.from_first(lambda: 4) == 4 and world.mine(5) == slice(0, 5, 1)


def test_processes_meet_past_what_dead_ones_left() -> None:
    """In one store, as torchrun keeps it: a start that did not succeed, and two that did."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    store.set("call/2", "of a process that is dead")
    names = []
    for _ in range(2):
        with ThreadPoolExecutor(3) as processes:
            first = processes.submit(meeting, store, 0, 3)
            time.sleep(0.1)  # it finds the dead one's call before the living ones'
            others = [processes.submit(meeting, store, rank, 3) for rank in (1, 2)]
            names.append({process.result(30) for process in (first, *others)})
    assert [len(found) for found in names] == [1, 1] and names[0] != names[1]


@pytest.fixture
def second_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_of_four")
def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device("auto") == own_device("cuda") == "cuda:1"
    with pytest.raises(ConfigError, match="each takes a GPU of its own"):
        own_device("0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="4 processes on this machine, and torch sees 2 GPUs"):
        own_device("auto")


@pytest.mark.usefixtures("second_of_four")
def test_a_fit_is_refused(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "baselines", *flags, "--fit", "8GiB", "--work-dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == ""  # the first process of the machine says it
    os.environ["LOCAL_RANK"] = "0"
    assert main(["train", "baselines", *flags, "--fit", "8GiB", "--work-dir", str(tmp_path / "run")]) == 2
    assert "--fit with 4 processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch-size", "3"], "a batch of 3 clips for 4 processes"),
        (["--sync-batchnorm", "--cuda-graphs"], "--cuda-graphs with --sync-batchnorm"),
        (["--sync-batchnorm", "--compile"], "--compile with --sync-batchnorm"),
        (["--sync-batchnorm", "--batch-size", "6", "--forward-batch-size", "1"], "no equal shares"),
    ],
)
def test_settings_that_cannot_be_shared(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_shares(settings(*words), 4)


def settings(*words: str) -> RunConfig:
    return parse(["--recipe", "tiny_cpu", *words], model="baselines")


def test_settings_that_can() -> None:
    for words in (["--cuda-graphs"], ["--compile"], ["--sync-batchnorm", "--batch-size", "8", "--forward-batch-size", "1"]):
        require_shares(settings(*words), 4)


@pytest.mark.parametrize("count", [4, 5, 9])
def test_scores_of_shares_are_put_back_in_order(count: int) -> None:
    ids = np.array([f"clip_{n}" for n in range(count)])
    whole = Scores(ids, np.arange(count), np.arange(count * 2.0).reshape(count, 2))
    parts = [Scores(*(getattr(whole, name)[rank::4] for name in ("ids", "labels", "logits"))) for rank in range(4)]
    found = _whole(parts)
    assert all(np.array_equal(getattr(found, name), getattr(whole, name)) for name in ("ids", "labels", "logits"))
    with pytest.raises(AssertionError, match="there twice"):
        _whole([parts[1], *parts[1:]])


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_shared_batchnorm_is_batchnorm(options: dict[str, Any]) -> None:
    """In float64; how it sums over processes, whole runs show."""
    torch.manual_seed(0)
    usual = nn.BatchNorm2d(3, **options).double()
    for parameter in usual.parameters():
        nn.init.normal_(parameter)
    shared = SharedBatchNorm.like(usual)
    assert {**shared.state_dict()}.keys() == {**usual.state_dict()}.keys()
    usual = type(usual)(3, **options).double().train()
    usual.load_state_dict(shared.state_dict())
    for _ in range(2):
        x, wish = torch.randn(4, 3, 5, 2, dtype=torch.float64) * 3 + 10, torch.randn(4, 3, 5, 2, dtype=torch.float64)
        given = [x.clone().requires_grad_() for _ in range(2)]
        results = [bn(clips) for bn, clips in zip((usual, shared), given, strict=True)]
        for result in results:
            result.backward(wish)
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(given[0].grad, given[1].grad)
        for a, b in zip(usual.parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for name, value in usual.state_dict().items():
            torch.testing.assert_close(value, shared.state_dict()[name])
    torch.testing.assert_close(usual.eval()(x), shared.eval()(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert shared.train()(x.bfloat16()).dtype == torch.bfloat16


def test_who_tells_the_user(monkeypatch: pytest.MonkeyPatch, second_of_four: None) -> None:
    assert distributed.told_elsewhere(ConfigError("wrong"))  # all fail alike before they have met
    monkeypatch.setattr(distributed, "_joined", True)
    assert not distributed.told_elsewhere(ConfigError("wrong"))
    assert distributed.told_elsewhere(PeerError(75, "another", told=True))
