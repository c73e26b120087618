"""What CUDA's kernels hold, on operations whose bytes can be summed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.steps.kernels import KEPT_IN_FLOAT32, UNKNOWN_SCRATCH, on_cuda, scratch
from planner.steps.lifetimes import Lifetimes

aten = torch.ops.aten


def empty(*shape: int, grad: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype, requires_grad=grad)


def test_dropout_keeps_a_byte_for_each_element() -> None:
    x = empty(64, 1024, grad=True)
    with Lifetimes() as memory, on_cuda(autocast=False):
        y = F.dropout(x, 0.5)
        assert memory.live == 64 * 1024 * (4 + 1)
        y.sum().backward()
    with Lifetimes() as plain:
        y = F.dropout(x, 0.5)
    assert plain.live == 64 * 1024 * (4 + 4)
    with Lifetimes() as evaluated, on_cuda(autocast=False):
        assert F.dropout(x, 0.5, training=False) is not None
    assert evaluated.peak == 0


def test_attention_keeps_a_padded_sum_for_each_query_and_a_mask_in_wide_rows() -> None:
    output, sums, seeds = 2 * 4 * 40 * 8 * 4, 2 * 4 * 64 * 4, 2 * 512
    with FakeTensorMode():  # torch 2.3 has no meta kernel
        q, mask = torch.empty(2, 4, 40, 8, requires_grad=True), torch.empty(1, 1, 40, 40, requires_grad=True)
        with Lifetimes("cpu") as memory, on_cuda(autocast=False):
            kept = F.scaled_dot_product_attention(q, q, q)
            assert memory.live == output + sums + seeds
        with Lifetimes("cpu") as masked, on_cuda(autocast=False):
            kept = F.scaled_dot_product_attention(q, q, q, mask)
            assert masked.live == output + sums + seeds + 40 * 48 * 4
        assert kept.shape == q.shape


def test_attention_with_strides_that_no_fused_kernel_takes_is_taken_apart() -> None:
    q = empty(2, 4, 8, 40).transpose(2, 3)
    with Lifetimes() as memory, on_cuda(autocast=False):
        F.scaled_dot_product_attention(q, q, q)
    assert memory.peak > 2 * 4 * 40 * 40 * 4


@pytest.mark.parametrize(
    ("dtype", "blocks"),
    [
        (torch.float32, [2 * 4 * 40 * 8 * 4, 2 * 4 * 40 * 4, 2 * 4 * 40 * 4]),
        (torch.bfloat16, [2 * 4 * 40 * 4, 2 * 4 * 64 * 8 * 4]),
    ],
)
def test_backward_of_attention(dtype: torch.dtype, blocks: list[int]) -> None:
    q = empty(2, 4, 40, 8, dtype=dtype)
    call = aten._scaled_dot_product_efficient_attention_backward.default
    assert scratch(call, (q, q, q, q, None, q), {}, None) == blocks


def test_a_convolution_copies_what_is_not_dense() -> None:
    weight = empty(6, 3, 1, 1)
    dense, shuffled = empty(2, 3, 10, 5), empty(2, 3, 5, 10).transpose(2, 3)
    last = empty(2, 3, 10, 5).to(memory_format=torch.channels_last)
    for x, copied in ((dense, 0), (shuffled, 2 * 3 * 50 * 4), (last, 0)):
        with Lifetimes(scratch=scratch) as memory:
            y = F.conv2d(x, weight)
            # the result of 2 * 6 * 50 numbers, and the copy beside it; blocks of 512
            assert memory.peak == 2560 + (0 if not copied else 1536)
            assert memory.live == 2560
        del y


def test_a_convolution_with_channels_last_takes_all_else_so_too() -> None:
    last, weight = empty(2, 3, 10, 5).to(memory_format=torch.channels_last), empty(6, 3, 3, 1)
    assert scratch(aten.convolution.default, (last, weight), {}, None) == [6 * 3 * 3 * 4]


def test_backward_of_a_convolution_copies_only_what_it_reads() -> None:
    gradient, x, weight = empty(2, 6, 5, 10).transpose(2, 3), empty(2, 3, 5, 10).transpose(2, 3), empty(6, 3, 1, 1)
    call = aten.convolution_backward.default
    for mask, blocks in (((True, True), [2400, 1200]), ((True, False), [2400]), ((False, True), [2400, 1200])):
        args = (gradient, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*mask, False])
        assert scratch(call, args, {}, None) == blocks


def test_products_copy_matrices_without_a_unit_stride() -> None:
    dense, turned, shown = empty(3, 8, 6), empty(3, 6, 8).transpose(1, 2), empty(3, 8, 12)[:, :, ::2]
    expanded = empty(1, 8, 6).expand(3, -1, -1)
    other = empty(3, 6, 5)
    for matrix, blocks in ((dense, []), (turned, []), (expanded, []), (shown, [3 * 8 * 6 * 4])):
        assert scratch(aten.bmm.default, (matrix, other), {}, None) == blocks
        assert scratch(aten.addmm.default, (empty(5), matrix[0], other[0]), {}, None) == ([8 * 6 * 4] if blocks else [])
    into = empty(3, 8, 10)[:, :, ::2]
    assert scratch(aten.bmm.out, (dense, other), {"out": into}, into) == [3 * 8 * 5 * 4]


def test_pooling_and_normalisation_copy_what_is_not_dense() -> None:
    x = empty(2, 4, 5, 8).transpose(2, 3)
    size = 2 * 4 * 40 * 4
    assert scratch(aten.max_pool2d_with_indices.default, (x, [3, 1]), {}, None) == [size]
    indices = empty(2, 4, 5, 8, dtype=torch.int64).transpose(2, 3)
    args = (x, x, [3, 1], [1, 1], [1, 0], [1, 1], False, indices)
    assert scratch(aten.max_pool2d_with_indices_backward.default, args, {}, None) == [size, size, 2 * size]
    assert scratch(aten._softmax.default, (x, 1, False), {}, None) == [size]
    assert scratch(aten.native_layer_norm.default, (x, [5], None, None, 1e-5), {}, None) == [size]
    assert scratch(aten.add.Tensor, (x, x), {}, None) == []


def autocast_types(*, on: bool) -> dict[str, torch.dtype]:
    """Types of results from a half precision tensor."""
    norm = nn.LayerNorm(8)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        x = torch.empty(4, 8, dtype=torch.bfloat16)
        with on_cuda(autocast=on):
            results = {
                "layer_norm": norm(x), "softmax": x.softmax(1), "sum": x.sum(0), "pow": x.pow(2), "exp": x.exp(),
                "cumsum": x.cumsum(1), "relu": x.relu(), "add": x + x, "mm": x @ x.t(), "chosen": x.sum(0, dtype=torch.float64),
            }  # fmt: skip
            return {name: result.dtype for name, result in results.items()}


def test_autocast_keeps_in_float32_what_a_gpu_does_and_nothing_else() -> None:
    types = autocast_types(on=True)
    half, full = torch.bfloat16, torch.float32
    assert types == {
        "layer_norm": full, "softmax": full, "sum": full, "pow": full, "exp": full, "cumsum": full,
        "relu": half, "add": half, "mm": half, "chosen": torch.float64,
    }  # fmt: skip
    assert autocast_types(on=False)["layer_norm"] == half  # a CPU's list; and ours is gone again


def test_a_weight_used_twice_is_cast_once_for_the_forward_pass() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), Lifetimes("cpu") as memory:
        linear = nn.Linear(64, 64, bias=False)
        x = torch.empty(1, 64, dtype=torch.bfloat16)
        before = memory.live
        with torch.autocast("cpu", torch.bfloat16), on_cuda(autocast=True):
            linear(linear(x)).detach()
            assert memory.live == before + 64 * 64 * 2
        assert memory.live == before


def test_what_stays_in_float32_are_operations_that_torch_has() -> None:
    assert all(getattr(aten, name).overloads() for name in KEPT_IN_FLOAT32)


def attention_peak(*shape: int, dtype: torch.dtype = torch.float32, mask: torch.dtype | None = None, **words: object) -> int:
    """Bytes beyond what the kernel reads and returns."""
    with FakeTensorMode():
        q = torch.empty(*shape, dtype=dtype)
        masks = [] if mask is None else [torch.empty(shape[-2], shape[-2], dtype=mask)]
        with Lifetimes("cpu", scratch) as memory, on_cuda(autocast=False):
            memory.hold([q, *masks])
            before = memory.live
            result = F.scaled_dot_product_attention(q, q, q, *masks, **words)
            return memory.peak - before - result.numel() * result.element_size()


PROBABILITIES = 2 * 4 * 256 * 256


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 4, 256, 6), torch.float32),
        ((2, 4, 256, 12), torch.bfloat16),
        ((8, 256, 8), torch.float32),
        ((2, 4, 256, 8), torch.float64),
    ],
)
def test_attention_that_no_fused_kernel_takes_is_taken_apart(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also under fake tensors, for which torch would choose a CPU's kernel."""
    assert attention_peak(*shape, dtype=dtype) >= PROBABILITIES * dtype.itemsize


