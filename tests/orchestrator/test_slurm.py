"""docs/cluster/slurm-apptainer.sbatch, with stand-ins for what a cluster has."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.orchestrator.documented import SBATCH, WORK_DIR, main_py, section
from tests.orchestrator.test_dockerfiles import program

SBATCH_OPTIONS = {
    "account", "array", "begin", "chdir", "clusters", "comment", "constraint", "cpus-per-gpu", "cpus-per-task", "dependency",
    "error", "exclude", "exclusive", "export", "gpus", "gpus-per-node", "gpus-per-task", "gres", "hint", "input", "job-name",
    "kill-on-invalid-dep", "licenses", "mail-type", "mail-user", "mem", "mem-per-cpu", "mem-per-gpu", "nice", "no-requeue",
    "nodelist", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "partition", "priority", "qos",
    "requeue", "reservation", "signal", "threads-per-core", "time", "time-min", "tmp", "verbose", "wait", "wrap",
}  # fmt: skip
"""Long options of sbatch(1)."""

APPTAINER = """#!/usr/bin/env bash
# Stands in for apptainer: writes down how it was called, then does as APPTAINER_DOES says.
printf '%s\\n' "$@" >"$FAKES/arguments"
printf '%s\\n' "${APPTAINERENV_CUDA_VISIBLE_DEVICES-none}" >"$FAKES/gpu"
case $APPTAINER_DOES in
    end\\ *) exit "${APPTAINER_DOES#end }" ;;
    save\\ *) trap 'echo TERM >>"$FAKES/heard"; sleep 0.5; exit "${APPTAINER_DOES#save }"' TERM ;;
