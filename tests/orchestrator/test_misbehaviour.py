"""An image for each way to misbehave, all run in one go: each gets its verdict, and the good ones between them pass."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import leftovers, smoke, smoke_command
from tests.orchestrator.conftest import good

pytestmark = pytest.mark.docker

RESULT = good("MODEL").replace('"MODEL"', "\"'$3'\"")  # $0 is python3, $1 the script, $2 --model
GOOD = f"echo '{RESULT}'"
# name -> (what the image's python3 does, a part of the verdict's reason)
IMAGES = {
    "good": (GOOD, "passed"),
    "exits_with_1": (f"{GOOD}; exit 1", "exit code 1"),
    "warns": (f"echo 'UserWarning: deprecated' >&2; {GOOD}", "not clean: UserWarning: deprecated"),
    "hangs": ("sleep 600", "not finished after 5 s"),
    "takes_all_memory": ("tail /dev/zero", "killed for memory at its limit of 64m"),
    "loses_a_child_for_memory": (f"tail /dev/zero; {GOOD}; exit 0", "a child process"),
    "warns_in_a_huge_log": (f"seq 1 200000; echo 'WARNING: lost?'; seq 1 200000; {GOOD}", "not clean: WARNING: lost?"),
    "says_much": (f"seq 1 200000; {GOOD}", "passed"),
    "never_stops_talking": ("seq 1 100000000", "64 MiB of log"),
    "writes_outside": (f"touch /opt; {GOOD}", "write outside /tmp and its work folder"),
    "tries_the_network": (f"busybox wget http://192.0.2.1/weights.pt; {GOOD}", "reach the network"),
    "asks_for_a_name": (f"busybox wget http://weights.invalid/w.pt; {GOOD}", "reach the network"),
    "says_it_twice": (f"{GOOD}; {GOOD}", "2 result lines"),
    "is_another_model": (f"echo '{good('ctrgcn')}'", "of model 'ctrgcn'"),
    "asserts_little": (
        """echo '{"kind": "smoke_result", "model": "'$3'", "assertions": {"forward": true}}'""",
        "backward (not made)",
    ),
    "warns_in_colour": (f"printf '\\033[33mWARNING\\033[0m old'; echo; {GOOD}", "not clean: WARNING old"),
    "warns_without_a_newline": (f"dd if=/dev/zero bs=1M count=3; printf '[W NNPACK.cpp:64] no'; {GOOD} >&2", "not clean"),
    "good_too": (GOOD, "passed"),
}


def context(busybox: str, script: str) -> io.BytesIO:
    """A build context whose image has `script` for its python3."""
    files = {"Dockerfile": f"FROM {busybox}\nCOPY python3 /bin/python3\n", "python3": f"#!/bin/sh\n{script}\n"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    packed.seek(0)
    return packed


@pytest.fixture
def images(client: Any, busybox: str) -> Iterator[None]:
    """The images, for as long as they are needed."""
    for name, (script, _) in IMAGES.items():
        client.images.build(fileobj=context(busybox, script), custom_context=True, tag=f"skeleton-lab-test:{name}", forcerm=True)
    yield
    for name in IMAGES:
        client.images.remove(f"skeleton-lab-test:{name}", force=True)


def test_every_misbehaviour_gets_its_verdict_and_the_others_are_not_touched(client, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smoke, "image_of", lambda name: f"skeleton-lab-test:{name}")
    monkeypatch.setattr(smoke_command, "choose", list)
    file = tmp_path / "verdicts.json"
    patient = [name for name in IMAGES if name != "hangs"]  # a busy machine needs a while for 64 MiB of log
    code = smoke_command.main([*patient, "--jobs", "3", "--memory", "64m", "--timeout", "300", "--json", str(file)])
    verdicts = {entry["model"]: entry for entry in json.loads(file.read_text())}
    assert code == 1 and "3 of 17 passed" in capsys.readouterr().out
    assert smoke_command.main(["hangs", "--memory", "64m", "--timeout", "5", "--json", str(file)]) == 1
    verdicts |= {entry["model"]: entry for entry in json.loads(file.read_text())}
    assert set(verdicts) == set(IMAGES)
    for name, (_, word) in IMAGES.items():
        assert word in verdicts[name]["reason"], (name, verdicts[name]["reason"], verdicts[name]["log_tail"])
        assert verdicts[name]["passed"] == (word == "passed"), name
    ours = client.containers.list(all=True, filters={"label": leftovers.OWNER}, ignore_removed=True)
    assert not [c.name for c in ours if c.labels[leftovers.OWNER] == leftovers.this_owner()]
