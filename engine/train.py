"""The one trainer. What is learnt, classes or an encoder without labels, is a `Learning`; all else is here.

It equals the official trainers step by step (`sal parity` on a recorded trajectory shows it) and adds what they lack: every
random number is a function of (seed, epoch, clip) and the full state is saved, so a run that was cut off anywhere goes on and
ends with the same bits as one that was not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from engine import assembly, checkpoint, compiling, graphs, memory, recovery, room
from engine.config import RunConfig
from engine.distributed import World
from engine.environment import describe
from engine.errors import ConfigError, DivergedError, Interrupted, WorkDirError
from engine.learning import Learning
from engine.metrics import Metrics
from engine.optimizers import set_learning_rate
from engine.progress import Display
from engine.runfolder import CALIBRATION_ROW, RunFolder
from engine.schedules import learning_rate
from engine.signals import deadline, stop_wish
from engine.supervised import Supervised
from engine.tensorboard import Mirror
from engine.watch import MemoryWatch

MASK63 = 2**63 - 1
ABSURD_WEIGHT = 1e15  # no network that still learns has such a weight; its next step would be infinite


def train(
    config: RunConfig,
    console: Console,
    keep: Mapping[str, Any] | None = None,
    *,
    lines: Sequence[str] = (),
    expect: memory.Expect | None = None,
    world: World | None = None,
    learning: Callable[[Trainer], Learning] = Supervised,
) -> Path:
    """Train, evaluate and report; returns the run folder.

    keep     file name -> what is written there as JSON beside `config.yaml`, as soon as the run starts or goes on
    lines    for the user, once data and settings are found to agree
    expect   predicts the memory of a run on a GPU, which is compared with what its first two steps take
    world    the processes that share the run, of which this is one
    learning what is learnt
    An interrupted run of the same settings in the same folder is resumed. Raises a `LabError` whose exit code says what
    happened, or torch's OutOfMemoryError; whatever happens, the last complete checkpoint stands.
    """
    until, world = deadline(config.time_limit), world or World()
    with RunFolder(assembly.work_dir(config), force=config.force, writes=world.first) as folder:
        resume = world.from_first(lambda: folder.claim(config))
        trainer = Trainer(config, folder, console, keep, lines=lines, expect=expect, world=world, learning=learning)
        # Until here there is nothing to save, and Ctrl-C just ends the process.
        with stop_wish(until, patient=world.size > 1) as world.wish:
            if resume:
                trainer.restore()
            else:
                trainer.start()
            trainer.run()
            trainer.learning.close()
    return folder.path


class Trainer:
    """A run in progress. `epoch` and `step` (within the epoch) say what comes next."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        console: Console,
        keep: Mapping[str, Any] | None = None,
        *,
        lines: Sequence[str] = (),
        expect: memory.Expect | None = None,
        world: World | None = None,
        learning: Callable[[Trainer], Learning] = Supervised,
    ) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.world = world or World()
        self.keep = keep or {}
        self.device = assembly.choose_device(config.device)
        if config.cuda_graphs:
            graphs.on_device(self.device)  # refuses before the data is read
        if config.compile:
            compiling.require(self.device)
        _make_deterministic(config)
        self.learning = learning(self)
        given, self.seen = self.learning.fingerprints()
        self.world.require_same(**config.identity(), clips=given, device=self.device.type, torch=torch.__version__)
        self.train_batches = self.learning.batches()
        self.model = self.learning.network()
        self.train_step = self.learning.step(self.model)
        self.optimizer = self.train_step.optimizer
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for remark in self.learning.remarks():
            self.note(remark)
        self.watch = MemoryWatch(config, self.learning.clips, self.device, expect, self.note)
        self.mirror = Mirror(folder.path) if config.tensorboard and self.world.first else None
        self.epoch = self.step = self.global_step = 0
        self.sums = {"loss": 0.0, "correct": 0, "seen": 0}
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.seconds_before = 0.0
        self.began = time.monotonic()

    # -- life of a run ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.learning.start()
        self.world.share(self.model)
        self.look_ahead()
        self.world.by_first(self.folder.clear)
        self.record()
        self.world.by_first(self.folder.write_json, "env.json", {**describe(), "processes": self.world.size})
        self.log("start", model=self.config.model, recipe=self.config.recipe, parameters=self.parameters)
        self.save()

    def restore(self) -> None:
        """Go on from the last state that is whole, and drop from the log what came after it."""
        parts = self.model, self.optimizer, self.train_step.scaler
        position = self.world.from_first(
            lambda: recovery.restore(self.folder, *parts, accept=self.require_same_clips, tell=self.note)
        )
        self.world.share(*parts)
        for name in ("epoch", "step", "global_step", "sums", "last", "best", "seconds_before"):
            setattr(self, name, position[name])
        scored = -1 if self.last is None else self.last["epoch"]
        if self.epoch >= self.config.num_epoch and (self.step or scored != self.config.num_epoch - 1):
            raise ConfigError(
                f"num_epoch is {self.config.num_epoch}, and the run is in epoch {self.epoch + 1} already",
                expected="at least as many epochs as were begun",
            )
        self.record()
        self.world.by_first(self.folder.cut_log, position["log_size"])
        done = self.epoch >= self.config.num_epoch
        more = f"is finished; for more epochs: --num-epoch {self.config.num_epoch + 10} --force, as that is another setting"
        where = more if done else f"goes on at epoch {self.epoch + 1}, step {self.step}"
        self.console.print(f"resuming: {self.folder.path} {where}", highlight=False, soft_wrap=True)
        if not done:
            self.look_ahead()

    def record(self) -> None:
        """Write the settings down, and what is said about them."""
        self.world.by_first(self.folder.record, self.config)
        for name, value in self.keep.items():
            self.world.by_first(self.folder.write_json, name, value)

    def require_same_clips(self, position: dict[str, Any]) -> None:
        if position["data"] != self.seen and not self.config.force:
            raise WorkDirError(
                "the data holds other clips than the run began with", where=str(self.config.data),
                next_step="give the data of the run, another --work-dir, or --force to go on with these clips",
            )  # fmt: skip

    def look_ahead(self) -> None:
        """Before the first step of this process: look for room on the disk, try an evaluation batch, have a step predicted."""
        self.world.by_first(room.require, self)
        self.watch.look_ahead(
            self.learning.rehearse,
            steps=len(self.train_batches) * self.config.num_epoch - self.global_step,
        )

    def run(self) -> None:
        config, total = self.config, len(self.train_batches) * self.config.num_epoch
        with Display(self.console, steps=total, done=self.global_step) as display:
            while self.epoch < config.num_epoch:
                if self.step < len(self.train_batches):
                    self.train_epoch(display)
                due = self.epoch >= config.eval_from and (self.epoch + 1) % config.eval_interval == 0
                if due or self.epoch + 1 == config.num_epoch:
                    self.learning.evaluate(display)
                self.close_epoch()
                if self.epoch < config.num_epoch:
                    self.stop_if_asked()

    def train_epoch(self, display: Display) -> None:
        """The steps of the current epoch that are still to come."""
        config, began, seen_before = self.config, time.monotonic(), self.sums["seen"]
        size = config.batch_size  # of every batch: of several processes each has a share
        memory.reset_peak(self.device)
        self.model.train()
        pending: list[torch.Tensor] = []  # what must be finite, of the last steps, not yet looked at
        loss_sum = torch.tensor(self.sums["loss"], dtype=torch.float64, device=self.device)
        correct = torch.tensor(self.sums["correct"], device=self.device)
        for batch in self.train_batches.epoch(self.epoch, start=self.step):
            own = self.world.rank * 0xD1342543DE82EF95  # each process has other clips, and masks of its own for them
            torch.manual_seed((config.seed * 0x9E3779B97F4A7C15 + self.global_step + own) & MASK63)  # dropout, if any
            lr = learning_rate(config, epoch=self.epoch, step=self.global_step, steps_per_epoch=len(self.train_batches))
            set_learning_rate(self.optimizer, lr)
            inputs = self.learning.inputs(batch)
            result = self.train_step(*(None if x is None else x.to(self.device, non_blocking=True) for x in inputs))
            loss_sum += result.loss * size
            correct += result.correct
            # A loss scaler meets infinite gradients as a matter of course and skips their update.
            pending.append(result.loss if config.precision == "fp16" else result.loss + 0 * result.grad_norm)
            self.step, self.global_step = self.step + 1, self.global_step + 1
            self.sums["seen"] += size
            if (finding := self.watch.stepped()) is not None:
                self.tell(finding)
            due_to_log = self.step % config.log_interval == 0
            due_to_save = config.save_steps > 0 and self.step % config.save_steps == 0
            if self.device.type == "cpu" or due_to_log or due_to_save or self.world.agreed:
                self.check_finite(pending)
                self.sums["loss"], self.sums["correct"] = float(loss_sum), int(correct)
                rate = (self.sums["seen"] - seen_before) / (time.monotonic() - began)
                display.step(self.global_step, lambda rate=rate: self.status(rate))
                if due_to_log:
                    self.log(
                        "step", epoch=self.epoch, step=self.global_step, loss=float(result.loss), lr=lr,
                        clips_per_s=rate, grad_norm=float(result.grad_norm), **self.learning.logged(result, size),
                    )  # fmt: skip
                if self.step < len(self.train_batches):  # the end of an epoch is saved by `close_epoch`
                    if due_to_save:
                        self.save()
                    self.stop_if_asked()
        self.check_finite(pending)
        self.sums["loss"], self.sums["correct"] = float(loss_sum), int(correct)
        seen, seconds = self.sums["seen"], time.monotonic() - began
        self.log(
            "epoch", epoch=self.epoch, loss=self.sums["loss"] / max(seen, 1),
            **({"top1": self.sums["correct"] / max(seen, 1)} if self.learning.labelled else {}),
            lr=max(group["lr"] for group in self.optimizer.param_groups), seconds=seconds,
            clips_per_s=(seen - seen_before) / max(seconds, 1e-9), **memory.peaks(self.device),
        )  # fmt: skip

    def close_epoch(self) -> None:
        self.epoch, self.step = self.epoch + 1, 0
        self.sums = {"loss": 0.0, "correct": 0, "seen": 0}
        if self.config.save_interval and self.epoch % self.config.save_interval == 0:
            for ending, (network, about) in self.learning.weights().items():
                name = f"runs-{self.epoch}-{self.global_step}{ending}.safetensors"
                self.world.by_first(checkpoint.save_weights, self.folder.checkpoints / name, network, about)
        self.save()

    # -- pieces -------------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def status(self, rate: float) -> str:
        seen, used = max(self.sums["seen"], 1), memory.peaks(self.device)
        mib = used["peak_allocated_mib"] if self.device.type == "cuda" else used["rss_mib"]
        words = self.learning.status(self.sums["loss"] / seen, self.sums["correct"] / seen)
        return f"{words}  {rate:.0f} clips/s  {mib / 1024:.1f} GiB"

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", highlight=False)

    def tell(self, finding: memory.Finding) -> None:
        """To the log and the user; a calibration is kept in the run folder until a prediction holds."""
        self.log("memory", epoch=self.epoch, step=self.global_step, **finding.event)
        for line in finding.lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if finding.row is not None:
            self.world.by_first(self.folder.write, CALIBRATION_ROW, finding.row.encode())
        elif self.watch.compare is not None:  # the prediction held
            self.world.by_first((self.folder.path / CALIBRATION_ROW).unlink, missing_ok=True)

    def check_finite(self, pending: list[torch.Tensor]) -> None:
        """Stop at a loss that is not a number, before it reaches a checkpoint; empties `pending`, those of the last steps."""
        if pending and not bool(torch.isfinite(torch.stack(pending)).all()):
            ago, loss = next((len(pending) - i, p) for i, p in enumerate(pending) if not bool(torch.isfinite(p)))
            step, ids = self.global_step - ago + 1, self.train_batches.ids(self.epoch, self.step - ago)
            found = {"epoch": self.epoch, "step": step, "ids": ids.tolist()}
            self.world.by_first(self.folder.write_json, "diverged.json", found)
            raise DivergedError(
                f"the loss or its gradient became {float(loss)} in epoch {self.epoch + 1}, step {step}",
                where=f"clips {', '.join(ids[:4])} ...; all {len(ids)} are in {self.folder.path / 'diverged.json'}",
                next_step="the last checkpoint is from an earlier step; go on from it with --force and a smaller --base-lr, "
                "--clip-grad 1 or --precision fp32, or start over with --resume never --force",
            )
        pending.clear()

    def stop_if_asked(self, *, saved: bool = False) -> None:
        """Leave, after saving the state unless what was `saved` last is still that of the run."""
        if (signal_number := self.world.agreed) is not None:
            if not saved:
                self.save()
            raise Interrupted(
                signal_number,
                f"stopped at epoch {self.epoch + 1}, step {self.step}; the state is saved in {self.folder.last}",
                next_step="run the same command again to go on",
            )

    def save(self) -> None:
        largest = torch.stack([p.detach().abs().max() for p in self.model.parameters() if p.numel()]).max()
        if not float(largest) < ABSURD_WEIGHT:  # also where it is not a number
            raise DivergedError(
                f"the largest weight is {float(largest):.1e} after step {self.global_step}: not saved",
                next_step="the last checkpoint is from an earlier step; go on from it with --force and a smaller --base-lr",
            )
        self.world.by_first(self._write_state)

    def _write_state(self) -> None:
        position = {
            "epoch": self.epoch, "step": self.step, "global_step": self.global_step, "sums": self.sums,
            "last": self.last, "best": self.best, "seconds_before": self.seconds, "log_size": self.folder.settle_log(),
            "data": self.seen,
        }  # fmt: skip
        parts = self.model, self.optimizer, self.train_step.scaler
        checkpoint.save_state(self.folder.last, *parts, position, previous=self.folder.previous)

    def log(self, event: str, **values: Any) -> None:
        self.world.by_first(self.folder.append_log, event, **values)
        if self.mirror:
            self.mirror.write(event, values)

    def about(self, metrics: Metrics | None = None) -> dict[str, Any]:
        """What a file of weights says about its content."""
        return {
            "model": self.config.model, "model_args": self.config.model_args, **self.learning.described(),
            "stream": self.config.stream, "epoch": self.epoch, "top1": metrics.top1 if metrics else None,
        }  # fmt: skip


def _make_deterministic(config: RunConfig) -> None:
    """Seed every generator, and ask for kernels that repeat themselves."""
    random.seed(config.seed)
    np.random.seed(config.seed)
    assembly.choose_kernels(config)
