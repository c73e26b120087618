"""SkateFormer against the specification: its sizes, its start values, its refusals, and a slow network that fuses nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine import models
from models.skateformer import network as module
from models.skateformer.network import SkateFormer, evenly, row_multiple, sine_code
from shared_data.errors import LabError, UsageError
from tests.models.against_slow import assert_same_training, randomise
from tests.models.skateformer.naive import NaiveSkateFormer

CARD = models.find("skateformer")
NAMES = models.official_module(CARD)
UCLA = {
    "num_people": 1, "num_points": 20, "mlp_ratio": 1.0,
    "type_1_size": [8, 4], "type_2_size": [8, 5], "type_3_size": [8, 4], "type_4_size": [8, 5],
}  # fmt: skip
SMALL = {"frames": 8, "num_heads": 8, "type_1_size": [1, 4], "type_2_size": [1, 6], "type_3_size": [1, 4], "type_4_size": [1, 6]}


def clips_for(network: SkateFormer, frames: int, n: int = 2) -> torch.Tensor:
    shape = (n, 3, frames, network.joints, network.people)
    clips = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clips[-1, ..., 1:] = 0.0
    return clips.to(network.head.weight.dtype)


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "ucla": ({**UCLA, "num_classes": 10}, 64),
    "tiny": ({"num_heads": 8, "num_classes": 5, "mlp_ratio": 1.0,
              "type_1_size": [4, 6], "type_2_size": [4, 8], "type_3_size": [4, 6], "type_4_size": [4, 8]}, 32),
    "odd": ({"num_heads": 16, "num_people": 1, "num_points": 6, "num_classes": 3, "num_frames": 13, "kernel_size": 3,
             "mlp_ratio": 0.5, "index_t": False,
             "type_1_size": [1, 2], "type_2_size": [1, 6], "type_3_size": [1, 3], "type_4_size": [1, 2]}, 13),
    "no bias": ({"num_heads": 24, "num_people": 3, "num_points": 4, "num_classes": 4, "rel": False, "num_frames": 16,
                 "type_1_size": [2, 4], "type_2_size": [2, 3], "type_3_size": [1, 6], "type_4_size": [2, 3]}, 16),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_slow_network(case: tuple[dict[str, Any], int]) -> None:
    official, frames = case
    naive = randomise(NaiveSkateFormer(**official))
    ours = models.build(CARD, **NAMES.constructor({**official, "attn_drop": 0.0, "drop_path": 0.0}))
    clips = clips_for(ours, frames).double()
    positions = torch.linspace(-1, 0.9, frames, dtype=torch.float64).expand(2, -1) * torch.tensor([[1.0], [0.5]])
    assert_same_training(ours, naive, NAMES, clips, positions)


@pytest.mark.parametrize("official", [{}, UCLA, CASES["tiny"][0]], ids=["ntu", "ucla", "tiny"])
def test_official_entries(official: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = models.build(CARD, **NAMES.constructor(official))
        naive = NaiveSkateFormer(**official)
    names = NAMES.to_official(network.state_dict(), network)
    assert len(names) == 214
    assert {k: v.shape for k, v in names.items()} == {k: v.shape for k, v in naive.state_dict().items()}


def test_start_values() -> None:
    torch.manual_seed(0)
    network = SkateFormer(60)
    for name, value in NAMES.to_official(network.state_dict(), network).items():
        last = name.rsplit(".", 1)[-1]
        tolerance = 6 / math.sqrt(2 * value.numel())
        if "norm_" in name or ".bn." in name:
            assert torch.equal(value, torch.full_like(value, last in ("weight", "running_var"))), name
        elif last in ("gconv", "relative_position_bias_table", "joint_person_embedding"):
            assert float(value.std()) == pytest.approx(0.02, rel=tolerance), name
            assert abs(float(value.mean())) < 6 * 0.02 / math.sqrt(value.numel()), name
        elif last != "relative_position_index":  # uniform, weight and bias alike
            weight = NAMES.to_official(network.state_dict(), network)[name.rsplit(".", 1)[0] + ".weight"]
            bound = 1 / math.sqrt(weight[0].numel())
            assert float(value.abs().max()) <= bound * (1 + 1e-6), name
            assert float(value.std(unbiased=False)) == pytest.approx(bound / math.sqrt(3), rel=3 * tolerance), name
    table = network.embedding.detach()
    assert float(table.abs().max()) > 3 * 0.02  # cut at 2, not at 2 standard deviations


def test_drop_path_rises() -> None:
    rates = [block.drop_path.drop_prob for block in SkateFormer(60, drop_path=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.02857, 0.05714, 0.08571, 0.11429, 0.14286, 0.17143, 0.2], abs=1e-5)


def test_training_draws_and_zero_rates_do_not() -> None:
    torch.manual_seed(0)
    network = SkateFormer(4, **SMALL).train()
    clips = clips_for(network, 8)
    assert not torch.equal(network(clips), network(clips))
    still = SkateFormer(4, **SMALL, attn_drop=0.0, drop_path=0.0).train()
    assert torch.equal(still(clips), still(clips))
    dropped = SkateFormer(4, **SMALL, attn_drop=0.0, drop_path=0.0, head_drop=0.5).train()
    assert not torch.equal(dropped(clips), dropped(clips))


def test_sine_code() -> None:
    code = sine_code(torch.tensor([[-1.0, 0.5]], dtype=torch.float64), 96)
    assert code.shape == (1, 2, 96)
    for i in (0, 1, 20, 47):
        omega = 10_000 ** (-2 * i / 96)
        assert float(code[0, 1, 2 * i]) == pytest.approx(math.sin(0.5 * omega), rel=1e-12)
        assert float(code[0, 0, 2 * i + 1]) == pytest.approx(math.cos(-omega), rel=1e-12)


def test_positions() -> None:
    assert evenly(4, torch.device("cpu"), torch.float32).tolist() == [[-1.0, -0.5, 0.0, 0.5]]
    network = SkateFormer(4, **SMALL).eval()
    clips = clips_for(network, 8)
    even = 2 * torch.arange(8) / 8 - 1
    assert SkateFormer.takes_positions
    assert torch.equal(network(clips), network(clips, even.expand(2, -1)))
    assert torch.equal(network(clips, even.expand(2, -1).double()), network(clips))
    assert not torch.allclose(network(clips), network(clips, even.expand(2, -1) * 0.5))
    learned = SkateFormer(4, **SMALL, index_t=False).eval()
    assert torch.equal(learned(clips), learned(clips, even.expand(2, -1) * 0.5))


def test_rows_filled_up_for_gpu_kernels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = randomise(SkateFormer(4, people=1, **{**SMALL, "num_heads": 32})).double().eval()
    clips = clips_for(network, 8)
    plain = network(clips)
    F.cross_entropy(plain, torch.tensor([0, 1])).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    monkeypatch.setattr(module, "row_multiple", lambda x: 8)
    filled = network(clips)
    F.cross_entropy(filled, torch.tensor([0, 1])).backward()
    torch.testing.assert_close(filled, plain, rtol=1e-10, atol=1e-12)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-8, atol=1e-12)


def test_rows_are_filled_up_to_16_bytes_off_the_cpu() -> None:
    assert row_multiple(torch.empty(1)) == 1
    assert row_multiple(torch.empty(1, device="meta")) == 4
    assert row_multiple(torch.empty(1, device="meta", dtype=torch.bfloat16)) == 8


@pytest.mark.parametrize(("frames", "a"), [(64, 8), (128, 8), (48, 6), (32, 4), (16, 2), (13, 1)])
def test_sizes_that_fit(frames: int, a: int) -> None:
    sizes = {"type_1_size": [a, 8], "type_2_size": [a, 12], "type_3_size": [a, 8], "type_4_size": [a, 12]}
    with torch.device("meta"):
        network = SkateFormer(4, frames=frames, **sizes)
        assert network(torch.empty(2, 3, frames, 24, 2)).shape == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"frames": 48},
            r"48 frames into partitions of 8 frames(.|\n)*48, 24, 12, 6(.|\n)*window of 64,(.|\n)*1, 2, 3, 6 frames",
        ),
        ({"frames": 0}, "window of 0 frames"),
        ({"people": 1, "type_1_size": [8, 5]}, r"cut 24 joints(.|\n)*numbers that divide 24: 1, 2, 3, 4, 6, 8, 12, 24"),
        ({"skeleton": "kinetics18"}, "cut 36 joints"),
        ({"num_heads": 12}, r"num_heads is 12(.|\n)*8, 16, 24, 32, 48, 96"),
        ({"type_2_size": [8]}, "type_2_size is"),
        ({"type_3_size": "8x8"}, "type_3_size is"),
        ({"type_4_size": [8, 0]}, "type_4_size is"),
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"attn_drop": -0.1}, "attn_drop is -0.1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        SkateFormer(4, **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 64, 25, 2), r"25, 2(.|\n)*partition: true"),
        ((2, 3, 48, 24, 2), "48 frames"),
    ],
)
def test_clips_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with torch.device("meta"):
        network = SkateFormer(4)
        with pytest.raises(LabError, match=message):
            network(torch.empty(shape))


def test_a_learned_embedding_has_one_length() -> None:
    with torch.device("meta"):
        network = SkateFormer(4, index_t=False)
        with pytest.raises(LabError, match="128 frames"):
            network(torch.empty(2, 3, 128, 24, 2))


def test_layouts_and_joints() -> None:
    with torch.device("meta"):
        assert SkateFormer(4).joints == 24
        whole = SkateFormer(4, points=25, type_1_size=[8, 5], type_2_size=[8, 10], type_3_size=[8, 5], type_4_size=[8, 10])
        assert whole(torch.empty(1, 3, 64, 25, 2)).shape == (1, 4)
        ucla = SkateFormer(4, skeleton="ucla20", people=1, type_1_size=[8, 4], type_2_size=[8, 5], type_3_size=[8, 4],
                           type_4_size=[8, 5])  # fmt: skip
        assert ucla.joints == 20
        assert SkateFormer(4, skeleton="kinetics18", type_1_size=[8, 9], type_3_size=[8, 9]).joints == 18