esac
touch "$FAKES/started"
for _ in $(seq 1200); do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$FAKES/scontrol"
"""


@dataclass
class Slurm:
    """A folder with stand-ins for what the script calls, and the environment that finds them first."""

    folder: Path
    environment: dict[str, str]

    def start(self, *words: str, does: str = "end 0", **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", SBATCH, *words], cwd=self.folder, env={**self.environment, "APPTAINER_DOES": does, **more},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str, does: str = "end 0", **more: str) -> tuple[int, str]:
        script = self.start(*words, does=does, **more)
        out, _ = script.communicate(timeout=60)
        return script.returncode, out

    def signalled(self, *numbers: signal.Signals, does: str, **more: str) -> tuple[int, str]:
        """Run it until the training has begun, then send these; each once the training has heard of the one before."""
        script = self.start("ctrgcn", "--recipe", "ntu60_xsub", does=does, **more)
        end = time.monotonic() + 60
        for number, sign in zip(numbers, ("started", "heard"), strict=False):
            while not (self.folder / sign).exists():
                assert script.poll() is None, script.communicate()[0]
                assert time.monotonic() < end, f"nothing was {sign}"
                time.sleep(0.02)
            script.send_signal(number)
        out, _ = script.communicate(timeout=60)
        return script.returncode, out

    def told(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apptainer", APPTAINER), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "ctrgcn.sif").touch()
    (tmp_path / "some data").mkdir()
    (tmp_path / "some data/NTU60_CS.npz").touch()
    (tmp_path / "scratch").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "CUDA", "APPTAINER"))}
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}", "FAKES": str(tmp_path), "DATA": "some data/NTU60_CS.npz",
        "SLURM_JOB_ID": "4711", "TMPDIR": str(tmp_path / "scratch"),
    }  # fmt: skip
    return Slurm(tmp_path, {**kept, **own})


def test_shellcheck_of_the_script() -> None:
    done = subprocess.run([program("shellcheck"), SBATCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_options_of_sbatch() -> None:
    text = SBATCH.read_text()
    options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert all(re.fullmatch(r"--[\w-]+(=\S+)?", option) for option in options)
    names = {option[2:].partition("=")[0] for option in options}
    assert names <= SBATCH_OPTIONS
    assert {"gres", "time", "signal", "requeue"} <= names
    # sbatch reads them up to the first command
    assert "#SBATCH" not in text[text.index("set -euo pipefail") :]
    signalled = next(option for option in options if option.startswith("--signal="))
    assert f"`{signalled}`" in section("### Slurm and Apptainer")


def test_the_script_runs_the_model_in_its_image(slurm: Slurm) -> None:
    code, out = slurm.run("ctrgcn", "--recipe", "ntu60_xsub", "--stream", "b", CUDA_VISIBLE_DEVICES="2")
    assert code == 0, out
    words = slurm.told("arguments")
    image = words.index(str(slurm.folder / "ctrgcn.sif"))
    before, command = words[:image], words[image + 1 :]
    assert before[0] == "exec"
    assert {"--nv", "--containall"} <= set(before)
    assert before[before.index("--pwd") + 1] == "/workspace/models/ctrgcn"
    binds = [value for flag, value in itertools.pairwise(before) if flag == "--bind"]
    assert binds == [f"{slurm.folder}/some data:/workspace/data:ro", f"{slurm.folder}/work_dir:{WORK_DIR}"]
    assert (slurm.folder / "work_dir").is_dir()
    assert command[:2] == ["python3", "main.py"]
    settings = main_py(tuple(command[2:]), "ctrgcn")
    assert (settings.recipe, settings.stream, settings.data) == ("ntu60_xsub", "b", "/workspace/data/NTU60_CS.npz")
    assert settings.resume == "auto"
    assert settings.save_steps > 0
    assert slurm.told("gpu") == ["2"]
    assert slurm.told("scontrol") == []
    assert list((slurm.folder / "scratch").iterdir()) == [], "it leaves its scratch folder behind"


def test_the_users_flags_win(slurm: Slurm) -> None:
    slurm.run("ctrgcn", "--recipe", "smoke", "--device", "cpu", "--save-steps", "7")
    words = slurm.told("arguments")
    settings = main_py(tuple(words[words.index("main.py") + 1 :]), "ctrgcn")
    assert (settings.device, settings.save_steps) == ("cpu", 7)


def test_time_is_up_saved_and_queued_again(slurm: Slurm) -> None:
    code, out = slurm.signalled(signal.SIGUSR1, does="save 143")
    assert slurm.told("heard") == ["TERM"]
    assert slurm.told("scontrol") == ["requeue 4711"], out
    assert code == 143


def test_a_second_signal_does_not_hide_how_the_run_ended(slurm: Slurm) -> None:
    code, out = slurm.signalled(signal.SIGUSR1, signal.SIGTERM, does="save 143")
    assert code == 143, out
    assert slurm.told("scontrol") == ["requeue 4711"]


@pytest.mark.parametrize(("does", "expected"), [("save 0", 0), ("save 70", 70)])
def test_a_run_that_ended_by_itself_is_not_queued_again(slurm: Slurm, does: str, expected: int) -> None:
    code, _ = slurm.signalled(signal.SIGUSR1, does=does)
    assert code == expected
    assert slurm.told("scontrol") == []


def test_scancel_saves_and_ends(slurm: Slurm) -> None:
    code, _ = slurm.signalled(signal.SIGTERM, does="save 143")
    assert slurm.told("heard") == ["TERM"]
    assert slurm.told("scontrol") == []
    assert code == 143


def test_it_is_not_queued_for_ever(slurm: Slurm) -> None:
    code, out = slurm.signalled(signal.SIGUSR1, does="save 143", SLURM_RESTART_COUNT="3", RESTARTS="3")
    assert code == 143
    assert "3 times" in out
    assert slurm.told("scontrol") == []


@pytest.mark.parametrize("ended", [2, 65, 66, 76])
def test_its_exit_code_is_that_of_the_run(slurm: Slurm, ended: int) -> None:
    assert slurm.run("ctrgcn", does=f"end {ended}")[0] == ended
    assert slurm.told("scontrol") == []


@pytest.mark.parametrize(
    ("words", "more", "code", "said"),
    [
        ((), {}, 2, "no model"),
        (("msg3d",), {}, 66, "msg3d.sif"),
        (("ctrgcn",), {"IMAGE": "other.sif"}, 66, "other.sif"),
        (("ctrgcn",), {"DATA": "none.npz"}, 66, "none.npz"),
        (("ctrgcn",), {"DATA": ""}, 66, "DATA="),
        (("ctrgcn",), {"WORK_DIR": "/dev/null/x"}, 73, "WORK_DIR="),
        (("ctrgcn",), {"APPTAINER": "no-such-apptainer"}, 69, "no-such-apptainer"),
    ],
)
def test_what_is_missing_is_named(slurm: Slurm, words: tuple[str, ...], more: dict[str, str], code: int, said: str) -> None:
    ended, out = slurm.run(*words, **more)
    assert (ended, said in out) == (code, True), out
    assert slurm.told("arguments") == []
