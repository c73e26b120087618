"""Both systems against the numbers of their official code; a judge that passes everything would not do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.parity import fixture, zeroshot
from engine.parity.fixture import FixtureError
from engine.parity.judge import judge
from engine.parity.lines import Line
from engine.zeroshot.losses import terms
from sal import verbs
from tests.engine.zeroshot.systems import SYSTEMS

ROOT = Path(__file__).parent.parent.parent.parent
PARITY = ROOT / "tests" / "parity"
CASES = [path for name in SYSTEMS for path in (PARITY / f"{name}_ntu60.npz", PARITY / "trajectories" / f"{name}.npz")]


def failed(lines: list[Line]) -> list[str]:
    return [line.quantity for line in lines if not line.ok]


def changed(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    """A copy of a fixture after `change(meta, arrays)`."""
    read = fixture.load(source)
    meta, arrays = json.loads(json.dumps(read.meta)), dict(read.arrays)
    change(meta, arrays)
    np.savez(target, meta=np.array(json.dumps(meta)), **arrays)
    return target


@pytest.mark.parametrize("path", CASES, ids=lambda path: str(path.relative_to(PARITY)))
def test_case(path: Path) -> None:
    lines = judge(path)
    assert failed(lines) == []
    assert max(line.error for line in lines if line.quantity.startswith("float64")) < 1e-12
    names = [line.quantity for line in lines]
    assert len(set(names)) == len(names) > 30


def test_wrong_numbers_fail(tmp_path: Path) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["num_params"] += 1
        arrays["tout_eval_f64"] *= 1 + 1e-6
        arrays["loss_train_f64"] *= 1 + 1e-6
        arrays["grad_norms_f64"][0] = 1.0  # of a constant, which has no gradient
        arrays["grad_f64/se.k"] *= -1

    assert failed(judge(changed(PARITY / "fsvae_ntu60.npz", tmp_path / "x.npz", change))) == [
        "official numbers: 540367",
        "float64 tout",
        "float64 loss",
        "float64 gradient norms (26)",
        "float64 gradient of se.k",
        "float32 gradient norms (26)",
        "float32 gradient of se.k",
    ]


def test_another_weight_of_the_alignment_fails(tmp_path: Path) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["loss"] = meta["loss"].replace("0.5 * 100 * (mean", "0.1 * 100 * (mean")

    assert "float64 loss" in failed(judge(changed(PARITY / "fsvae_ntu60.npz", tmp_path / "x.npz", change)))


def test_another_schedule_fails(tmp_path: Path) -> None:
    shutil.copy(PARITY / "msf_gzssar_ntu60.npz", tmp_path)
    source = PARITY / "trajectories" / "msf_gzssar.npz"
    other = changed(source, tmp_path / "x.npz", lambda m, a: m["hyper"].__setitem__("cycle_length", 1900))
    bad = failed(judge(other))
    assert "float64 cr_fact, all 12 steps" in bad and "float64 loss, all 12 steps" in bad
    assert "float64 loss, step 1" not in bad


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("fsvae", 24, (256, 512, 200)), ("msf_gzssar", 10, (192, 1024, 200)), ("fsvae", 10, (257, 513, 200))],
)
def test_sizes_come_from_the_fixture(tmp_path: Path, name: str, classes: int, sizes: tuple[int, int, int]) -> None:
    """A case of other sizes, whose weights are drawn by the rule: outputs are recomputed here in plain steps."""
    s, t, latent = sizes
    arguments = {"se": [s, latent], "sd": [latent, s], "te": [t, latent], "td": [latent, t], "cls": [latent, classes]}

    def size(entry: list[Any]) -> list[Any]:
        part, last = entry[0].split(".")[0], entry[0].rsplit(".", 1)[-1]
        before, after = arguments[part]
        if last in ("weight", "bias"):
            entry[1] = [after, before] if last == "weight" else [after]
        return entry

    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["constructor_args"], meta["weights_crc32"] = arguments, None
        meta["entries"] = [size(entry) for entry in meta["entries"]]
        meta["num_params"] = sum(int(np.prod(entry[1])) for entry in meta["entries"])
        rng = np.random.default_rng(1)
        arrays["input"] = np.abs(rng.normal(0, 0.5, (6, s))).astype(np.float16)
        arrays["input_text"] = rng.normal(0, t**-0.5, (6, t)).astype(np.float16)
        arrays["input_labels"] = rng.integers(0, classes, 6)
        weights = {
            entry[0]: fixture.entry_value(entry[0], tuple(entry[1]), "float32", "param", meta["seed"]).astype(np.float64)
            for entry in meta["entries"]
            if entry[3] == "param"
        }
        arrays["smu_eval_f64"] = by_hand(weights, arrays["input"].astype(np.float64), name)
        for key in [k for k in arrays if k.startswith(("grad", "loss"))]:
            del arrays[key]
        arrays["grad_norms_f64"], arrays["loss_train_f64"] = np.ones(len(meta["param_names"])), np.ones(())

    lines = judge(changed(PARITY / f"{name}_ntu60.npz", tmp_path / "x.npz", change))
    ours = {line.quantity: line for line in lines}
    assert ours["float64 smu"].error < 1e-12 and ours["float32 smu"].ok
    assert next(line for line in lines if line.quantity.startswith("official numbers")).ok


def by_hand(weights: dict[str, np.ndarray], x: np.ndarray, name: str) -> np.ndarray:
    """Means of the skeleton's latents, one coefficient after the other."""
    if name == "msf_gzssar":
        return x @ weights["se.mu_transformation.0.weight"].T + weights["se.mu_transformation.0.bias"]
    width = x.shape[1]
    places = np.arange(width)
    enhanced = np.zeros_like(x)
    edges = torch.linspace(0, width - 1, 31, dtype=torch.float32).int().tolist()
    for i in range(width):
        wave = np.cos(np.pi * i * (2 * places + 1) / (2 * width)) * np.sqrt((1 if i == 0 else 2) / width)
        factor = 1.0
        for band in range(30):
            if edges[band] <= i < edges[band + 1]:
                strength = weights["se.freq_weights"][band] * weights["se.k"]
                low = edges[band + 1] <= 30
                factor = 1 + strength * (1 - band / 30) if low else 1 - strength * (60 - band) / 30
        enhanced += factor * (x @ wave)[:, None] * wave
    return enhanced @ weights["se.mu_transformation.weight"].T + weights["se.mu_transformation.bias"]


