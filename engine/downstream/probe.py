"""Linear probe: one linear layer learns the classes from features that stay as they are.

Where a protocol shows every epoch the same crops, the encoder runs once and the probe learns from what is kept. Where crops are
random, features of each epoch come from a callable. The probes of several seeds learn side by side: each has shuffles and start
weights of its own, and comes out as if it had been alone. Sources of the settings: `isc.md` 7, `scdnet.md` 7,
`mamp_stars.md` 5, `usdrl_segmentation.md` 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.downstream.features import Features
from engine.downstream.selection import Rule
from engine.errors import DivergedError
from engine.metrics import Scores
from engine.optimizers import build_optimizer, set_learning_rate
from engine.schedules import epoch_learning_rate, iteration_learning_rate
from shared_data.batches.randomness import permutation
from shared_data.errors import DataError, UsageError

BATCH_NORM_EPS, BATCH_NORM_MOMENTUM = 1e-6, 0.1
EVALUATED = 4096  # rows at a time

EpochFeatures = Callable[[int], NDArray[np.float32]]
"""Epoch (from 0) -> features (N, D) of the training clips as that epoch shows them, in the order of their labels."""


@dataclass(frozen=True)
class ProbeSettings:
    """SGD with momentum on the cross-entropy, as a protocol has it.

    batch          clips of a step, over all GPUs; the last step of an epoch has what is left
    drops          epochs (from 0) from which the rate is a tenth of what it was; not with `cosine`
    cosine         the rate falls as half a cosine, step by step, to 0
    batch_norm     standardise features by the batch, without scale and shift; in evaluation by running statistics
    init           of the weights: "normal" (0, .01), or "trunc_normal" (.01); biases are 0
    eval_interval  epochs from one look at the test clips to the next; the last epoch is always looked at
    random_crops   whether the official protocol shows other crops of the training clips each epoch
    """

    lr: float
    batch: int
    epochs: int
    drops: tuple[int, ...] = ()
    cosine: bool = False
    batch_norm: bool = False
    init: Literal["normal", "trunc_normal"] = "normal"
    momentum: float = 0.9
    weight_decay: float = 0.0
    eval_interval: int = 1
    random_crops: bool = False

    def __post_init__(self) -> None:
        if min(self.batch, self.epochs, self.eval_interval) < 1 or self.lr <= 0:
            raise UsageError(
                f"{self}", where="a linear probe", expected="a rate above 0; batch, epochs and interval of 1 or more"
            )
        if self.batch_norm and self.batch == 1:
            raise UsageError(
                "a batch of one clip, which has no spread to be normalised by", where="a linear probe", expected="2 or more",
                next_step="--probe-batch 2, or the probe of a protocol without BatchNorm (--probe isc)",
            )  # fmt: skip
        if self.cosine and self.drops:
            raise UsageError("drops of the rate and a cosine", where="a linear probe", expected="one of the two")

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of `step` of the `steps` of `epoch`, all from 0."""
        if self.cosine:
            return iteration_learning_rate(epoch * steps + step, base_lr=self.lr, iterations=self.epochs * steps)
        return epoch_learning_rate(epoch, base_lr=self.lr, step=self.drops)


_MAMP = ProbeSettings(0.1, 256, 100, cosine=True, batch_norm=True, init="trunc_normal", random_crops=True)
_USDRL = ProbeSettings(0.03, 512, 160, drops=(120, 140), eval_interval=5)
OFFICIAL: dict[str, ProbeSettings] = {
    "isc": ProbeSettings(0.1, 64, 80, drops=(50, 70), random_crops=True),
    "scdnet": ProbeSettings(2.0, 1024, 80, drops=(50, 70)),
    "mamp": _MAMP,
    "mamp_pku1": ProbeSettings(**{**vars(_MAMP), "batch": 128}),
    "mamp_pku2": ProbeSettings(**{**vars(_MAMP), "batch": 32, "lr": 0.01}),
    "usdrl_sttr": _USDRL,
    "usdrl_dste": ProbeSettings(**{**vars(_USDRL), "lr": 0.006}),
}
"""By protocol. MAMP's batches are those of its two GPUs together."""


@dataclass(frozen=True)
class Selected:
    """The test clips as the probe of one `epoch` (from 0) sees them."""

    epoch: int
    scores: Scores


