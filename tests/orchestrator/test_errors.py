"""Every error of the docker SDK that docs/docker.md lists becomes one sentence and a next step."""

from __future__ import annotations

import pytest
import requests
from docker import errors
from requests import exceptions as http

from orchestrator.errors import OrchestratorError, explain


def api(status: int, text: str, kind: type[errors.APIError] = errors.APIError) -> errors.APIError:
    response = requests.Response()
    response.status_code = status
    return kind("x", response=response, explanation=text)


NO_SOCKET = "('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))"
REFUSED = "('Connection aborted.', ConnectionRefusedError(111, 'Connection refused'))"
DENIED = "('Connection aborted.', PermissionError(13, 'Permission denied'))"
CASES = [
    (errors.DockerException(NO_SOCKET), "socket does not", 69),
    (errors.DockerException(REFUSED), "no Docker engine", 69),
    (errors.DockerException(DENIED), "may not talk", 77),
    (http.ConnectionError(DENIED), "may not talk", 77),
    (errors.DockerException("Invalid bind address protocol: x"), "DOCKER_HOST", 69),
    (http.ConnectionError("HTTPConnectionPool(host='h'): Failed to resolve 'h'"), "DOCKER_HOST", 69),
    (api(404, "No such image: skeleton-lab:ctrgcn", errors.ImageNotFound), "image skeleton-lab:ctrgcn is not", 1),
    (api(500, "Get https://x/v2/: dial tcp: lookup x: no such host"), "registry", 1),
    (api(500, 'could not select device driver "" with capabilities: [[gpu]]'), "GPU runtime", 1),
    (api(400, "Unknown runtime specified nvidia"), "GPU runtime", 1),
    (api(500, "write /var/x: no space left on device"), "disk", 1),
    (api(400, "invalid mount config: bind source path does not exist: /x"), "mount", 1),
    (api(400, "exec: python3: executable file not found in $PATH"), "program", 1),
    (api(400, "Minimum memory limit allowed is 6MB"), "memory limit", 1),
    (api(500, "unable to find user x"), "user", 1),
    (api(409, "Conflict. The container name is already in use by container y"), "name", 1),
    (http.ChunkedEncodingError("Connection broken"), "middle of a run", 69),
    (http.ConnectionError("Read timed out."), "middle of a run", 69),
    (api(500, "something new"), "something new", 1),
    (errors.DockerException("something else"), "something else", 69),
]  # fmt: skip


@pytest.mark.parametrize(("error", "word", "code"), CASES, ids=lambda value: str(value)[:40])
def test_one_sentence_and_a_next_step(error, word, code):
    told = explain(error, image="skeleton-lab:ctrgcn")
    assert word in told.what
    assert told.exit_code == code
    assert told.next_step
    assert "\n" not in told.what
    assert "NAME" not in told.next_step


def test_a_missing_image_says_how_to_build_it():
    told = explain(api(404, "No such image: x", errors.ImageNotFound), image="skeleton-lab:msg3d")
    assert told.next_step == "bash build_all_images.sh msg3d"


def test_ours_stays_as_it_is():
    error = OrchestratorError("a", "b", exit_code=5)
    assert explain(error) is error