UNUSABLE: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], None]] = {
    "another loss": lambda m, a: m.__setitem__("loss", "mse(s, sout)"),
    "another output": lambda m, a: m["outputs"].__setitem__("feature", ""),
    "no classifier": lambda m, a: m.__setitem__("entries", [e for e in m["entries"] if not e[0].startswith("cls")]),
    "widths that do not fit": lambda m, a: m["constructor_args"].__setitem__("sd", [99, 256]),
    "another constant": lambda m, a: a.__setitem__("constant/1", np.float32(31)),
}


@pytest.mark.parametrize("change", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    def both(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["weights_crc32"] = None
        change(meta, arrays)

    with pytest.raises(FixtureError) as caught:
        judge(changed(PARITY / "fsvae_ntu60.npz", tmp_path / "x.npz", both))
    assert caught.value.exit_code == 2


def test_the_verb_judges_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.parity(CASES) == 0
    assert "all quantities within their limits" in capsys.readouterr().out


def test_a_model_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAL_MODELS", str(tmp_path))
    with pytest.raises(FixtureError, match="not here: fsvae"):
        judge(CASES[0])


def test_terms_that_do_not_count_are_not_needed() -> None:
    """A step without its alignment has the loss of one whose alignment is multiplied by 0."""
    source = fixture.load(PARITY / "msf_gzssar_ntu60.npz")
    system = SYSTEMS["msf_gzssar"]
    networks = zeroshot._networks(system, source, fixture.weights(source))
    draw = zeroshot._recorded(source, torch.float32)
    s, t = (torch.from_numpy(source[name]).float() for name in ("input", "input_text"))
    factor = zeroshot.Factors(0.1, 0.2, 0.0)
    whole, part = (terms(networks.vae, s, t, draw, system.alignment, crossed=crossed) for crossed in (True, False))
    assert part.text_alignment is None and whole.text_alignment is not None
    assert torch.equal(whole.total(factor, 50.0), part.total(factor, 50.0))