@pytest.mark.parametrize(("shape", "dtype"), [((2, 4, 256, 8), torch.float32), ((2, 4, 256, 16), torch.bfloat16)])
@pytest.mark.parametrize("words", [{}, {"is_causal": False}, {"is_causal": True}, {"dropout_p": 0.1}])
def test_attention_that_the_fused_kernel_takes(shape: tuple[int, ...], dtype: torch.dtype, words: dict[str, object]) -> None:
    assert attention_peak(*shape, dtype=dtype, **words) < PROBABILITIES / 8


def test_queries_for_all_clips_at_once_are_taken_apart() -> None:
    with FakeTensorMode():
        q, k = torch.empty(1, 4, 256, 8), torch.empty(2, 4, 256, 8)
        with Lifetimes("cpu") as memory, on_cuda(autocast=False):
            F.scaled_dot_product_attention(q, k, k)
    assert memory.peak > PROBABILITIES * 4


def test_a_mask_of_booleans_is_made_one_of_numbers() -> None:
    more = attention_peak(2, 4, 256, 8, mask=torch.bool) - attention_peak(2, 4, 256, 8, mask=torch.float32)
    assert more == 256 * 256 * 4
    assert attention_peak(2, 4, 256, 6, mask=torch.bool) >= PROBABILITIES * 4


