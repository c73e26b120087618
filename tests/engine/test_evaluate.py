"""The rehearsal of an evaluation leaves a network as it found it, and able to train."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.evaluate import rehearse


class Remembering(nn.Module):
    """Makes a mask the first time it runs and keeps it; counts what it has seen in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("centre", torch.ones(4))
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.ones_like(x[0]).sqrt()
        self.seen += len(x)
        self.centre = self.centre * 2
        return self.fc(x * self.mask)


def loader() -> Any:
    batch = SimpleNamespace(clips=torch.ones(2, 4), labels=torch.zeros(2), positions=None)
    return SimpleNamespace(epoch=lambda _: iter([batch]))


def test_buffers_are_what_they_were_and_what_is_kept_can_be_trained_with() -> None:
    model = Remembering()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffer = model.seen
    rehearse(model, loader(), optimizer, device=torch.device("cpu"))
    assert model.mask is not None  # it ran
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.seen is buffer
    model.train()
    model(torch.ones(2, 4)).sum().backward()  # autograd refuses tensors of inference mode
    assert model.fc.weight.grad is not None
