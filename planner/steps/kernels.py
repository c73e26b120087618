"""What a GPU's kernels do and hold that torch's operations on tensors without values do not.

Tensors without values are on no GPU: functions that choose a kernel by the device choose another one, autocast goes by the CPU's
list, and what a kernel allocates for itself while it runs is not seen. `KERNELS` lists what is put right, with how much it is and
where it is read; `on_cuda` puts the functions right, `scratch` counts what runs beside. Workspaces of cuDNN and cuBLAS are
not here: they are measured, and part of a card's calibration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


@dataclass(frozen=True)
class Kernel:
    """One difference, for people: what is predicted in place of what the operations show, and how it is known."""

    operations: str
    predicted: str
    known: str


KERNELS = (
    Kernel(
        "dropout",
        "one kernel, which keeps a mask of 1 byte per element; elsewhere a mask of the type of the input is scaled and kept",
        "torch.nn.functional.dropout calls native_dropout on CUDA (ATen/native/Dropout.cpp, is_fused_kernel_acceptable)",
    ),
    Kernel(
        "scaled_dot_product_attention, forward",
        "the memory-efficient kernel: no probabilities; a log-sum-exp in float32 for every query, their number rounded up to 32; "
        "a mask whose rows are no multiple of 16 is copied with wider rows, one of booleans made a mask of numbers first; taken "
        "apart, with probabilities, where heads are no multiple of 4 wide (8 in half precision), a last dimension is not dense, "
        "there are not 4 dimensions, or the batches or types differ",
        "meta kernel of _scaled_dot_product_efficient_attention; preprocess_mask, pad_bias and the checks of "
        "the last stride in ATen/native/transformers (attention.cpp, sdp_utils)",
    ),
    Kernel(
        "scaled_dot_product_attention, backward",
        "float32: the product of the output and its gradient, and twice its sum for each query; half precision: one such "
        "sum and a gradient of the queries in float32, their number rounded up to 64; the gradient of a mask is of the size that "
        "the mask is expanded to",
        "ATen/native/transformers/cuda/attention_backward.cu (delta, workspace_size)",
    ),
    Kernel(
        "convolution, forward and backward",
        "copies of the inputs, weights and gradients that are not dense in the order of the operation (channels last, if the "
        "input or the weight is so), all at once, while it runs",
        "_convolution and convolution_backward in ATen/native/Convolution.cpp, each case of cuDNN",
    ),
    Kernel(
        "matrix products",
        "copies of matrices neither of whose two last strides is 1, of the result too where it is given, while they run",
        "prepare_matrix_for_cublas, prepare_batch_matrix_for_cublas in ATen/native/cuda/Blas.cpp",
    ),
    Kernel(
        "batch normalisation, layer normalisation, softmax, pooling",
        "copies of arguments that are not dense, while they run; indices of max pooling are int64, as everywhere",
        "expect_contiguous and contiguous at the head of the CUDA functions (Normalization, layer_norm_kernel, SoftMax, "
        "DilatedMaxPool2d, AveragePool2d)",
    ),
    Kernel(
        "autocast",
        "CUDA's list of operations that run in float32 (softmax, normalisation of layers, powers, sums, norms, losses), which "
        "keep float32 copies of what they read; the CPU's list leaves most of them in half precision. Weights are cast once per "
        "forward pass and kept for it, as on any device",
        "AT_FORALL_FP32, AT_FORALL_FP32_SET_OPT_DTYPE in ATen/autocast_mode.h; torch's page on automatic mixed precision",
    ),
    Kernel(
        "softmax of attention under a mask",
        "one call: the softmax itself, a byte for each element, and one for each row, beside the result",
        "_safe_softmax in ATen/native/SoftMax.cpp, whose steps are seen as one operation",
    ),
    Kernel(
        "Fourier transforms, recurrent layers, sorting, running sums, distances, decompositions, interpolation, embeddings",
        "as much again as they read and return, while they run",
        "not known: plans of cuFFT, cuDNN's and CUB's temporaries are not public; taken high (UNKNOWN_SCRATCH)",
    ),
    Kernel(
        "multi-head attention and encoder layers in evaluation",
        "part by part; never torch's single call for the whole layer, which needs less",
        "torch.backends.mha, which is switched off in a trace",
    ),
    Kernel(
        "optimizer and clipping",
        "the multi-tensor kernels, which hold a temporary for all parameters at once",
        "torch.optim's choice for CUDA tensors (_default_to_fused_or_foreach); see planner.steps.work.many_at_once",
    ),
)
"""Differences that are modelled."""

UNKNOWN_SCRATCH = (
    "_cdist_backward", "_cdist_forward", "_cudnn_rnn", "_cudnn_rnn_backward", "_euclidean_dist", "_fft_c2c", "_fft_c2r",
    "_fft_r2c", "_linalg_eigh", "_linalg_svd", "_thnn_fused_gru_cell", "_thnn_fused_gru_cell_backward", "_thnn_fused_lstm_cell",
    "_thnn_fused_lstm_cell_backward_impl", "cummax", "cummin", "cumprod", "cumsum", "embedding_dense_backward", "kthvalue",
    "linalg_inv_ex", "linalg_lu_factor_ex", "linalg_qr", "logcumsumexp", "median", "miopen_rnn", "mkldnn_rnn_layer",
    "mkldnn_rnn_layer_backward", "mode", "sort", "topk", "upsample_bicubic2d", "upsample_bicubic2d_backward",
    "upsample_bilinear2d", "upsample_bilinear2d_backward", "upsample_linear1d", "upsample_linear1d_backward",
)  # fmt: skip
"""Calls that show one operation and hold more while it runs, how much is not known."""

KEPT_IN_FLOAT32 = (
    "acos", "asin", "binary_cross_entropy_with_logits", "cdist", "cosh", "cosine_embedding_loss", "cosine_similarity", "cumprod",
    "cumsum", "dist", "erfinv", "exp", "expm1", "group_norm", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
    "layer_norm", "log", "log10", "log1p", "log2", "log_softmax", "logsumexp", "margin_ranking_loss", "mse_loss",
    "multi_margin_loss", "multilabel_margin_loss", "nll_loss", "nll_loss2d", "norm", "pdist", "poisson_nll_loss", "pow", "prod",
    "reciprocal", "renorm", "rsqrt", "sinh", "smooth_l1_loss", "soft_margin_loss", "softmax", "softplus", "sum", "tan",
    "triplet_margin_loss",
)  # fmt: skip
"""Operations that CUDA's autocast runs in float32."""
_RESULT_IN_FLOAT32 = frozenset({"cumprod", "cumsum", "log_softmax", "prod", "softmax", "sum"})
"""Those of them that are asked for a float32 result, and read what they read as it is."""


