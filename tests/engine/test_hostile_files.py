"""Safetensors whose headers lie, and YAML with tags: refused with their exit codes, nothing is run, nothing large is allocated.

Pickles are in `test_weights`, `test_ensemble_files`, `shared_data/test_pickles` and others; NPZ object arrays in
`shared_data/test_bad_inputs`.
"""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.checkpoint import read
from engine.errors import ConfigError, WeightsError
from engine.runfolder import RunFolder
from engine.weights import load_weights
from sal.train import main

PLACE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = bytes(16)


def container(header: bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensors(data: bytes = DATA, **places: dict[str, Any]) -> bytes:
    return container(json.dumps(places).encode(), data)


LIES = {
    "length of 2^64-1": container(b"{}", length=2**64 - 1),
    "length of 2^63": container(b"{}", length=2**63),
    "length one too many": container(b"{}", b"", length=3),
    "length over the limit": container(b"{}", length=101 * 2**20),
    "length of 0": container(b"{}", length=0),
    "an end beyond the file": tensors(a=PLACE | {"shape": [4], "data_offsets": [0, 16]}, b=PLACE | {"data_offsets": [16, 24]}),
    "an end beyond 2^63": tensors(a=PLACE | {"data_offsets": [0, 2**63]}),
    "an end before the beginning": tensors(a=PLACE | {"data_offsets": [8, 0]}),
    "a negative beginning": tensors(a=PLACE | {"data_offsets": [-8, 0]}),
    "places that overlap": tensors(DATA[:12], a=PLACE, b=PLACE | {"data_offsets": [4, 12]}),
    "one place for two": tensors(a=PLACE, b=PLACE, c=PLACE | {"data_offsets": [8, 16]}),
    "a hole": tensors(a=PLACE | {"shape": [1], "data_offsets": [0, 4]}, b=PLACE | {"data_offsets": [8, 16]}),
    "bytes that nobody owns": tensors(a=PLACE),
    "a shape of more than its bytes": tensors(a=PLACE | {"shape": [2**40]}, b=PLACE | {"data_offsets": [8, 16]}),
    "a shape whose product wraps": tensors(a=PLACE | {"shape": [2**32, 2**32]}, b=PLACE | {"data_offsets": [8, 16]}),
    "a negative shape": tensors(a=PLACE | {"shape": [-2]}, b=PLACE | {"data_offsets": [8, 16]}),
    "a shape of fractions": tensors(a=PLACE | {"shape": [2.0]}, b=PLACE | {"data_offsets": [8, 16]}),
    "a shape of words": tensors(a=PLACE | {"shape": ["2"]}, b=PLACE | {"data_offsets": [8, 16]}),
    "no shape": tensors(a={"dtype": "F32", "data_offsets": [0, 16]}),
    "no place": tensors(a={"dtype": "F32", "shape": [4]}),
    "three offsets": tensors(a=PLACE | {"data_offsets": [0, 8, 16]}),
    "numbers of no kind": tensors(a=PLACE | {"dtype": "F33"}, b=PLACE | {"data_offsets": [8, 16]}),
    "objects": tensors(a=PLACE | {"dtype": "O"}, b=PLACE | {"data_offsets": [8, 16]}),
    "a tensor that is a list": tensors(a=[1, 2]),  # type: ignore[arg-type]
    "metadata that is a list": container(b'{"__metadata__":["x"]}', b""),
    "metadata of numbers": container(b'{"__metadata__":{"position":1}}', b""),
    "metadata of null": container(b'{"__metadata__":null}', b""),
    "a seal of no content": container(b'{"__metadata__":{"sha256":"00"}}', b""),
    "a seal that is a list": container(b'{"__metadata__":{"sha256":[]}}', b""),
    "a header that is no JSON": container(b"{'a': 1}"),
    "a header of null": container(b"null", b""),
    "a header that is a list": container(b"[]", b""),
    "a header of no text": container(b"\xff\xfe{}", b""),
    "a header cut off": container(b'{"a":{"dtype":"F32"', b""),
    "a header that nests": container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "two headers": container(b"{}{}", b""),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(LIES[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        read(file)
    assert f"{file} ({len(LIES[kind])} bytes)" in str(caught.value)
    assert caught.value.exit_code == 65
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_the_container_itself_is_right(tmp_path: Path) -> None:
    """What the lies are made of is read where it does not lie."""
    file = tmp_path / "w.safetensors"
    file.write_bytes(tensors(a=PLACE, b=PLACE | {"data_offsets": [8, 16]}))
    assert {name: tuple(value.shape) for name, value in read(file)[0].items()} == {"a": (2,), "b": (2,)}


def test_names_of_tensors_are_no_paths(tmp_path: Path) -> None:
    """A name may be anything; it is compared with the network's, never used."""
    from tests.engine.test_weights import network

    file = tmp_path / "w.safetensors"
    file.write_bytes(tensors(**{"../../etc/passwd": PLACE, "__class__": PLACE | {"data_offsets": [8, 16]}}))
    with pytest.raises(WeightsError):
        load_weights(file, network(), "ctrgcn")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


TAGS = (
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/object/apply:subprocess.check_call [[touch, '{canary}']]",
    "!!python/object/apply:builtins.eval [\"open('{canary}', 'w')\"]",
    "!!python/object/new:type {{args: [z, !!python/tuple [], {{extend: !!python/name:exec }}], listitems: \"open('{canary}')\"}}",
    "!!python/module:antigravity",
    "!!python/name:os.system",
    "!!map {{? !!python/object/apply:os.system ['touch {canary}'] : 1}}",
)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("key", ["model", "model_args", "num_epoch"])
def test_a_recipe_with_tags_builds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str, key: str) -> None:
    recipe, canary = tmp_path / "mine.yaml", tmp_path / "canary"
    recipe.write_text(f"{key}: {tag.format(canary=canary)}\n")
    assert main("baselines", ["--config", str(recipe), "--work-dir", str(tmp_path / "run")]) == ConfigError.exit_code
    assert str(recipe) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("tag", TAGS)
def test_a_flag_with_tags_builds_nothing(tmp_path: Path, tag: str) -> None:
    canary = tmp_path / "canary"
    words = ["--recipe", "tiny_cpu", "--model-args", tag.format(canary=canary), "--work-dir", str(tmp_path / "run")]
    assert main("baselines", words) == ConfigError.exit_code
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("tag", TAGS)
def test_settings_of_a_run_folder_with_tags_build_nothing(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    """Of a folder that somebody else gave away, to go on with."""
    canary = tmp_path / "canary"
    with RunFolder(tmp_path / "run") as folder:
        folder.last.touch()
        (folder.path / "config.yaml").write_text(f"model: {tag.format(canary=canary)}\n")
    assert main("baselines", [*words, "--work-dir", str(tmp_path / "run")]) == 73
    assert "config.yaml" in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_tags_are_alive(tmp_path: Path) -> None:
    """A reader that trusts the file is caught by them, so that the canary is one."""
    canary = tmp_path / "canary"
    caught = 0
    for tag in TAGS[:4]:
        yaml.load(tag.format(canary=canary), Loader=yaml.UnsafeLoader)
        caught += canary.exists()
        canary.unlink(missing_ok=True)
    assert caught == 4
