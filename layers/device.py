"""What a tensor's device stands for: a prediction runs a network on tensors without values, in place of a GPU's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor

_cpu_stands_for_gpu = False  # a plain global, which torch.compile can guard and the threads of a backward pass share


def on_gpu(x: Tensor) -> bool:
    """Whether a network is to do with `x` what it does on a GPU: anywhere but on a CPU, and there inside `as_if_on_gpu`."""
    return x.device.type != "cpu" or _cpu_stands_for_gpu


@contextlib.contextmanager
def as_if_on_gpu() -> Iterator[None]:
    """Inside, CPU tensors stand for a GPU's. For fake tensors, whose autocast knows no other device; not for two threads."""
    global _cpu_stands_for_gpu  # noqa: PLW0603
    before, _cpu_stands_for_gpu = _cpu_stands_for_gpu, True
    try:
        yield
    finally:
        _cpu_stands_for_gpu = before