@contextlib.contextmanager
def on_cuda(*, autocast: bool) -> Iterator[None]:
    """Inside, functions called on tensors without values do what they do on a GPU; `autocast` is for a CPU's, by CUDA's list."""
    with (
        FusedAttention(or_apart=False),
        _fused_dropout(),
        _layer_by_layer(),
        _autocast_list() if autocast else contextlib.nullcontext(),
    ):
        yield


@contextlib.contextmanager
def _layer_by_layer() -> Iterator[None]:
    """Inside, torch's one call for a whole encoder layer in evaluation, which shows nothing of what it holds, is not taken."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _fused_dropout() -> Iterator[None]:
    before = nn.functional.dropout

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if inplace or not training or not 0 < p < 1:
            return before(input, p, training, inplace)
        result: Tensor = torch.native_dropout(input, p, True)[0]
        return result

    nn.functional.dropout = dropout
    try:
        yield
    finally:
        nn.functional.dropout = before


class FusedAttention:
    """Inside, attention is what a GPU does: one kernel that keeps no probabilities. Tensors without values would be taken apart.

    `torch.nn.functional.scaled_dot_product_attention` is replaced, and not caught by a `TorchFunctionMode`, which is off in
    backward passes that compute a block again.

    or_apart   what happens where torch has no meta kernel of it (2.3): take it apart after all, which is predicted far too
               high, or, if False, raise `NotImplementedError`. Fake tensors need no such kernel.
    """

    def __init__(self, *, or_apart: bool = True) -> None:
        self.or_apart = or_apart

    def __enter__(self) -> FusedAttention:
        self._before: Any = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attention
        return self

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._before

    def _attention(self, *args: Any, **kwargs: Any) -> Tensor:
        call = _Attention(*args, **kwargs)  # raises TypeError for a word that the function does not know either
        try:
            return call.fused() if call.is_taken_by_the_kernel else call.apart(self._before)
        except NotImplementedError:
            if not self.or_apart:
                raise
        return call.apart(self._before)


@dataclass
class _Attention:
    """One call of `torch.nn.functional.scaled_dot_product_attention`."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def __post_init__(self) -> None:
        self.autocast = _autocast_dtype(self.query.device.type)
        if self.autocast is not None:  # as CUDA's autocast does: what is not a floating point number stays
            self.query, self.key, self.value = (tensor.to(self.autocast) for tensor in (self.query, self.key, self.value))
            if self.attn_mask is not None and self.attn_mask.is_floating_point():
                self.attn_mask = self.attn_mask.to(self.autocast)

    @property
    def is_taken_by_the_kernel(self) -> bool:
        """What the memory-efficient kernel asks of its arguments; in doubt it does not take them."""
        given = (self.query, self.key, self.value)
        if self.enable_gqa or any(one.dim() != 4 or one.shape[:2] != self.query.shape[:2] for one in given):
            return False
        grain = 4 if self.query.dtype == torch.float32 else 8
        if any(one.stride(-1) != 1 or one.shape[-1] % grain or one.numel() == 0 for one in given):
            return False
        if self.query.dtype not in (torch.float32, torch.float16, torch.bfloat16) or any(
            one.dtype != self.query.dtype for one in given
        ):
            return False
        mask = self.attn_mask
        return mask is None or (not self.is_causal and mask.dtype in (torch.bool, self.query.dtype))

    def fused(self) -> Tensor:
        q, k, mask = self.query, self.key, self.attn_mask
        if mask is not None:
            mask = _in_wide_rows(_as_numbers(mask, q.dtype)).expand(*q.shape[:-1], k.shape[-2])
        learned = torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, self.value))
        attend = aten._scaled_dot_product_efficient_attention
        result: Tensor = attend(q, k, self.value, mask, learned, self.dropout_p, self.is_causal, scale=self.scale)[0]
        return result

    def apart(self, attention: Callable[..., Tensor]) -> Tensor:
        """As products and a softmax. Torch's own `attention` does so on meta tensors; for a CPU it has yet another kernel."""
        more: dict[str, Any] = {"enable_gqa": True} if self.enable_gqa else {}  # torch 2.3 does not know the word
        mask, arguments = self.attn_mask, (self.query, self.key, self.value)
        if self.query.is_meta:
            return attention(*arguments, mask, self.dropout_p, self.is_causal, scale=self.scale, **more)
        with contextlib.nullcontext() if self.autocast is None else _below_autocast():
            mask = None if mask is None else _as_numbers(mask, self.query.dtype)
            result: Tensor = aten._scaled_dot_product_attention_math(
                *arguments, mask, self.dropout_p, self.is_causal, None, scale=self.scale, **more
            )[0]  # fmt: skip
            return result


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of booleans as one that is added; another as it is."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))


