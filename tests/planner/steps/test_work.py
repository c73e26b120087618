"""The counter of work against counts done by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from planner.steps.kernels import FusedAttention
from planner.steps.work import StepWork, Tally, Work, many_at_once


def empty(*shape: int, grad: bool = False) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


def counts(work: Work) -> tuple[int, int, int, int, int]:
    return work.launches, work.read, work.written, work.matrix_flops, work.other_flops


def test_a_sum_of_two_tensors_is_one_launch() -> None:
    a, b = empty(10, 100), empty(10, 100)
    with Work() as work:
        a + b
    assert counts(work) == (1, 8000, 4000, 0, 1000) and work.calls == {"add": 1} and work.moved == {"add": 12000}


def test_the_same_tensor_twice_is_read_once_also_transposed() -> None:
    a = empty(10, 10)
    with Work() as work:
        a * a
        a + a.t()
    assert counts(work) == (2, 800, 800, 0, 200)


def test_views_allocations_and_questions_start_nothing() -> None:
    a = empty(4, 6, 8)
    with Work() as work:
        a.view(24, 8).t().unsqueeze(0).expand(3, -1, -1)[:, 2:].detach()
        a.split(2), a.chunk(2, 1), a.reshape(-1), a.contiguous(), a.unbind()
        torch.ops.aten._unsafe_view(a, [24, 8])
        torch.empty(5, device="meta"), torch.empty_like(a), a.new_empty(3)
        a.size(), a.is_contiguous()
    assert counts(work) == (0, 0, 0, 0, 0)


def test_a_reshape_that_must_copy_counts() -> None:
    a = empty(4, 6)
    with Work() as work:
        a.t().reshape(24)
    assert counts(work) == (1, 96, 96, 0, 0)


def test_expanded_tensors_count_their_memory() -> None:
    bias, a = empty(8), empty(100, 8)
    with Work() as work:
        a * bias.expand(100, 8)
    assert counts(work) == (1, 3200 + 32, 3200, 0, 800)


def test_a_slice_counts_what_it_shows() -> None:
    a = empty(100, 8)
    with Work() as work:
        a[:10] + 1
    assert counts(work) == (1, 320, 320, 0, 80)


def test_in_place_counts_both_and_overwriting_only_writes() -> None:
    a, b = empty(100), empty(100)
    with Work() as work:
        a.add_(b)
    assert counts(work) == (1, 800, 400, 0, 100)
    with Work() as work:
        a.copy_(b)
        a.zero_()
    assert counts(work) == (2, 400, 800, 0, 0)
    with Work() as work:
        torch.add(a, b, out=empty(100))
    assert counts(work) == (1, 800, 400, 0, 100)


def test_patterns_are_not_read_and_picks_read_what_they_return() -> None:
    table, rows = empty(1000, 4), torch.empty(3, dtype=torch.int64, device="meta")
    with Work() as work:
        torch.zeros_like(table)
    assert counts(work) == (1, 0, 16000, 0, 0)
    with Work() as work:
        table[rows]
        table.index_select(0, rows)
    assert counts(work) == (2, 2 * (48 + 24), 2 * 48, 0, 0)


def test_a_matrix_product_forward_and_backward() -> None:
    x, w = empty(6, 4), empty(4, 5, grad=True)
    with Work() as work:
        y = x @ w
    assert counts(work) == (1, 4 * (24 + 20), 4 * 30, 2 * 6 * 4 * 5, 0)
    with Work() as work:
        y.backward(empty(6, 5))
    assert work.calls["mm"] == 1 and work.matrix_flops == 2 * 6 * 4 * 5  # x needs no gradient


def test_a_training_step_of_two_layers() -> None:
    """Forward 2 products, backward 3 (the clips need no gradient), two per multiply-add."""
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).to("meta")
    with Work() as work:
        network(empty(64, 16)).sum().backward()
    first, second = 2 * 64 * 16 * 32, 2 * 64 * 32 * 10
    assert work.matrix_flops == 2 * first + 3 * second
    assert work.calls["addmm"] == 2 and work.calls["mm"] == 3 and work.calls["relu"] == work.calls["threshold_backward"] == 1


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_backward_is_twice_its_forward(groups: int) -> None:
    x, conv = empty(2, 8, 10, 5, grad=True), nn.Conv2d(8, 16, (3, 1), padding=(1, 0), groups=groups, bias=False).to("meta")
    with Work() as work:
        y = conv(x)
    weight, out = 16 * (8 // groups) * 3, 2 * 16 * 10 * 5
    forward = 2 * out * (8 // groups) * 3
    assert counts(work) == (1, 4 * (800 + weight), 4 * out, forward, 0)
    with Work() as work:
        y.backward(empty(*y.shape))
    assert counts(work) == (1, 4 * (out + 800 + weight), 4 * (800 + weight), 2 * forward, 0)


def test_the_first_convolution_does_not_read_its_weight_backward() -> None:
    x, conv = empty(2, 8, 10, 5), nn.Conv2d(8, 16, 1, bias=False).to("meta")
    y = conv(x)
    with Work() as work:
        y.backward(empty(*y.shape))
    assert counts(work) == (1, 4 * (1600 + 800), 4 * 128, 2 * 1600 * 8, 0)


def test_ungrouped_networks_agree_with_torchs_own_counter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, (5, 1)), nn.Flatten(), nn.LazyLinear(6))
    network(torch.zeros(1, 3, 13, 9))
    x = torch.zeros(2, 3, 13, 9)
    with FlopCounterMode(display=False) as theirs:
        network(x).sum().backward()
    with Work("cpu") as work:
        network(x).sum().backward()
    assert work.matrix_flops == theirs.get_total_flops() > 0


def test_fused_attention_keeps_no_probabilities() -> None:
    q, k, v = (empty(2, 4, 128, 8, grad=True) for _ in range(3))
    with Work() as apart, FusedAttention():
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    if not apart.calls["_scaled_dot_product_efficient_attention"]:
        pytest.skip("this torch has no meta kernel of fused attention")
    product = 2 * 2 * 4 * 128 * 128 * 8
    assert apart.matrix_flops == 2 * product + 5 * product  # the backward pass makes the probabilities again
    probabilities = 4 * 2 * 4 * 128 * 128
    assert apart.read + apart.written < 2 * probabilities
    with Work() as plain:
        ((q @ k.transpose(2, 3)).softmax(-1) @ v).sum().backward()
    assert plain.read + plain.written > 8 * probabilities


def test_attention_on_a_cpu_has_the_same_operations() -> None:
    q, k, v = (torch.zeros(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    with Work("cpu") as work:
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    assert work.matrix_flops == 7 * 2 * 2 * 4 * 16 * 16 * 8


def test_other_devices_do_not_count() -> None:
    a, b = empty(10), torch.zeros(10)
    with Work() as work:
        b + 1
        torch.zeros(3)
    assert counts(work) == (0, 0, 0, 0, 0)
    with Work("cpu") as work:
        b + 1
        a + 1
    assert counts(work) == (1, 40, 40, 0, 10)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_update_touches_all_parameters_at_once(kind: type[torch.optim.Optimizer]) -> None:
    parameters = [nn.Parameter(empty(10)) for _ in range(20)]
    for parameter in parameters:
        parameter.grad = empty(10)
    optimizer = kind(parameters, lr=0.1)  # type: ignore[call-arg]
    with many_at_once(optimizer), Work():
        optimizer.step()  # makes the optimizer's state, tensor by tensor
    with many_at_once(optimizer), Work() as work:
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert 3 < work.launches < 40
    assert work.calls["_foreach_norm"] == 1 and work.calls["_foreach_add_"] >= 1
    assert not optimizer.param_groups[0]["foreach"]
    with Work() as one_by_one:
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert one_by_one.launches > work.launches + 20


def stgcn_like(clips: int) -> Work:
    network = nn.Sequential(nn.Conv2d(3, 8, (3, 1)), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 5, 7)).to(
        "meta"
    )
    with Work() as work:
        nn.functional.cross_entropy(
            network(empty(clips, 3, 6, 5)), torch.empty(clips, dtype=torch.int64, device="meta")
        ).backward()
    return work


def test_tallies_by_name_add_up_to_the_totals() -> None:
    a, b = empty(10, 100), empty(100, 3)
    with Work() as work:
        (a + a) @ b
    counted = work.counted
    assert counted.by_call == {"add": Tally(1, 8000, 0, 1000), "mm": Tally(1, 4 * (1000 + 300 + 30), 6000, 0)}
    work = stgcn_like(4)
    counted = work.counted
    assert counted.launches == work.launches > 10 and counted.bytes == work.read + work.written
    assert (counted.matrix_flops, counted.other_flops) == (work.matrix_flops, work.other_flops)
    assert counted.by_call["convolution"].matrix_flops == 2 * 4 * 8 * 4 * 5 * 9
    assert {name: tally.calls for name, tally in counted.by_call.items()} == work.calls


def test_what_was_counted_is_not_changed_by_what_runs_later() -> None:
    with Work() as work:
        empty(3) + 1
    before = work.counted
    with work:
        empty(3) + 1
    assert before.launches == 1 and work.counted.launches == 2
    with pytest.raises(TypeError):
        before.by_call["add"] = Tally()  # type: ignore[index]


def test_work_of_any_batch_follows_from_two() -> None:
    four, eight, wanted = (stgcn_like(n).counted for n in (4, 8, 32))
    assert StepWork.affine(four, 4, eight, 8, 32) == wanted
    assert StepWork.affine(eight, 8, four, 4, 32) == wanted
    assert wanted.launches == four.launches and wanted.bytes > 4 * four.bytes
    assert StepWork.affine(four, 4, eight, 8, 4) == four


def test_a_call_that_only_one_of_two_makes_and_counts_that_would_be_negative() -> None:
    one, two = StepWork({"add": Tally(1, 10, 0, 5)}), StepWork({"mm": Tally(2, 40, 8, 0)})
    three = StepWork.affine(one, 1, two, 2, 3)
    assert three == StepWork({"add": Tally(), "mm": Tally(4, 80, 16, 0)})
    with pytest.raises(ValueError, match="no line"):
        StepWork.affine(one, 2, two, 2, 3)


def test_counts_survive_json_and_damage_does_not_pass() -> None:
    work = stgcn_like(3).counted
    assert StepWork.from_dict(json.loads(json.dumps(work.as_dict()))) == work
    for damaged in ({"add": [1, 2, 3]}, {"add": [1, 2, 3, -1]}, {"add": [1, 2, 3, "4"]}, {"add": [1, 2.5, 3, 4]}, {"add": 7}):
        with pytest.raises((ValueError, TypeError)):
            StepWork.from_dict(damaged)  # type: ignore[arg-type]
