"""Arguments, exit codes and the report, with a faked engine."""

from __future__ import annotations

import json

import pytest
from docker import errors

from orchestrator import cli, discovery
from orchestrator.errors import OrchestratorError
from orchestrator.smoke import Plan, job_of, side_by_side
from orchestrator.verdict import Verdict


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with two models that have Dockerfiles and one that has none."""
    for name in ("ctrgcn", "hypergcn", "bare"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.toml").touch()
    (tmp_path / "dockerfiles").mkdir()
    for name in ("ctrgcn", "hypergcn"):
        (tmp_path / "dockerfiles" / f"{name}.Dockerfile").touch()
    monkeypatch.setattr(cli, "choose", lambda names: discovery.choose(names, tmp_path))
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

    monkeypatch.setattr(cli, "connect", lambda: fake)
    monkeypatch.setattr(cli, "sweep", lambda client: ["left"])
    monkeypatch.setattr(cli, "smoke", smoke)
    return fake


def test_all_passed(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", True, "passed"), Verdict("hypergcn", True, "passed"))
    file = checkout / "out.json"
    assert cli.main(["--json", str(file)]) == 0
    assert engine.plan.models == ["ctrgcn", "hypergcn"]
    assert engine.plan.device == "cpu" and engine.plan.gpu is None
    assert [entry["model"] for entry in json.loads(file.read_text())] == ["ctrgcn", "hypergcn"]
    out = capsys.readouterr().out
    assert "2 of 2 passed" in out and "a killed run had left" in out


def test_a_failure_and_a_missing_verdict_exit_1(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", False, "exit code 3", "see the log", log_tail=("[last] line",)),)
    assert cli.main([]) == 1
    out = capsys.readouterr().out
    assert "exit code 3" in out and "[last] line" in out and "0 of 2 passed" in out


def test_gpus(checkout, engine):
    assert cli.main(["ctrgcn", "--use-gpus", "--gpu", "2"]) == 1  # no verdict came
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
    assert cli.main(["--vram-limit", "8", "--json", str(file)]) == 1
    assert engine.plan.vram_limit == 8.0 and engine.plan.gpu is None
    assert list(job_of(engine.plan, "ctrgcn").command[-2:]) == ["--vram-limit", "8"]
    out = " ".join(capsys.readouterr().out.split())
    for words in ("on 8 GiB of GPU memory", "2542 (2204 to 3314)", "926 (721 to 1504)", "6012 allocated, 6420 reserved", "tight",
                  "ctrgcn: fits with --test-batch-size 64", "not measured (no GPU)", "no lever is enough"):  # fmt: skip
        assert words in out, words
    assert [entry["result"]["vram"]["word"] for entry in json.loads(file.read_text())] == ["tight", "no"]


def test_nothing_of_gpu_memory_unless_asked(checkout, engine, capsys):
    engine.verdicts = (Verdict("ctrgcn", True, "passed", result={"assertions": {"forward": True}}),)
    cli.main(["ctrgcn"])
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
        (["--jobs", "0"], "not 1 or more", 2),
        (["--timeout", "-1"], "not above 0", 2),
        (["--timeout", "nan"], "not above 0", 2),
        (["--memory", "lots"], "amount of memory", 2),
        (["--device", "cuda:0"], "--use-gpus", 2),
        (["--data", "/nowhere.npz"], "no data file", 66),
    ],
)
def test_wrong_arguments(checkout, engine, capsys, argv, word, code):
    assert cli.main(argv) == code
    assert word in capsys.readouterr().err
    assert engine.plan is None


def test_no_engine(checkout, monkeypatch, capsys):
    def refuse(**_):
        raise errors.DockerException("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))")

    monkeypatch.setattr("orchestrator.smoke.docker.from_env", refuse)
    assert cli.main([]) == 69
    assert "tools/ensure_engine.sh" in capsys.readouterr().err


def test_interrupted(checkout, engine, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "smoke", interrupted)
    assert cli.main([]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_no_models_at_all(tmp_path):
    with pytest.raises(OrchestratorError, match="no models"):
        discovery.choose([], tmp_path)


def test_names_are_taken_once_in_order(checkout):
    assert discovery.choose(["hypergcn", "ctrgcn", "hypergcn"], checkout) == ["hypergcn", "ctrgcn"]


def test_hyper_data_is_for_hypergcn_alone(tmp_path):
    plan = Plan(["ctrgcn", "hypergcn"], data=tmp_path / "a.npz", hyper_data=tmp_path / "b.npz")
    assert list(job_of(plan, "ctrgcn").files.values()) == ["/workspace/data/a.npz"]
    assert job_of(plan, "hypergcn").command[-2:] == ["--data", "/workspace/data/b.npz"]


def test_containers_at_once_are_bounded_by_memory_and_models():
    plan = Plan(["a", "b", "c"], jobs=8)
    assert side_by_side(plan, 64 * 2**30) == 3
    assert side_by_side(plan, 9 * 2**30) == 2
    assert side_by_side(plan, 2**30) == 1
