"""Arguments, exit codes and the report, with a faked engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from docker import errors

from orchestrator import discovery, smoke_command
from orchestrator.errors import OrchestratorError
from orchestrator.smoke import Plan, job_of, side_by_side
from orchestrator.verdict import Verdict
from tests.orchestrator.conftest import ROOT


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with two models that have Dockerfiles and one that has none."""
    for name in ("ctrgcn", "hypergcn", "bare"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.toml").touch()
    (tmp_path / "dockerfiles").mkdir()
    for name in ("ctrgcn", "hypergcn"):
        (tmp_path / "dockerfiles" / f"{name}.Dockerfile").touch()
    monkeypatch.setattr(smoke_command, "choose", lambda names: discovery.choose(names, tmp_path))
    return tmp_path


@pytest.fixture
def engine(monkeypatch):
    """A faked engine under the real command line: records the plan, gives back the verdicts put in."""

    class Engine:
        plan: Plan | None = None
        verdicts: tuple[Verdict, ...] = ()

        def close(self) -> None:
            pass

    fake = Engine()

    def smoke(client, plan, told):
        fake.plan = plan
        told(plan.models[0], "running")
        return list(fake.verdicts)

    monkeypatch.setattr(smoke_command, "connect", lambda: fake)
    monkeypatch.setattr(smoke_command, "sweep", lambda client: ["left"])
    monkeypatch.setattr(smoke_command, "smoke", smoke)
    return fake


def test_all_passed(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", True, "passed"), Verdict("hypergcn", True, "passed"))
    file = checkout / "out.json"
    assert smoke_command.main(["--json", str(file)]) == 0
    assert engine.plan.models == ["ctrgcn", "hypergcn"]
    assert engine.plan.device == "cpu" and engine.plan.gpu is None
    assert [entry["model"] for entry in json.loads(file.read_text())] == ["ctrgcn", "hypergcn"]
    out = capsys.readouterr().out
    assert "2 of 2 passed" in out and "a killed run had left" in out


def test_a_failure_and_a_missing_verdict_exit_1(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", False, "exit code 3", "see the log", log_tail=("[last] line",)),)
    assert smoke_command.main([]) == 1
    out = capsys.readouterr().out
    assert "exit code 3" in out and "[last] line" in out and "0 of 2 passed" in out


def test_the_first_gpu_unless_another_is_named(checkout, engine):
    smoke_command.main(["ctrgcn", "--use-gpus"])
    assert engine.plan.device == "cuda:0" and engine.plan.gpu == "0"


def test_amounts_of_memory_reach_the_engine_without_blanks(checkout, engine):
    smoke_command.main(["ctrgcn", "--memory", " 512m "])
    assert engine.plan.limits.memory == "512m"


def test_gpus(checkout, engine):
    assert smoke_command.main(["ctrgcn", "--use-gpus", "--gpu", "2"]) == 1  # no verdict came
    assert engine.plan.device == "cuda:0" and engine.plan.gpu == "2"
    job = job_of(engine.plan, "ctrgcn")
    assert job.gpu == "2" and job.command[-2:] == ["--device", "cuda:0"]


def vram(**changed):
    """What a container says of GPU memory."""
    return {
        "limit_gib": 8.0, "recipe": "ntu60_xsub", "batch": 64, "word": "comfortable", "reason": "", "usable_mib": 7424.0,
        "predicted_mib": {"train": 2542.0, "eval": 925.6}, "interval": {"train": [2204.1, 3313.7], "eval": [721.2, 1504.5]},
        "measured_allocated_mib": None, "measured_reserved_mib": None, "measured_note": "not measured (no GPU)", **changed,
    }  # fmt: skip


def test_gpu_memory_is_asked_about_and_shown(checkout, engine, capsys):
    tight = vram(word="tight", reason="fits with --test-batch-size 64 (no number changes)", batch=128,
                 measured_allocated_mib=6012.3, measured_reserved_mib=6420.0, measured_note="")  # fmt: skip
    no = vram(word="no", reason="no lever is enough: it would need a card of 21.3 GiB")
    engine.verdicts = (
        Verdict("ctrgcn", True, "passed", result={"vram": tight}),
        Verdict("hypergcn", False, "ntu60_xsub on 8 GiB of GPU memory: no; no lever is enough", result={"vram": no}),
    )
    file = checkout / "out.json"
    assert smoke_command.main(["--vram-limit", "8", "--json", str(file)]) == 1
    assert engine.plan.vram_limit == 8.0 and engine.plan.gpu is None
    assert list(job_of(engine.plan, "ctrgcn").command[-2:]) == ["--vram-limit", "8"]
    out = " ".join(capsys.readouterr().out.split())
    for words in ("on 8 GiB of GPU memory", "2542 (2204 to 3314)", "926 (721 to 1504)", "6012 allocated, 6420 reserved", "tight",
                  "ctrgcn: fits with --test-batch-size 64", "not measured (no GPU)", "no lever is enough"):  # fmt: skip
        assert words in out, words
    assert [entry["result"]["vram"]["word"] for entry in json.loads(file.read_text())] == ["tight", "no"]


def test_nothing_of_gpu_memory_unless_asked(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", True, "passed", result={"assertions": {"forward": True}}),)
    smoke_command.main(["ctrgcn"])
    assert "GPU memory" not in capsys.readouterr().out
    assert "--vram-limit" not in job_of(engine.plan, "ctrgcn").command


@pytest.mark.parametrize(
    ("argv", "word", "code"),
    [
        (["--vram-limit", "0"], "no size", 2),
        (["--vram-limit", "eight"], "no size", 2),
        (["--vram-limit", "inf"], "no size", 2),
        (["--vram-limits", "8"], "did you mean --vram-limit?", 2),
        (["ctrgc"], "did you mean ctrgcn?", 2),
        (["bare"], "no dockerfiles/bare.Dockerfile", 2),
        (["--use-gpu"], "did you mean --use-gpus?", 2),
        (["--jobs", "0"], "argument --jobs: '0' is no whole number of 1 or more", 2),
        (["--timeout", "-1"], "argument --timeout: '-1' is no number above 0", 2),
        (["--memory", "0"], "argument --memory: '0' is not an amount of memory above 0", 2),
        (["--device", "cuda:0"], "--use-gpus", 2),
        (["--gpu", "1"], "add --use-gpus", 2),
        (["--gpu", "0", "--device", "cpu"], "add --use-gpus", 2),
        (["--data", "/nowhere.npz"], "no data file", 66),
    ],
)
def test_wrong_arguments(checkout, engine, capsys, argv, word, code):
    assert smoke_command.main(argv) == code
    assert word in capsys.readouterr().err
    assert engine.plan is None


def test_no_engine(checkout, monkeypatch, capsys):
    def refuse(**_):
        raise errors.DockerException("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))")

    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")  # whatever context this machine uses
    monkeypatch.setattr("orchestrator.connection.docker.from_env", refuse)
    assert smoke_command.main([]) == 69
    assert "tools/ensure_engine.sh" in capsys.readouterr().err


def interrupted(*_):
    raise KeyboardInterrupt


def test_interrupted(checkout, engine, monkeypatch, capsys):
    monkeypatch.setattr(smoke_command, "smoke", interrupted)
    assert smoke_command.main([]) == 130
    assert capsys.readouterr().err == "error: interrupted; no container is left\n"


def test_an_interrupted_run_writes_nothing_and_says_so(checkout, engine, monkeypatch, capsys):
    monkeypatch.setattr(smoke_command, "smoke", interrupted)
    old, new = checkout / "old.json", checkout / "new.html"
    old.write_text("old")
    before = sorted(checkout.iterdir())
    assert smoke_command.main(["--json", str(old), "--html", str(new)]) == 130
    assert f"nothing was written to {old} and {new}" in capsys.readouterr().err
    assert old.read_text() == "old" and sorted(checkout.iterdir()) == before


def two_verdicts(filling: str = "") -> tuple[Verdict, ...]:
    return (Verdict("hypergcn", True, "passed"), Verdict("ctrgcn", False, "exit code 3", "see the log", log_tail=(filling,)))


def test_both_files_hold_the_verdicts_in_the_order_asked(checkout, engine, capsys):
    engine.verdicts = two_verdicts("<script>")
    (checkout / "results").mkdir()
    (checkout / "link.json").symlink_to("results/real.json")
    (checkout / "page.html").write_text("an old page that is longer than nothing")
    asked = ["hypergcn", "ctrgcn", "--json", str(checkout / "link.json"), "--html", str(checkout / "page.html")]
    with (checkout / "page.html").open() as old:
        assert smoke_command.main(asked) == 1
        assert old.read() == "an old page that is longer than nothing"  # replaced, not written over
    assert engine.plan.models == ["hypergcn", "ctrgcn"]
    entries = json.loads((checkout / "results/real.json").read_text())
    assert [(entry["model"], entry["passed"]) for entry in entries] == [("hypergcn", True), ("ctrgcn", False)]
    assert (checkout / "link.json").is_symlink()
    html = (checkout / "page.html").read_text()
    assert html.index("hypergcn") < html.index("ctrgcn") and "1 of 2 passed" in html and "<script>" not in html
    assert not list(checkout.glob(".*")) and not list((checkout / "results").glob(".*"))
    assert "1 of 2 passed" in capsys.readouterr().out


def test_files_that_cannot_be_told_apart_are_refused(checkout, engine, capsys):
    (checkout / "clips.npz").touch()
    file = str(checkout / "both")
    assert smoke_command.main(["--json", file, "--html", str(checkout / "models/../both")]) == 2
    assert smoke_command.main(["--data", str(checkout / "clips.npz"), "--json", str(checkout / "clips.npz")]) == 2
    assert capsys.readouterr().err.count("name two files") == 2
    assert engine.plan is None


@pytest.mark.parametrize("flag", ["--json", "--html"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent/out", "there is no folder"),
        ("models", "this is a folder"),
        ("", "this is a folder"),
        ("pipe", "a device, a pipe or a socket"),
        ("file/out", "there is no folder"),
        ("circle", ""),
        ("x" * 300, "name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(checkout, engine, capsys, flag, name, words):
    os.mkfifo(checkout / "pipe")
    (checkout / "file").touch()
    (checkout / "circle").symlink_to("circle")
    before = sorted(checkout.iterdir())
    assert smoke_command.main([flag, str(checkout / name)]) == 73
    err = capsys.readouterr().err
    assert (
        f"{flag} {checkout / name} cannot be written: " in err and words in err.replace("File name", "name") and "next: " in err
    )
    assert engine.plan is None and sorted(checkout.iterdir()) == before


@pytest.fixture
def locked():
    """A folder, and a file in another, that this process may not write to: for root, by being somebody else meanwhile."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "shut").mkdir()
    (folder / "shut").chmod(0o555)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "open" / "old.json").write_text("old")
    (folder / "open" / "old.json").chmod(0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    (folder / "shut").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["shut/new.json", "open/old.json"])
def test_what_is_read_only_is_refused(locked, engine, monkeypatch, capsys, name):
    monkeypatch.setattr(smoke_command, "choose", list)
    assert smoke_command.main(["ctrgcn", "--json", str(locked / name)]) == 73
    assert "cannot be written" in capsys.readouterr().err
    assert engine.plan is None and (locked / "open/old.json").read_text() == "old"


@pytest.fixture
def little_room():
    """No file of this process may grow beyond 1 MiB, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_in_the_end_costs_no_verdict(little_room, checkout, engine, capsys):
    engine.verdicts = two_verdicts("x" * 2**20)
    old = checkout / "old.json"
    old.write_text("old")
    before = sorted(checkout.iterdir())
    assert smoke_command.main(["--json", str(old), "--html", str(checkout / "new.html")]) == 74
    said = capsys.readouterr()
    assert "exit code 3" in said.out and "1 of 2 passed" in said.out
    assert f"could not write {old}: " in said.err and f"could not write {checkout / 'new.html'}: " in said.err
    assert old.read_text() == "old" and sorted(checkout.iterdir()) == before


PLAYED = """
import sys
from orchestrator import smoke_command
from orchestrator.verdict import Verdict

class Engine:
    def close(self): ...

smoke_command.choose = list
smoke_command.connect = Engine
smoke_command.sweep = lambda client: []

def smoke(client, plan, told):
    for model in plan.models:
        if model != "silent":
            told(model, "failed" if model == "bad" else "passed")
    return [Verdict(model, model != "bad", "played") for model in plan.models]

smoke_command.smoke = smoke
sys.exit(smoke_command.main(sys.argv[1:]))
"""


def played(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, over a run in which all pass."""
    command = [sys.executable, "-c", PLAYED, *argv]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **options)


def test_a_standard_output_that_cannot_be_written_costs_no_file(tmp_path):
    file = tmp_path / "out.json"
    with Path("/dev/full").open("w") as full:
        done = played("silent", "--json", str(file), stdout=full)
    assert done.returncode == 74
    assert "could not write to the standard output" in done.stderr and "Traceback" not in done.stderr
    assert "Docker" not in done.stderr  # it is not the engine's disk that is full
    assert json.loads(file.read_text())[0]["passed"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--help"], 0), (["ctrgcn"], 0), (["ctrgcn", "bad"], 1)],  # not 0 for what nobody has seen fail
)
def test_a_reader_that_has_gone_does_not_change_the_exit_code(argv, code):
    reader, writer = os.pipe()
    os.close(reader)
    done = played(*argv, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(("model", "code"), [("good", 0), ("bad", 1)])
def test_verdicts_that_are_known_stand_when_the_reader_goes(model, code, tmp_path):
    """The reader leaves after the line of the verdict, before the tables."""
    file, go = tmp_path / "out.json", tmp_path / "go"
    waiting = PLAYED.replace("    return [", f"    import pathlib, time\n    while not pathlib.Path({str(go)!r}).exists():\n"
                             "        time.sleep(0.01)\n    return [")  # fmt: skip
    command = [sys.executable, "-c", waiting, model, "--json", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith(model)
        process.stdout.close()
        go.touch()
        assert process.wait(60) == code and process.stderr.read() == ""
    assert json.loads(file.read_text())[0]["passed"] is (model == "good")


def test_a_log_has_no_control_characters(tmp_path):
    done = played("ctrgcn", stdout=subprocess.PIPE, env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert done.returncode == 0 and "1 of 1 passed" in done.stdout
    assert all(sign.isprintable() or sign == "\n" for sign in done.stdout)


def test_the_help_tells_every_exit_code(capsys):
    with pytest.raises(SystemExit):
        smoke_command.main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    told = {int(code) for code in re.findall(r"(?<![\w-])(\d+) [a-z]", out[out.index("exit codes:") :])}
    assert told == {0, 1, 2, 66, 69, 73, 74, 77, 130}


def test_the_first_to_end_is_told_first_and_the_table_keeps_the_order_asked(checkout, monkeypatch, capsys):
    ended = threading.Event()

    def smoke_one(session, plan, model, told):
        told("running")
        if model == "hypergcn":
            assert ended.wait(30)
        return Verdict(model, True, "passed")

    def tell(models, console):
        @contextlib.contextmanager
        def watching():
            with watched(models, console) as told:

                def heard(model, stage):
                    told(model, stage)
                    if (model, stage) == ("ctrgcn", "passed"):
                        ended.set()

                yield heard

        return watching()

    watched = smoke_command.watched
    client = SimpleNamespace(
        info=lambda: {"MemTotal": 64 * 2**30}, close=lambda: None, containers=SimpleNamespace(list=lambda **_: [])
    )
    monkeypatch.setattr(smoke_command, "watched", tell)
    monkeypatch.setattr(smoke_command, "connect", lambda: client)
    monkeypatch.setattr("orchestrator.smoke.smoke_one", smoke_one)
    file = checkout / "out.json"
    assert smoke_command.main(["hypergcn", "ctrgcn", "--jobs", "2", "--json", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("hypergcn", "ctrgcn"))]
    assert [(line[0], line[1]) for line in lines] == [
        ("ctrgcn", "passed"), ("hypergcn", "passed"), ("hypergcn", "passed"), ("ctrgcn", "passed"),
    ]  # fmt: skip
    assert [entry["model"] for entry in json.loads(file.read_text())] == ["hypergcn", "ctrgcn"]


def test_no_models_at_all(tmp_path):
    with pytest.raises(OrchestratorError, match="no models"):
        discovery.choose([], tmp_path)


def test_names_are_taken_once_in_order(checkout):
    assert discovery.choose(["hypergcn", "ctrgcn", "hypergcn"], checkout) == ["hypergcn", "ctrgcn"]


def test_a_hyphen_stands_for_an_underscore(checkout):
    (checkout / "models/msf_gzssar").mkdir()
    (checkout / "models/msf_gzssar/model.toml").touch()
    (checkout / "dockerfiles/msf_gzssar.Dockerfile").touch()
    assert discovery.choose(["msf-gzssar", "msf_gzssar"], checkout) == ["msf_gzssar"]
    with pytest.raises(OrchestratorError, match="'msf-gzsar'; did you mean msf_gzssar"):
        discovery.choose(["msf-gzsar"], checkout)


def test_hyper_data_is_for_hypergcn_alone(tmp_path):
    plan = Plan(["ctrgcn", "hypergcn"], data=tmp_path / "a.npz", hyper_data=tmp_path / "b.npz")
    assert list(job_of(plan, "ctrgcn").files.values()) == ["/workspace/data/a.npz"]
    assert job_of(plan, "hypergcn").command[-2:] == ["--data", "/workspace/data/b.npz"]


def test_containers_at_once_are_bounded_by_memory_and_models():
    plan = Plan(["a", "b", "c"], jobs=8)
    assert side_by_side(plan, 64 * 2**30) == 3
    assert side_by_side(plan, 9 * 2**30) == 2
    assert side_by_side(plan, 2**30) == 1