def _in_wide_rows(mask: Tensor) -> Tensor:
    width = mask.shape[-1]
    return nn.functional.pad(mask, (0, -width % 16))[..., :width] if width % 16 else mask


def _autocast_dtype(kind: str) -> torch.dtype | None:
    """What autocast, if it is on for devices of this kind, turns matrix products into."""
    if kind != "cpu":
        return None
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None  # torch 2.3


@contextlib.contextmanager
def _autocast_list() -> Iterator[None]:
    """Inside, autocast on a CPU keeps in float32 what CUDA's does."""
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")
    try:
        for name in KEPT_IN_FLOAT32:
            packet = getattr(aten, name)
            for overload in packet.overloads():
                call = getattr(packet, overload)
                words = {argument.name for argument in call._schema.arguments}
                tensors = any("Tensor" in str(argument.type) for argument in call._schema.arguments)  # others are for scripts
                if not tensors or "out" in words or torch._C._dispatch_has_kernel_for_dispatch_key(call.name(), "AutocastCPU"):
                    continue
                keyword = name in _RESULT_IN_FLOAT32 and "dtype" in words
                library.impl(call, partial(_with_float32_result if keyword else _with_float32, call), "AutocastCPU")
        yield
    finally:
        library._destroy()


def _below_autocast() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def _with_float32(call: Any, *args: Any, **kwargs: Any) -> Any:
    with _below_autocast():
        return call(*map(_float32, args), **{word: _float32(value) for word, value in kwargs.items()})


def _with_float32_result(call: Any, *args: Any, **kwargs: Any) -> Any:
    with _below_autocast():
        position = [argument.name for argument in call._schema.arguments].index("dtype")
        given = kwargs.get("dtype") if len(args) <= position else args[position]
        if given is None and _is_half(args[0]):
            kwargs["dtype"] = torch.float32
        return call(*args, **kwargs)


