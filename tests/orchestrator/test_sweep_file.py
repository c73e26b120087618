"""The file of a sweep: what it means, and that anything else is refused before a thing is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator import sweep_file
from orchestrator.errors import OrchestratorError
from orchestrator.sweep_file import Slot, read_sweep
from tests.orchestrator.conftest import ROOT, with_context

GOOD = {
    "slots": [{"gpu": 0}, {"gpu": "cpu", "at_once": 2}],
    "runs": [
        {"name": "ctrgcn", "model": "ctrgcn", "command": "train --recipe ntu60_xsub", "data": "clips.npz",
         "options": "--memory 8g", "each": {"seed": [1, 2], "stream": ["j", "b"]}},
        {"name": "doctor", "model": "baselines", "command": ["sal", "doctor"]},
    ],
}  # fmt: skip


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file of this content; everything there is besides it is clips.npz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "clips.npz").touch()

    def reading(content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        Path("sweep.yaml").write_text(text)
        return read_sweep(Path("sweep.yaml"), Path("work_dir/sweeps/sweep"))

    return reading


def slots(*gpus):
    return {**GOOD, "slots": [gpu if isinstance(gpu, dict) else {"gpu": gpu} for gpu in gpus]}


def with_run(**changed):
    first, second = GOOD["runs"]
    return {**GOOD, "runs": [{key: value for key, value in {**first, **changed}.items() if value is not None}, second]}


def test_one_run_for_each_choice_of_values(read):
    sweep = read(GOOD)
    assert [run.name for run in sweep.runs] == ["ctrgcn-1-j", "ctrgcn-1-b", "ctrgcn-2-j", "ctrgcn-2-b", "doctor"]
    assert sweep.slots == [Slot("", "0"), Slot("", "none", 2)]
    assert (sweep.retries, sweep.back_off, sweep.shared) == (5, 30.0, False)
    run = sweep.runs[3]
    assert run.command.words == (
        "python3", "main.py", "--phase", "train", "--recipe", "ntu60_xsub", "--data", "/workspace/data/clips.npz", "--seed", "2",
        "--stream", "b", "--work-dir", "/workspace/work_dir",
    )  # fmt: skip
    assert run.command.work_dir == Path("work_dir/sweeps/sweep/runs/ctrgcn-2-b")
    given = run.given("1")
    assert (given.model, given.memory, given.gpus) == ("ctrgcn", "8g", "1")


def test_a_work_folder_that_is_named_is_kept(read):
    content = with_run(command="train --recipe ntu60_xsub --work-dir=runs/mine", each=None)
    assert read(content).runs[0].command.work_dir == Path("runs/mine")


def test_what_defines_a_run_is_in_its_digest(read):
    first = read(GOOD).runs
    assert len({run.digest for run in first}) == len(first)
    assert [run.digest for run in read(GOOD).runs] == [run.digest for run in first]
    assert read({**GOOD, "slots": [{"gpu": 3}], "retries": 9}).runs[0].digest == first[0].digest, "where it runs does not"
    assert read(with_run(options="--memory 9g")).runs[0].digest != first[0].digest
    assert read(with_run(command="train --recipe nw_ucla")).runs[0].digest != first[0].digest


def test_nothing_is_made(read, tmp_path):
    read(GOOD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.npz", "sweep.yaml"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system ['touch canary']", "is not YAML"),
        ("[]", "should be a table with slots, runs"),
        ("", "should be a table with slots, runs"),
        ({**GOOD, "slot": []}, "nothing is called 'slot'; did you mean slots?"),
        ({**GOOD, "slots": []}, "slots should be a list with something in it"),
        ({"slots": GOOD["slots"]}, "runs should be a list with something in it"),
        ({**GOOD, "slots": [{"gpus": 0}]}, "slots[0]: nothing is called 'gpus'; did you mean gpu?"),
        ({**GOOD, "slots": [{"context": "default"}]}, "slots[0]: gpu is None"),
        ({**GOOD, "slots": [{"gpu": True}]}, "slots[0]: gpu is True"),
        ({**GOOD, "slots": [{"gpu": "0 1"}]}, "gpu is '0 1', and should be a number, a UUID"),
        ({**GOOD, "slots": [{"gpu": 0, "at_once": 0}]}, "at_once is 0, and should be a whole number of 1 or more"),
        ({**GOOD, "slots": [{"gpu": 0}, {"gpu": "0"}]}, "slots[0] and slots[1] are the same: GPU 0"),
        (slots("0", 0), "slots[0] and slots[1] are the same: GPU 0"),
        (slots("0,1", "1, 0"), "slots[0] and slots[1] are the same: GPU 0,1"),
        (slots("cpu", "none"), "slots[0] and slots[1] are the same: cpu"),
        (slots("0,1", 2, "1"), "slots[0] and slots[2] have a GPU in common: 0,1 and 1"),
        (slots(3, "all"), "slots[0] and slots[1] have a GPU in common: 3 and all"),
        (slots("GPU-ab12", "GPU-AB12,GPU-1"), "slots[0] and slots[1] have a GPU in common"),
        (slots(0, "GPU-ab12"), "slots[0] and slots[1] may be the same GPU: 0 and GPU-ab12"),
        (slots("0,GPU-ab12"), "slots[0]: gpu is '0,GPU-ab12'"),
        (slots("0,all"), "slots[0]: gpu is '0,all'"),
        (slots("auto"), "slots[0]: gpu is 'auto'"),
        (slots("00"), "slots[0]: gpu is '00'"),
        (slots(-1), "slots[0]: gpu is '-1'"),
        (slots(1.5), "slots[0]: gpu is '1.5'"),
        (slots([0]), "slots[0]: gpu is ['0']"),
        (slots({"gpu": 0}, {"gpu": 1, "context": "default"}), "no context and context default are the same engine"),
        ({**GOOD, "retries": -1}, "retries is -1"),
        ({**GOOD, "retries": "0x10"}, "retries is 0x10, and should be a whole number"),
        ("retries: 010\nslots: [{gpu: 0}]\nruns: [{name: a, model: ctrgcn, command: sal doctor}]", "retries is 010"),
        ("slots: []\nslots: [{gpu: 0}]", "'slots' stands there twice"),
        ("slots: [{gpu: 0, 'gpu': 1}]", "'gpu' stands there twice"),
        ("slots: !!int x", "there is a tag, tag:yaml.org,2002:int"),
        ('slots: "\\UFFFFFFFF"', "is not YAML"),
        ("[" * 5000, "it is nested too deep"),
        ("slots: " + "{a: " * 5000, "it is nested too deep"),
        ({**GOOD, "retries": 1.5}, "retries is 1.5, and should be a whole number"),
        ({**GOOD, "back_off": float("nan")}, "back_off is .nan, and should be a number"),
        ({**GOOD, "shared": "yes"}, "shared is 'yes', and should be true or false"),
        (with_run(modle="ctrgcn"), "runs[0]: nothing is called 'modle'; did you mean model?"),
        (with_run(name=None), "runs[0]: no name"),
        (with_run(command=None), "runs[0]: no command"),
        (with_run(name="../up"), "'../up-1-j' is no name"),
        (with_run(name="doctor", each=None), "two runs are called doctor"),
        (with_run(model="ctrgc"), "did you mean ctrgcn?"),
        (with_run(command="train --recipe 'x"), "No closing quotation"),
        (with_run(command={"train": 1}), "command should be a line as it is typed"),
        (with_run(options="--memory lots"), "runs[0]: ctrgcn-1-j: argument --memory: 'lots'"),
        (with_run(options="--gpus 0"), "--gpus is the sweep's to choose"),
        (with_run(options="--detach"), "--detach is the sweep's to choose"),
        (with_run(options="--gpux 0"), "did you mean --gpus?"),
        (with_run(each={"seed": 1}), "each: seed should have a list of values"),
        (with_run(each={"seed": [[1]]}), "each: seed: ['1'] is neither a number nor a word"),
        (with_run(each={"recipe": ["a"]}), "--recipe stands in the command, and recipe in each"),
        (with_run(each={"stream": ["j", "j"]}), "two runs are called ctrgcn-j"),
        (with_run(command="train --recipe x --work-dir runs"), "two runs write to"),
        (with_run(name="Doctor", each=None), "Doctor and doctor are one folder on some file systems"),
        (with_run(each={"tag": ["x", "X"]}), "ctrgcn-x and ctrgcn-X are one folder on some file systems"),
        (
            with_run(command="train --recipe x --work-dir work_dir/sweeps/sweep/runs/doctor", each=None),
            "two runs write to",
        ),
        (
            with_run(command="train --recipe x --work-dir work_dir/sweeps", each=None),
            "the work folder of doctor is in that of ctrgcn, work_dir/sweeps",
        ),
        (
            with_run(command="train --recipe x --work-dir work_dir/sweeps/sweep/runs/doctor/in", each=None),
            "the work folder of ctrgcn is in that of doctor",
        ),
        (
            with_run(each={flag: list(range(10)) for flag in "abcdefg"}),
            "runs[0]: 10000000 runs, 0 before them: a sweep has 10000",
        ),
        (with_run(command="sal doctor"), "data is for train and test"),
    ],
)
def test_anything_else_is_refused(read, tmp_path, content, words):
    with pytest.raises(OrchestratorError) as raised:
        read(content)
    assert words in raised.value.what and raised.value.next_step
    assert raised.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.npz", "sweep.yaml"]


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (with_run(data="nowhere.npz"), "no nowhere.npz on this machine", 66),
        (with_run(options="--mount nowhere:/x"), "no nowhere on this machine", 66),
        ({**GOOD, "slots": [{"gpu": 0, "context": "nowhere"}]}, "no docker context with an engine is called 'nowhere'", 69),
    ],
)
def test_what_is_not_there(read, content, words, code):
    with pytest.raises(OrchestratorError) as raised:
        read(content)
    assert words in raised.value.what and raised.value.exit_code == code


def test_no_file(tmp_path):
    with pytest.raises(OrchestratorError, match="cannot be read") as raised:
        read_sweep(tmp_path / "sweep.yaml", tmp_path)
    assert raised.value.exit_code == 66


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "sweep.yaml")
    code = "import sys, pathlib, orchestrator.sweep_file as it; it.read_sweep(pathlib.Path(sys.argv[1]), pathlib.Path())"
    begun = [sys.executable, "-c", code, tmp_path / "sweep.yaml"]
    done = subprocess.run(begun, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "OrchestratorError" in done.stderr and "sweep.yaml is no regular file" in done.stderr
    with pytest.raises(OrchestratorError, match="is no regular file") as raised:
        read_sweep(tmp_path, tmp_path)
    assert raised.value.exit_code == 2


def test_values_are_what_was_typed(read):
    values = ["010", "0x10", "1_000", "1:30", "1.10", "1e-3", "2024-01-02", "2024-13-45", "-1"]
    texts = [word for word in values if ":" not in word]  # a name has no colon
    run = "{name: a, model: ctrgcn, command: [echo, 010, 1:30], each: {seed: [" + ", ".join(texts) + "]}}"
    sweep = read(f"slots: [{{gpu: 0}}]\nback_off: .5\nretries: 7\nruns: [{run}]")
    assert [one.command.words for one in sweep.runs] == [("echo", "010", "1:30", "--seed", text) for text in texts]
    assert [one.name for one in sweep.runs] == [f"a-{text}" for text in texts]
    assert (sweep.back_off, sweep.retries) == (0.5, 7)


def test_a_key_may_stand_beside_a_merged_one(read):
    text = "slots: [&a {gpu: 0, at_once: 2}, &b {<<: *a, gpu: 1}, {<<: *b, gpu: 2}]\n"
    text += "runs: [{name: a, model: ctrgcn, command: sal doctor}]"
    assert read(text).slots == [Slot("", "0", 2), Slot("", "1", 2), Slot("", "2", 2)]


@pytest.mark.parametrize(
    ("gpu", "gpus"),
    [
        ("1,0,10,2,0", "0,1,2,10"),
        ("all", "all"),
        ("GPU-b2,GPU-a1,GPU-b2", "GPU-a1,GPU-b2"),
        ("MIG-a1", "MIG-a1"),
        ("none", "none"),
    ],
)
def test_gpus_of_a_slot_are_in_order_and_stand_once(read, gpu, gpus):
    assert read(slots(gpu)).slots == [Slot("", gpus)]


def test_slots_with_nothing_in_common(read):
    assert len(read(slots("0,2", 1, "cpu", "10")).slots) == 4
    assert len(read(slots("GPU-a1", "GPU-a2")).slots) == 2


@pytest.mark.parametrize("first", ["", "near", "default"])
def test_one_engine_has_one_name(read, tmp_path, monkeypatch, first):
    """Whatever it is called: the context in use, another one with the same address, none; DOCKER_HOST is before them."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    for name, host in (("near", "unix:///var/run/docker.sock"), ("far", "tcp://far:2375/"), ("far2", "tcp://far:2375")):
        with_context(tmp_path / "docker", name, host)
    far = {"gpu": 0, "context": "far"}
    assert len(read(slots({"gpu": 0, "context": first}, far)).slots) == 2
    others = [name for name in ("", "near", "default") if name != first]
    for pair in [*((first, other) for other in others), ("far", "far2")]:
        with pytest.raises(OrchestratorError, match="are the same engine"):
            read(slots(*({"gpu": i, "context": name} for i, name in enumerate(pair))))
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    with pytest.raises(OrchestratorError, match="no context and context far are the same engine"):
        read(slots(0, far))
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    with pytest.raises(OrchestratorError, match="no context and context far are the same engine"):
        read(slots(0, far))


def test_as_many_runs_as_there_may_be_are_counted_over_all_entries(read, monkeypatch):
    monkeypatch.setattr(sweep_file, "_MOST", 5)
    assert len(read(GOOD).runs) == 5
    monkeypatch.setattr(sweep_file, "_MOST", 4)
    with pytest.raises(OrchestratorError, match=r"runs\[1\]: 1 runs, 4 before them: a sweep has 4 at most"):
        read(GOOD)
