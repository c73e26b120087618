"""docs/cluster/kubernetes-job.yaml: valid by the schemas of Kubernetes, caged, and able to go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from engine.errors import RESUME_ME
from tests.orchestrator.conftest import ROOT, absent
from tests.orchestrator.documented import DATA, JOB, WORK_DIR, main_py, section

KUBERNETES = ("1.27", "1.29", "1.32", "newest")


def job() -> dict[str, Any]:
    return yaml.safe_load(JOB.read_text())  # type: ignore[no-any-return]


def validate(manifest: dict[str, Any], version: str) -> None:
    """Against the schema of a version of Kubernetes; no unknown keys. Raises the validator's `ValidationError`."""
    try:
        import kubernetes_validate
    except ModuleNotFoundError:
        absent("kubernetes-validate is not installed (pip install -e '.[dev]')")
    wanted = kubernetes_validate.latest_version() if version == "newest" else version
    used = kubernetes_validate.validate(manifest, wanted, strict=True)
    assert wanted.startswith(used), f"judged by {used}, not by {wanted}"


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_job_is_valid(version: str) -> None:
    validate(job(), version)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: manifest["spec"].pop("template"),
        lambda manifest: manifest["spec"].update(backoffLimit="six"),
        lambda manifest: manifest["spec"].update(retries=3),
        lambda manifest: pod(manifest).update(automountServiceAcountToken=False),
        lambda manifest: pod(manifest)["containers"][0].pop("name"),
        lambda manifest: pod(manifest)["containers"][0]["securityContext"].update(readOnlyRootFileSystem=True),
        lambda manifest: pod(manifest)["volumes"][2]["emptyDir"].update(size="1Gi"),
        lambda manifest: manifest["spec"]["podFailurePolicy"]["rules"][0].pop("action"),
    ],
    ids=[
        "no template",
        "a word for a number",
        "unknown key",
        "mistyped key",
        "no name",
        "wrong case",
        "wrong volume",
        "no action",
    ],
)
def test_a_broken_job_is_refused(spoil: Callable[[dict[str, Any]], object], version: str) -> None:
    manifest = job()
    spoil(manifest)
    with pytest.raises(Exception, match=r"required|not of type|Additional properties") as refused:
        validate(manifest, version)
    assert type(refused.value).__name__ == "ValidationError"


def test_the_job_is_caged() -> None:
    spec = pod(job())
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert {spec["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "command" not in container, "it would take the place of the image's init"


def test_the_volumes_of_the_job_are_there() -> None:
    spec = pod(job())
    [container] = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes[mounts["/workspace/data"]["name"]]["persistentVolumeClaim"]["readOnly"] is True
    assert "persistentVolumeClaim" in volumes[mounts[WORK_DIR]["name"]]
    assert {volumes[mounts[there]["name"]]["emptyDir"]["medium"] for there in ("/dev/shm", "/tmp")} == {"Memory"}


def test_the_job_trains_and_can_go_on() -> None:
    [container] = pod(job())["containers"]
    model = container["image"].partition(":")[2]
    assert container["args"][:2] == ["python3", "main.py"]
    settings = main_py(tuple(container["args"][2:]), model)
    assert settings.resume == "auto"
    assert settings.save_steps > 0
    assert (settings.data or "").startswith(DATA)
    assert (settings.work_dir or "").startswith(f"{WORK_DIR}/"), "outside of the volume nothing is left to go on with"


def test_the_job_retries_what_may_end_otherwise() -> None:
    spec = job()["spec"]
    evicted, failed, time_up, stopped = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in (evicted, failed, time_up, stopped)] == ["Ignore", "FailJob", "Ignore", "Count"]
    assert pod(job())["restartPolicy"] == "Never", "podFailurePolicy needs it"
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    final, resumed, again = (rule["onExitCodes"] for rule in (failed, time_up, stopped))
    assert {2, 65, 66, 76, 78} <= set(final["values"])
    assert (resumed["values"], set(again["values"])) == ([RESUME_ME], {137, 143})
    documented = (ROOT / "docs/exit-codes.md").read_text()
    for codes in (final, resumed, again):
        assert codes["values"] == sorted(set(codes["values"])), "Kubernetes wants them in order"
        assert codes["operator"] == "In"
        assert codes["containerName"] == pod(job())["containers"][0]["name"]
    assert all(re.search(rf"^\|[ \d,]*\b{code}\b", documented, re.MULTILINE) for code in final["values"])
    page = section("### Kubernetes")
    assert f"{', '.join(map(str, final['values'][:-1]))} and {final['values'][-1]} fail" in page
    assert f"job/{job()['metadata']['name']}" in page
