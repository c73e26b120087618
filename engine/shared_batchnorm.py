"""BatchNorm over the clips of all processes (--sync-batchnorm): torch's own on GPUs, a small one of ours on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.distributed import World, talking


def synchronised(model: nn.Module, device: torch.device, world: World) -> nn.Module:
    """`model`, whose BatchNorms in training see the clips of all processes of the `world`; made before its optimizer."""
    if world.size == 1:
        return model
    world.entangle()
    if device.type == "cuda":
        result: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return result
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SharedBatchNorm.like(child))
    return model


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over the clips of all processes, for CPUs, which torch's SyncBatchNorm refuses. In evaluation a usual one."""

    @classmethod
    def like(cls, bn: _BatchNorm) -> SharedBatchNorm:
        """With the very parameters and statistics of `bn`."""
        new = cls(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats, device="meta")
        new._parameters, new._buffers, new.training = bn._parameters, bn._buffers, bn.training
        return new

    def _check_input_dim(self, input: Tensor) -> None:  # torch's word
        """Any."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and type."""
        if not self.training:
            result: Tensor = super().forward(x)
            return result
        axes, column = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        total: Tensor = _Summed.apply(torch.cat([values.sum(axes), values.new_full((1,), x.numel() / x.shape[1])]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean.view(column)
        variance = _Summed.apply(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), part)
        y = centred * torch.rsqrt(variance + self.eps).view(column)
        if self.affine:
            y = y * self.weight.view(column) + self.bias.view(column)
        return y.to(x.dtype)


class _Summed(torch.autograd.Function):
    """The sum over the processes. Each one's loss depends on every process's summand, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor) -> Tensor:
        total = summand.clone()
        with talking():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        with talking():
            dist.all_reduce(total)
        return total
