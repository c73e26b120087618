"""The orchestrator on a real engine, with an image of 2 MB: every misbehaviour gets its verdict, and nothing is left behind."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest

from orchestrator import leftovers
from orchestrator.cage import sdk_arguments
from orchestrator.smoke import Plan, smoke
from orchestrator.smoke_container import Job, Limits, Session, cage_of
from orchestrator.verdict import REQUIRED
from tests.orchestrator.conftest import good

pytestmark = pytest.mark.docker

GOOD = good("m")
QUICK = Limits(memory="96m", tmp="32m", timeout=60)


@pytest.fixture
def verdict_of(client, busybox, as_image, playing):
    """The verdict on a shell script that plays a model's smoke test."""
    as_image(busybox)

    def verdict(script: str, limits: Limits = QUICK, **options: Any):
        playing(lambda _: script)
        [result] = smoke(client, Plan(["m"], limits=limits, **options))
        return result

    return verdict


def test_a_good_container_passes(verdict_of):
    result = verdict_of(f"echo '{GOOD}'")
    assert result.passed, result.reason
    assert set(result.result["assertions"]) == REQUIRED
    assert result.image_bytes > 0


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("exit 1", "exit code 1"),
        (f"echo 'WARNING: old'; echo '{GOOD}'", "WARNING: old"),
        (f"echo 'ValueError: on stderr' >&2; echo '{GOOD}'", "on stderr"),
        ("echo nothing", "no result line"),
        (f"echo '{good('other')}'", "of model 'other'"),
        (f"echo '{GOOD}'; echo '{GOOD}'", "2 result lines"),
        ("not-a-program", "exit code 127"),
        ("dd if=/dev/zero of=/tmp/fill bs=1M count=40", "full"),
    ],
)
def test_a_bad_container_fails(verdict_of, script, word):
    result = verdict_of(script)
    assert not result.passed
    assert word in result.reason


def test_a_hanging_container_is_stopped(verdict_of):
    result = verdict_of("sleep 600", Limits(memory="64m", timeout=1))
    assert not result.passed and "not finished after 1 s" in result.reason


def test_a_container_killed_for_memory(verdict_of):
    result = verdict_of("tail /dev/zero")
    assert not result.passed and "limit of 96m" in result.reason


def test_a_huge_log_keeps_its_end(verdict_of):
    result = verdict_of(f"seq 1 300000; echo '{GOOD}'")
    assert result.passed, result.reason


def test_the_cage(verdict_of):
    """Nobody's user, no capabilities, a root that cannot be written, no network; the two places that can be written can."""
    script = f"""
        [ "$(id -u)" = 10001 ] || exit 11
        ! touch /file 2>/dev/null || exit 12
        touch /tmp/file /workspace/work_dir/file || exit 13
        [ "$(ls /sys/class/net)" = lo ] || exit 14
        grep -q 'CapEff:.*0000000000000000' /proc/self/status || exit 15
        grep -q 'NoNewPrivs:.*1' /proc/self/status || exit 16
        echo '{GOOD}'
    """
    result = verdict_of(script)
    assert result.passed, result.reason


def test_data_is_mounted_read_only(verdict_of, tmp_path):
    file = tmp_path / "clips.npz"
    file.write_text("clips")
    file.chmod(0o644)
    tmp_path.chmod(0o755)
    script = f"grep -q clips /workspace/data/clips.npz && ! touch /workspace/data/clips.npz 2>/dev/null && echo '{GOOD}'"
    result = verdict_of(script, data=file)
    assert result.passed, result.reason


def test_data_that_the_engine_does_not_see(verdict_of, tmp_path):
    result = verdict_of("true", data=tmp_path / "absent.npz")
    assert not result.passed and "does not see the file" in result.reason


def test_a_missing_image(client, as_image):
    as_image("skeleton-lab-test:absent")
    [result] = smoke(client, Plan(["m"], limits=QUICK))
    assert not result.passed and "skeleton-lab-test:absent is not on this engine" in result.reason
    assert "build_all_images.sh" in result.next_step


def test_a_gpu_where_there_is_none(client, verdict_of):
    if "nvidia" in client.info().get("Runtimes", {}):
        pytest.skip("this engine has a GPU runtime")
    result = verdict_of("true", gpu="0")
    assert not result.passed and "GPU runtime" in result.reason


def test_one_failure_does_not_touch_the_others(client, busybox, as_image, playing):
    as_image(busybox)
    scripts = {"a": f"echo '{good('a')}'", "b": "exit 3", "c": f"echo '{good('c')}'"}
    playing(scripts.__getitem__)
    results = smoke(client, Plan(["a", "b", "c"], limits=QUICK, jobs=3))
    assert [(r.model, r.passed) for r in results] == [("a", True), ("b", False), ("c", True)]


def test_fail_fast_stops_the_rest(client, busybox, as_image, playing):
    as_image(busybox)
    playing(lambda _: "exit 1")
    results = smoke(client, Plan(["a", "b", "c"], limits=QUICK, jobs=1, fail_fast=True))
    assert [r.model for r in results] == ["a"]


def test_a_thread_may_run_it_too(client, busybox, as_image, playing):
    as_image(busybox)
    playing(lambda _: f"echo '{GOOD}'")
    results = []
    plan = Plan(["m"], limits=QUICK)
    worker = threading.Thread(target=lambda: results.extend(smoke(client, plan)))
    worker.start()
    worker.join(60)
    assert [r.passed for r in results] == [True]


def test_a_live_run_is_not_swept(client, busybox):
    session = Session(client, uuid.uuid4().hex, threading.Event())
    container = client.containers.create(**sdk_arguments(cage_of(Job("m", busybox, ["sleep", "600"], {}), QUICK, session.run)))
    try:
        assert container.name not in leftovers.sweep(client)
        assert leftovers.remove_run(client, session.run) == 1
    finally:
        leftovers.remove(container)
