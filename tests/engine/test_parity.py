"""The judge: passes on the recorded numbers, fails when anything is wrong, refuses what it cannot use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine import models
from engine.parity import batches, fixture, trajectory
from engine.parity.fixture import FixtureError
from engine.parity.judge import judge
from engine.parity.lines import Line, norm_error, relative_error, value_error
from models.ctrgcn.network import CTRGCN
from shared_data.errors import LabError
from shared_data.skeletons import NTU25, UCLA20
from tests.models.ctrgcn.naive import NaiveCTRGCN

PARITY = Path(__file__).parent.parent / "parity"
FORWARD = PARITY / "ctrgcn_ntu60.npz"
SEGMENTATION = PARITY / "lasa_pku.npz"
TRAJECTORY = PARITY / "trajectories" / "ctrgcn.npz"


def failed(lines: list[Line]) -> list[str]:
    return [line.quantity for line in lines if not line.ok]


def changed(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    """A copy of a fixture after `change(meta, arrays)`."""
    with np.load(source, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays.pop("meta")))
    change(meta, arrays)
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, meta=np.array(json.dumps(meta)), **arrays)
    return target


def test_forward_fixture() -> None:
    lines = judge(FORWARD)
    assert failed(lines) == []
    quantities = [line.quantity for line in lines]
    assert len(set(quantities)) == len(quantities) == 3 + 2 * 15
    exact = {line.quantity: line.error for line in lines}
    assert exact["float64 logits, training"] < 1e-12
    assert exact["float64 gradient norms (564)"] < 1e-10


def test_a_fixture_of_segmentation() -> None:
    lines = judge(SEGMENTATION)
    assert failed(lines) == []
    exact = {line.quantity: line.error for line in lines}
    assert len(exact) == len(lines) == 3 + 2 * 20
    assert (
        max(exact[f"float64 {name}"] for name in ("cls, training", "cls0, training", "feature1, training", "split, training"))
        < 1e-12
    )
    assert exact["float64 bound, evaluation"] < 1e-12 and exact["float64 gradient norms (421)"] < 1e-11


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("cls0_train_f64", "float64 cls0, training"), ("bound_eval_f64", "float64 bound, evaluation"),
     ("loss_train_f64", "float64 loss"), ("input_text", "float64 cls, evaluation"), ("input_labels", "float64 loss"),
     ("input_bound", "float64 loss"), ("input_mask", "float64 split, training")],
)  # fmt: skip
def test_wrong_numbers_of_segmentation_fail(tmp_path: Path, name: str, wrong: str) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name][::-1].copy() if arrays[name].ndim else arrays[name] * 1.001

    assert wrong in failed(judge(changed(SEGMENTATION, tmp_path / "x.npz", change)))


@pytest.mark.parametrize(("key", "value"), [("loss", "cross_entropy(logits)"), ("outputs", {"cls": "", "bound": "", "cls7": ""})])
def test_segmentation_of_another_kind_is_refused(tmp_path: Path, key: str, value: object) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta[key], arrays["cls7_train_f64"] = value, arrays["cls0_train_f64"]

    with pytest.raises(FixtureError):
        judge(changed(SEGMENTATION, tmp_path / "x.npz", change))


def test_a_constant_that_is_not_stored(tmp_path: Path) -> None:
    """It is the model's to compute, in place of the checksum, which may differ in a last bit; a model that does not is told."""
    stored = fixture.load(FORWARD)
    name = next(iter(stored.meta["constants"]))

    def leave_out(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["constants"][name] = None

    without = changed(FORWARD, tmp_path / "forward.npz", leave_out)
    with pytest.raises(FixtureError, match="not stored"):
        judge(without)
    constant = torch.from_numpy(stored[stored.meta["constants"][name]])
    found, expected = fixture.weights(fixture.load(without), constants={name: constant}), fixture.weights(stored)
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert not torch.equal(fixture.weights(fixture.load(without), constants={name: constant + 1})[name], expected[name])


def test_an_empty_gradient_has_no_error() -> None:
    """Hyper-GCN without virtual joints has empty parameters, and fixtures hold their empty gradients."""
    assert relative_error(torch.zeros(0, 128), np.zeros((0, 128))) == 0.0
    assert relative_error(torch.zeros(0, 128), np.zeros((1, 128))) == math.inf
    assert math.isnan(relative_error(torch.full((1, 2), math.nan), np.ones((1, 2))))


def test_wrong_numbers_fail(tmp_path: Path) -> None:
    def change(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["num_params"] = 1
        arrays["logits_eval_f64"] *= 1 + 1e-6
        arrays["loss_train_f64"] *= 1 + 1e-6
        arrays["grad_norms_f64"][5] = np.nan
        arrays["grad_f64/l1.gcn1.alpha"] *= -1
        arrays["bn_after/data_bn.running_var"] *= 1.001

    assert failed(judge(changed(FORWARD, tmp_path / "f.npz", change))) == [
        "parameters: 1446672",
        "float64 logits, evaluation",
        "float64 loss",
        "float64 gradient norms (564)",
        "float64 gradient of l1.gcn1.alpha",
        "float64 data_bn.running_var after one pass",
        "float32 gradient norms (564)",
        "float32 gradient of l1.gcn1.alpha",
        "float32 data_bn.running_var after one pass",
    ]


def balance(network: nn.Module, clips: torch.Tensor) -> dict[str, float]:
    """Scales the running statistics such that activations stay of order one in evaluation mode; returns the scales by name."""
    scales: dict[str, float] = {}

    def scale(name: str, norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        variance = float(given[0].var())
        scales.update({f"{name}.running_var": variance, f"{name}.running_mean": math.sqrt(variance)})
        norm.running_var *= variance
        norm.running_mean *= math.sqrt(variance)

    hooks = [
        module.register_forward_pre_hook(lambda norm, given, name=name: scale(name, norm, given))
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        network.eval()(clips)
    for hook in hooks:
        hook.remove()
    return scales


def recorded(path: Path, classes: int, graph: str, people: int, frames: int, adaptive: bool, seed: int) -> Path:
    """A forward fixture of a case that is not among the recorded ones, computed by the slow network of the tests."""
    skeleton = UCLA20 if "ucla" in graph else NTU25
    slow = NaiveCTRGCN(classes, skeleton, people, adaptive)
    graph_table = torch.from_numpy(fixture.load(FORWARD)["constant/0"]) if skeleton is NTU25 else slow.l1.gcn1.PA.detach().clone()
    rng = np.random.default_rng(seed)
    clips = batches.skeletons(rng, (2, 3, frames, skeleton.joints, people), empty=True).astype(np.float16)
    labels = rng.integers(0, classes, 2)
    x = torch.from_numpy(clips).double()
    entries = [
        [name, list(value.shape), str(value.dtype).removeprefix("torch."), "structured" if name.endswith("PA") else "param"]
        for name, value in slow.state_dict().items()
    ]
    constants = {name: "constant/0" for name, _, _, kind in entries if kind == "structured"}

    def fill(scales: dict[str, float]) -> None:
        values = {
            name: fixture.entry_value(
                name, tuple(shape), dtype, kind, seed, constant=graph_table.numpy(), scale=scales.get(name, 1.0)
            )
            for name, shape, dtype, kind in entries
        }
        slow.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})

    slow.double()
    fill({})
    scales = balance(slow, x)
    fill(scales)
    with torch.no_grad():
        evaluated = slow.eval()(x)
    logits = slow.train()(x)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    parameters = dict(slow.named_parameters())
    meta = {
        "model": "ctrgcn", "seed": seed, "entries": entries, "constants": constants, "scales": scales, "aliases": {},
        "weights_crc32": None, "param_names": list(parameters), "num_params": sum(p.numel() for p in parameters.values()),
        "num_trainable": sum(p.numel() for p in parameters.values()), "outputs": {"logits": "scores"},
        "loss": "cross_entropy(logits, input_labels), mean over the batch",
        "constructor_args": {
            "num_class": classes, "num_point": skeleton.joints, "num_person": people, "graph": graph,
            "graph_args": {"labeling_mode": "spatial"}, "adaptive": adaptive,
        },
    }  # fmt: skip
    state = slow.state_dict()
    arrays = {
        "input": clips, "input_labels": labels, "constant/0": graph_table.numpy(),
        "logits_eval_f64": evaluated.numpy(), "logits_train_f64": logits.detach().numpy(),
        "loss_train_f64": loss.detach().numpy(),
        "grad_norms_f64": np.array([float(p.grad.norm()) for p in parameters.values()]),
        **{f"grad_f64/{n}": parameters[n].grad.numpy() for n in ("data_bn.bias", "l6.gcn1.alpha", "l5.residual.conv.weight")},
        **{f"bn_after/data_bn.{n}": state[f"data_bn.{n}"].numpy() for n in ("running_mean", "running_var")},
    }  # fmt: skip
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
    return path


@pytest.mark.parametrize(
    "case",
    [
        (10, "graph.ucla.Graph", 1, 52, True, 5),
        (120, "graph.ntu_rgb_d.Graph", 2, 20, True, 6),
        (60, "graph.ntu_rgb_d.Graph", 2, 17, False, 7),
    ],
)
def test_cases_beyond_the_recorded_ones(tmp_path: Path, case: tuple[int, str, int, int, bool, int]) -> None:
    assert failed(judge(recorded(tmp_path / "case.npz", *case))) == []


def test_pipeline_fixtures_are_dispatched() -> None:
    lines = judge(PARITY / "pipelines" / "ctrgcn_ntu.npz")
    assert lines and failed(lines) == []


def test_weights_rule_is_the_recorded_one() -> None:
    source = fixture.load(FORWARD)
    weights = fixture.weights(source)  # holds the checksum
    assert len(weights) == 822 and weights["l1.gcn1.PA"].shape == (3, 25, 25)
    with pytest.raises(FixtureError, match="checksum"):
        fixture.weights(fixture.Fixture(source.path, {**source.meta, "seed": 102}, source.arrays))


def test_batches_are_the_recorded_ones(tmp_path: Path) -> None:
    assert len(batches.skeleton_batches(fixture.load(TRAJECTORY))) == 12  # holds the checksum
    other = changed(TRAJECTORY, tmp_path / "t.npz", lambda m, a: m.__setitem__("seed", 9))
    with pytest.raises(FixtureError, match="checksum"):
        batches.skeleton_batches(fixture.load(other))


def test_trajectory_with_a_wrong_rate_fails(tmp_path: Path) -> None:
    """A trajectory of one step, recorded with another weight decay than the one it claims."""

    def shorten(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        meta["steps"], meta["batches_crc32"] = 1, None
        meta["hyper"]["weight_decay"] = 0.01
        for name in ("loss_f64", "grad_norm_f64", "param_norm_f64", "lr"):
            arrays[name] = arrays[name][:1]
        arrays["change_norms_end"] = arrays["change_norms_first"]
        for name in [n for n in arrays if n.startswith(("end/", "bn_end/"))]:
            del arrays[name]

    short = changed(TRAJECTORY, tmp_path / "trajectories" / "t.npz", shorten)
    (tmp_path / "ctrgcn_ntu60.npz").write_bytes(FORWARD.read_bytes())
    bad = failed(judge(short))
    assert "float64 param_norm, step 1" in bad and "float64 change_norms_first" in bad
    assert "float64 loss, step 1" not in bad and "float64 grad_norm, step 1" not in bad


def not_an_archive(folder: Path) -> Path:
    (folder / "x.npz").write_bytes(b"hello")
    return folder / "x.npz"


def no_meta(folder: Path) -> Path:
    np.savez(folder / "x.npz", a=np.zeros(3))
    return folder / "x.npz"


def no_json(folder: Path) -> Path:
    np.savez(folder / "x.npz", meta=np.array("{"))
    return folder / "x.npz"


def pickled(folder: Path) -> Path:
    np.savez(folder / "x.npz", meta=np.array([{"a": 1}], dtype=object))
    return folder / "x.npz"


def truncated(folder: Path) -> Path:
    (folder / "x.npz").write_bytes(FORWARD.read_bytes()[:5000])
    return folder / "x.npz"


def bare_array(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros(3))
    return folder / "x.npy"


UNUSABLE: dict[str, Callable[[Path], Path]] = {
    "absent": lambda folder: folder / "x.npz",
    "a folder": lambda folder: folder,
    "text": not_an_archive,
    "no meta": no_meta,
    "no JSON": no_json,
    "pickled": pickled,
    "truncated": truncated,
    "one array": bare_array,
    "another model": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: m.__setitem__("model", "nosuchmodel")),
    "another graph": lambda f: changed(
        FORWARD, f / "x.npz", lambda m, a: m["constructor_args"].__setitem__("graph", "graph.kinetics.Graph")
    ),
    "another class count": lambda f: changed(
        FORWARD, f / "x.npz", lambda m, a: m["constructor_args"].__setitem__("num_class", 61)
    ),
    "another loss": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: m.__setitem__("loss", "mse(a, b)")),
    "more outputs": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: m["outputs"].__setitem__("feature", "")),
    "no seed": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: m.pop("seed")),
    "no logits": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: a.pop("logits_eval_f64")),
    "another input": lambda f: changed(FORWARD, f / "x.npz", lambda m, a: a.__setitem__("input", a["input"][:, :, :, :20])),
    "no sibling": lambda f: changed(TRAJECTORY, f / "trajectories" / "x.npz", lambda m, a: None),
    "another optimizer": lambda f: changed(TRAJECTORY, f / "x.npz", lambda m, a: m["hyper"].__setitem__("optimizer", "LAMB")),
    "unknown setting": lambda f: changed(TRAJECTORY, f / "x.npz", lambda m, a: m["hyper"].__setitem__("lookahead", 5)),
}