@dataclass(frozen=True)
class Probed:
    """One seed's probe: its scores by selection rule, and its curves by epoch; NaN where an epoch was not looked at.

    loss, test, validation   (E,) mean training loss; top-1, fractions. No validation: all NaN
    weight, bias             (K, D), (K,) of the last epoch
    """

    seed: int
    selected: dict[Rule, Selected]
    loss: NDArray[np.float64]
    test: NDArray[np.float64]
    validation: NDArray[np.float64]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def probe(
    train: Features,
    test: Features,
    classes: int,
    settings: ProbeSettings,
    *,
    seeds: Sequence[int] = (0,),
    validation: NDArray[np.int64] | None = None,
    each_epoch: EpochFeatures | None = None,
    device: torch.device | str = "cpu",
) -> list[Probed]:
    """Probe `train` features for `classes` labels, once for each of `seeds`, and judge the `test` features.

    validation   rows of `train` that are not trained on but chosen by, and looked at as in `train` whatever epochs show
    each_epoch   features of the training clips where epochs differ; None: those of `train`
    The same features, settings and seed give the same probe. Raises `DataError` for labels beyond `classes`, features of
    different widths and rows that leave nothing; `DivergedError` if the loss becomes infinite or not a number.
    """
    _check(train, test, classes)
    held = np.zeros(len(train), bool)
    held[[] if validation is None else validation] = True
    rows = np.flatnonzero(~held)
    if not len(rows):
        raise DataError("no clip is left to train on", where=f"{len(train)} training clips, all held out for validation")
    if settings.batch_norm and len(rows) == 1:
        raise DataError(
            "one clip to learn from, which has no spread to be normalised by", where="a linear probe", expected="2 clips or more"
        )
    found = torch.device(device)
    watched = [test] if validation is None else [test, train.at(np.flatnonzero(held))]
    shown = [torch.from_numpy(np.array(part.values, np.float32)).to(found) for part in watched]
    truth = [torch.from_numpy(part.labels).to(found) for part in watched]
    labels = torch.from_numpy(train.labels[rows]).to(found)
    layer = _Probes(train.values.shape[1], classes, settings, seeds, found)
    optimizer = build_optimizer(
        layer.parameters(), lr=settings.lr, momentum=settings.momentum, nesterov=False, weight_decay=settings.weight_decay
    )
    log = _Log(seeds, settings.epochs, test)
    values = None
    for epoch in range(settings.epochs):
        if values is None or each_epoch is not None:
            values = _on(found, train.values if each_epoch is None else each_epoch(epoch), rows, len(train))
        log.loss[:, epoch] = _train(
            layer, optimizer=optimizer, values=values, labels=labels, settings=settings, seeds=seeds, epoch=epoch
        )
        if epoch % settings.eval_interval == settings.eval_interval - 1 or epoch == settings.epochs - 1:
            logits = [layer.judged(part) for part in shown]
            log.look(epoch, logits, [(one.argmax(2) == true).double().mean(1) for one, true in zip(logits, truth, strict=True)])
    return log.probed(layer)


class _Probes(nn.Module):
    """S linear layers on the same D features: weights (S, K, D), biases (S, 1, K)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, classes: int, settings: ProbeSettings, seeds: Sequence[int], device: torch.device) -> None:
        super().__init__()
        start = torch.empty(len(seeds), classes, width)
        for weight, seed in zip(start, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                (nn.init.normal_ if settings.init == "normal" else nn.init.trunc_normal_)(weight, std=0.01)
        self.weight = nn.Parameter(start.to(device))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, classes, device=device))
        self.batch_norm = settings.batch_norm
        self.register_buffer("running_mean", torch.zeros(len(seeds) * width, device=device))
        self.register_buffer("running_var", torch.ones(len(seeds) * width, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (S, B, K) of features (S, B, D)."""
        if self.batch_norm:
            seeds, batch, width = x.shape
            flat = x.transpose(0, 1).reshape(batch, seeds * width)
            flat = F.batch_norm(
                flat,
                self.running_mean,
                self.running_var,
                training=self.training,
                momentum=BATCH_NORM_MOMENTUM,
                eps=BATCH_NORM_EPS,
            )
            x = flat.view(batch, seeds, width).transpose(0, 1)
        return torch.baddbmm(self.bias, x, self.weight.transpose(1, 2))

    @torch.no_grad()
    def judged(self, values: Tensor) -> Tensor:
        """Logits (S, N, K) of features (N, D), in evaluation mode."""
        self.eval()
        pieces = [self(part.expand(len(self.weight), *part.shape)) for part in values.split(EVALUATED)]
        self.train()
        return torch.cat(pieces, 1)