def test_a_layer_in_evaluation_is_seen_part_by_part() -> None:
    with FakeTensorMode(), torch.no_grad():
        layer, x = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), torch.empty(8, 256, 32)
        with Lifetimes("cpu", scratch) as memory, on_cuda(autocast=False):
            layer(x)
    assert memory.peak > 3 * 8 * 256 * 32 * 4 + 8 * 256 * 64 * 4  # torch's single call shows its result alone
    before = torch.backends.mha.get_fastpath_enabled()
    with on_cuda(autocast=False):
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.skipif(not hasattr(aten, "_safe_softmax"), reason="torch before 2.5 has no _safe_softmax")
def test_softmax_under_a_mask_has_three_more_tensors() -> None:
    x = empty(4, 8, 100)
    assert scratch(aten._safe_softmax.default, (x, -1), {}, x) == [4 * 8 * 100 * 4, 4 * 8 * 100, 4 * 8]


def test_calls_of_unknown_needs_hold_as_much_again() -> None:
    x = empty(16, 64)
    with Lifetimes(scratch=scratch) as memory:
        torch.fft.rfft(x)
    assert memory.peak == 16 * 64 * 4 + 2 * (16 * 33 * 8 + 384)  # blocks of 512; the argument is counted only as scratch
    assert scratch(aten.sort.default, (x,), {}, x.sort()) == [4096, 4096, 8192]
    known = [name for name in UNKNOWN_SCRATCH if hasattr(aten, name)]
    assert {"_fft_r2c", "sort", "cumsum", "_thnn_fused_lstm_cell", "upsample_bilinear2d"} <= set(known)
