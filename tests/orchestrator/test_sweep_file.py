"""The file of a sweep: what it means, and that anything else is refused before a thing is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.errors import OrchestratorError
from orchestrator.sweep_file import Slot, read_sweep

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
        ({**GOOD, "slots": [{"gpu": "0 1"}]}, "numbers and UUIDs"),
        ({**GOOD, "slots": [{"gpu": 0, "at_once": 0}]}, "at_once is 0, and should be a whole number of 1 or more"),
        ({**GOOD, "slots": [{"gpu": 0}, {"gpu": "0"}]}, "two slots are the same"),
        ({**GOOD, "retries": -1}, "retries is -1"),
        ({**GOOD, "retries": 1.5}, "retries is 1.5, and should be a whole number"),
        ({**GOOD, "back_off": float("nan")}, "back_off is nan"),
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
        (with_run(each={"seed": [[1]]}), "each: seed: [1] is neither a number nor a word"),
        (with_run(each={"recipe": ["a"]}), "--recipe stands in the command, and recipe in each"),
        (with_run(each={"stream": ["j", "j"]}), "two runs are called ctrgcn-j"),
        (with_run(command="train --recipe x --work-dir runs"), "two runs write to"),
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