def _train(
    layer: _Probes,
    *,
    optimizer: torch.optim.Optimizer,
    values: Tensor,
    labels: Tensor,
    settings: ProbeSettings,
    seeds: Sequence[int],
    epoch: int,
) -> NDArray[np.float64]:
    """One epoch; (S,) mean losses."""
    count, batch = len(values), settings.batch
    order = torch.from_numpy(np.stack([permutation(seed, epoch, count) for seed in seeds])).to(values.device)
    steps = range(0, count, batch)
    if settings.batch_norm and count % batch == 1 and count > 1:
        steps = steps[:-1]  # one clip has no variance
    total = torch.zeros(len(seeds), device=values.device)
    for step, first in enumerate(steps):
        rows = order[:, first : first + batch]
        logits, truth = layer(values[rows]), labels[rows]
        optimizer.zero_grad()
        losses = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view(truth.shape)
        torch.autograd.backward(losses.mean(1).sum())
        set_learning_rate(optimizer, settings.rate(epoch, step, len(steps)))
        optimizer.step()
        total += losses.detach().sum(1)
    mean: NDArray[np.float64] = (total.double() / min(count, len(steps) * batch)).cpu().numpy()
    if not np.isfinite(mean).all() or not torch.isfinite(layer.weight).all():
        raise DivergedError(
            f"the loss of a linear probe is {mean.tolist()} in epoch {epoch + 1}", where=f"learning rate {settings.lr}",
            next_step="give a smaller rate, or features of unit length",
        )  # fmt: skip
    return mean


class _Log:
    """What the probes of several seeds came to so far."""

    def __init__(self, seeds: Sequence[int], epochs: int, test: Features) -> None:
        self.seeds, self.of = seeds, test
        self.loss, self.test, self.validation = (np.full((len(seeds), epochs), np.nan) for _ in range(3))
        self.kept: list[dict[Rule, Selected]] = [{} for _ in seeds]

    def look(self, epoch: int, logits: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Logits (S, N, K) and top-1 (S,) of the test clips, then of the validation clips if there are any."""
        curves: dict[Rule, NDArray[np.float64]] = {"best_on_test": self.test, "best_on_validation": self.validation}
        better: dict[Rule, NDArray[np.bool_]] = {"last": np.ones(len(self.seeds), bool)}
        for (rule, curve), top1 in zip(curves.items(), right, strict=False):
            curve[:, epoch] = top1.cpu().numpy()
            better[rule] = curve[:, epoch] > np.nanmax(np.c_[curve[:, :epoch], np.full(len(curve), -1.0)], axis=1)
        scores = logits[0].float().cpu().numpy()
        for rule, which in better.items():
            for at in np.flatnonzero(which):
                self.kept[at][rule] = Selected(epoch, Scores(self.of.ids, self.of.labels, scores[at].copy()))

    def probed(self, layer: _Probes) -> list[Probed]:
        weight, bias = layer.weight.detach().cpu().numpy(), layer.bias.detach()[:, 0].cpu().numpy()
        return [
            Probed(seed, self.kept[at], self.loss[at], self.test[at], self.validation[at], weight[at], bias[at])
            for at, seed in enumerate(self.seeds)
        ]


def _on(device: torch.device, values: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> Tensor:
    """The features at `rows` of all `count` training clips."""
    if len(values) != count:
        raise DataError(f"features of {len(values)} clips in an epoch", where="a linear probe", expected=f"of all {count}")
    return torch.from_numpy(np.array(values[rows], np.float32)).to(device)


def _check(train: Features, test: Features, classes: int) -> None:
    if train.values.shape[1] != test.values.shape[1]:
        raise DataError(
            f"features {train.values.shape} to learn from and {test.values.shape} to judge", where="a linear probe",
            expected="features of the same encoder",
        )  # fmt: skip
    for part, name in ((train, "training"), (test, "test")):
        if part.labels.min() < 0 or part.labels.max() >= classes:
            raise DataError(
                f"labels from {part.labels.min()} to {part.labels.max()}", where=f"{name} clips", expected=f"0 .. {classes - 1}"
            )