def _float32(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_float32, value))
    return value.to(torch.float32) if _is_half(value) else value


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def scratch(call: Any, args: Any, kwargs: Any, result: Any) -> list[int]:
    """Bytes of the blocks that CUDA's kernel of an aten `call` allocates for itself and frees when it is done."""
    reckon = _SCRATCH.get(call._overloadpacket)
    return [] if reckon is None else reckon(args, kwargs, result)


def _copies(*tensors: Tensor | None) -> list[int]:
    """Of those that are not dense in the usual order, or with their channels last."""
    return [_bytes(t) for t in tensors if t is not None and not t.is_contiguous() and not _channels_last(t)]


def _channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _convolution(args: Any, kwargs: Any, result: Any) -> list[int]:
    x, weight = args[:2]
    return _in_order_of(x, weight, [x, weight])


def _convolution_backward(args: Any, kwargs: Any, result: Any) -> list[int]:
    gradient, x, weight = args[:3]
    needs_input, needs_weight = args[10][:2]
    return _in_order_of(x, weight, [gradient] + [x] * needs_weight + [weight] * needs_input)


def _in_order_of(x: Tensor, weight: Tensor, read: list[Tensor]) -> list[int]:
    """Copies of the tensors `read` that are not in the order of a convolution of `x` by `weight`."""
    channels_last = any(_channels_last(t) and not t.is_contiguous() for t in (x, weight))
    return [_bytes(t) for t in read if not (_channels_last(t) if channels_last else t.is_contiguous())]


def _product(args: Any, kwargs: Any, result: Any) -> list[int]:
    """Of the two factors, the last matrices among the arguments, and of a result that is written into."""
    matrices = [value for value in args if isinstance(value, Tensor) and value.dim() > 1][-2:]
    matrices += [value for value in kwargs.values() if isinstance(value, Tensor)]
    return [_bytes(matrix) for matrix in matrices if not _fit_for_cublas(matrix)]


def _fit_for_cublas(matrix: Tensor) -> bool:
    if matrix.is_contiguous():
        return True
    (rows, columns), (down, across) = matrix.shape[-2:], matrix.stride()[-2:]
    return (across == 1 and down >= max(1, columns)) or (down == 1 and across >= max(1, rows))


def _attention_backward(args: Any, kwargs: Any, result: Any) -> list[int]:
    gradient, query, output = args[0], args[1], args[5]
    clips, heads, rows, width = query.shape
    sums = clips * heads * rows * 4
    copy = [_bytes(gradient)] if gradient.stride(-1) != 1 else []
    if query.dtype == torch.float32:
        return [*copy, output.numel() * 4, sums, sums]
    return [*copy, sums, clips * heads * -(-rows // 64) * 64 * width * 4]


def _safe_softmax(args: Any, kwargs: Any, result: Any) -> list[int]:
    """The softmax itself, where its argument is minus infinity, and the rows in which it is so everywhere."""
    return [_bytes(result), result.numel(), result.numel() // max(1, result.shape[args[1]] if result.dim() else 1)]


def _as_much_again(args: Any, kwargs: Any, result: Any) -> list[int]:
    """Of every tensor that is read or made."""
    return [_bytes(leaf) for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]


def _first(count: int) -> Callable[[Any, Any, Any], list[int]]:
    """Copies of the first `count` arguments."""
    return lambda args, kwargs, result: _copies(*(value for value in args[:count] if isinstance(value, Tensor)))


_SCRATCH: dict[Any, Callable[[Any, Any, Any], list[int]]] = {
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten.mm: _product,
    aten.bmm: _product,
    aten.addmm: _product,
    aten.baddbmm: _product,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    aten.native_batch_norm: _first(1),
    aten.native_batch_norm_backward: _first(2),
    aten.native_layer_norm: _first(1),
    aten.native_layer_norm_backward: _first(2),
    aten._softmax: _first(1),
    aten._log_softmax: _first(1),
    aten._softmax_backward_data: _first(2),
    aten._log_softmax_backward_data: _first(2),
    aten.max_pool2d_with_indices: _first(1),
    aten.max_pool2d_with_indices_backward: _first(8),  # gradient, input, and the indices, which come last
    aten.avg_pool2d: _first(1),
    aten.avg_pool2d_backward: _first(2),
}
_SCRATCH |= {getattr(aten, name): _as_much_again for name in UNKNOWN_SCRATCH if hasattr(aten, name)}
if hasattr(aten, "_safe_softmax"):  # since torch 2.5
    _SCRATCH[aten._safe_softmax] = _safe_softmax