@pytest.mark.parametrize("make", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(LabError) as caught:
        judge(make(tmp_path))
    assert caught.value.exit_code == 2


def test_lines() -> None:
    assert Line("a", 1e-9, 1e-8).ok and Line("a", 0.0, 0.0).ok
    assert not Line("a", 2e-8, 1e-8).ok
    assert not Line("a", math.nan, 1e-8).ok and not Line("a", math.inf, 1e-8).ok


def test_errors() -> None:
    assert relative_error([1.0, 2.0], [1.0, 4.0]) == 0.5
    assert relative_error([1.0], [1.0, 4.0]) == math.inf
    assert math.isnan(relative_error(torch.tensor([math.nan]), [1.0]))
    assert value_error([0.0, 1.0], [0.0, 1.0]) == 0.0
    assert value_error([1e-30], [0.0]) == math.inf
    assert math.isnan(value_error([math.nan], [1.0]))
    assert norm_error([math.nan, 1.0], [math.nan, 1.0]) == 0.0
    assert norm_error([0.0, 1.0], [math.nan, 1.0]) == math.inf
    assert norm_error([1e-6, 1.0], [0.0, 1.0]) == pytest.approx(1e-3)


def test_dropout_is_off_in_the_judged_network() -> None:
    source = fixture.load(FORWARD)
    args = {**source.meta["constructor_args"], "drop_out": 0.5}
    network, _ = trajectory.build(fixture.Fixture(source.path, {**source.meta, "constructor_args": args}, source.arrays),
                                  fixture.weights(source))  # fmt: skip
    assert isinstance(network, CTRGCN) and network.dropout.p == 0.0


def test_every_visible_forward_fixture_names_its_model() -> None:
    for path in PARITY.glob("*.npz"):
        card, _ = models.find_official(fixture.load(path).meta["model"], None)
        assert path.name.startswith((card.name, *card.toml.get("official_variants", {})))
