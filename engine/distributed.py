"""Several processes that train as one: which of them this is, what they tell each other, and how they end together.

`torchrun` starts the processes, says in each one's environment which it is, and starts all anew where one is lost;
torch.distributed carries what they say. The rest of the engine asks its `World`. That of a run which torchrun did not start has
one process, and every question to it is answered at once.

What keeps the processes together:

- Every exchange of the loop is a `World.vote` or comes right behind one, with nothing between them that could fail. A process
  that fails anywhere takes part in one more vote, which is the next one of all others: they learn of it there and end with its
  exit code. Where BatchNorm is synchronised the passes of a step talk as well: who fails inside them just ends, which breaks the
  connection that the others wait on.
- A wish to stop travels with each vote, so that all see it at the same step.
- Votes run over gloo, on the CPU, also where gradients run over NCCL: asking costs a fraction of a millisecond and never waits
  for a GPU.
- The first process alone writes. What the others need of the run folder it sends them: only its machine must have it.

Gradients are summed in one piece after the last backward pass of a step, not by DistributedDataParallel while that runs.
Shares may then be unequal and cut into micro-batches, CUDA graphs hold nothing that talks, and unused parameters keep no
gradient, as with one process. What DDP would hide behind the backward pass is a sum of 2 to 15 MB (docs/many-gpus.md).
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import io
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ConfigError, PeerError
from engine.signals import StopWish
from shared_data.errors import LabError

if TYPE_CHECKING:
    from engine.config import RunConfig

T = TypeVar("T")
PATIENCE = datetime.timedelta(minutes=10)  # for the slowest process: its first batch, a save on a slow disk, a cut network
LAST_WORD = datetime.timedelta(seconds=60)  # for the next vote of the others, before a process that failed leaves without it
GONE = 69  # exit code where another process is gone
CODES = 1000  # more than there are exit codes
_joined = False  # whether this process has found the others; until then all fail alike, and the first of a machine tells it
_ending = False  # whether this process has lost the others


class Stateful(Protocol):
    """A network, an optimizer, a loss scaler."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, in the run and on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place() -> Place:
    """As torchrun says it; without torchrun there is one process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    return Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


def own_device(name: str) -> str:
    """The word of --device for this process: under torchrun, each takes the GPU of its number on its machine.

    Raises `ConfigError` for one GPU that all would share, and for more processes than GPUs.
    """
    here = place()
    if here.size == 1 or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"--device {name} for {here.size} processes: each takes a GPU of its own", where="--device",
            expected="auto, cuda or cpu", next_step="choose the GPUs of a machine with CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    if not torch.cuda.is_available():
        return name
    if here.local_size > torch.cuda.device_count():
        raise ConfigError(
            f"{here.local_size} processes on this machine, and torch sees {torch.cuda.device_count()} GPUs",
            where=socket.gethostname(), expected="at most one process for each GPU",
            next_step=f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu",
        )  # fmt: skip
    return f"cuda:{here.local_rank}"


def require_alone(flag: str, reason: str, next_step: str) -> None:
    """Refuse a `flag` that several processes cannot have."""
    if place().size > 1:
        raise ConfigError(f"{flag} with {place().size} processes: {reason}", where=flag, next_step=next_step)


def require_shares(config: RunConfig, size: int) -> None:
    """Raise `ConfigError` for settings with which `size` processes cannot share a run."""
    if config.batch_size < size:
        raise ConfigError(
            f"a batch of {config.batch_size} clips for {size} processes: --batch-size is that of all of them together",
            where="--batch-size", expected=f"{size} or more",
            next_step=f"--batch-size {size}, with the learning rate that you want for it, or fewer processes",
        )  # fmt: skip
    if not config.sync_batchnorm:
        return
    for flag, on in (("--cuda-graphs", config.cuda_graphs), ("--compile", config.compile)):
        if on:
            raise ConfigError(
                f"{flag} with --sync-batchnorm: the processes would have to talk in the middle of what is captured",
                where=flag, next_step=f"leave out one of them; {flag} works with the statistics of each process",
            )  # fmt: skip
    if config.forward_batch_size and config.batch_size % size:
        raise ConfigError(
            f"--sync-batchnorm in micro-batches, and {config.batch_size} clips are no equal shares for {size} processes: they "
            "would wait for each other's pieces",
            where="--forward-batch-size", next_step=f"a --batch-size that {size} divides, or no micro-batches",
        )  # fmt: skip


class World:
    """The processes of one run, as one of them sees it.

    rank, size   which process of how many
    first        whether this is the one that writes
    wish         what asks this process to stop, which it brings into every vote
    """

    def __init__(self, here: Place | None = None, control: Any = None) -> None:
        here = here or Place()
        self.rank, self.size, self.first = here.rank, here.size, here.rank == 0
        self._control, self._said = control, torch.empty(0)
        self.wish = StopWish()
        self._agreed: int | None = None
        self._launcher = os.getppid()
        self._entangled = self._inside = False

    # -- votes, and what rests on them --------------------------------------------------------------------------------

    def vote(self) -> None:
        """Hear from every process that it goes on, and whether one was asked to stop (`agreed`).

        Raises `PeerError` where one failed, with its exit code, or is gone.
        """
        if self.size > 1:
            with talking():
                self._heard(self._say(0).wait)

    @property
    def agreed(self) -> int | None:
        """The signal that asks the run to stop: of one process by its own wish; of several that which the last vote has heard."""
        return self.wish.signal_number if self.size == 1 else self._agreed

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """No process leaves the block before all do; where one fails in it, all end with its exit code."""
        try:
            yield
            self.vote()
        except PeerError as error:
            if error.exit_code == GONE:
                _end_at_once(GONE)
            raise
        except Exception as error:
            if self.size > 1:
                code = error.exit_code if isinstance(error, LabError) else _other_code(error)
                told: PeerError | None = None
                try:
                    if self._inside:
                        raise RuntimeError("the others wait in the middle of their passes, and hear no vote")
                    work = self._say(code)
                    self._heard(lambda: work.wait(LAST_WORD))
                except PeerError as peer:
                    told = peer
                except RuntimeError:  # nobody hears it: the connection that ends tells them
                    _end_at_once(code)
                if told is not None:  # another one failed as well, and tells the user
                    raise told from error
            raise

    def _say(self, failed: int) -> Any:
        """Begin a vote; of several that `failed`, the one with the lowest rank is heard."""
        self._said = torch.tensor([((self.size - self.rank) * CODES + failed) if failed else 0, self._asked()])
        return dist.all_reduce(self._said, dist.ReduceOp.MAX, group=self._control, async_op=True)

    def _asked(self) -> int:
        """The signal that asks this process to stop, or 0. That its torchrun was killed counts as one: nobody would send it."""
        return self.wish.signal_number or (0 if os.getppid() == self._launcher else signal.SIGTERM)

    def _heard(self, wait: Callable[[], Any]) -> None:
        wait()
        worst, asked = self._said.tolist()
        self._agreed = asked or None
        rank, code = self.size - worst // CODES, worst % CODES
        if worst and rank != self.rank:
            raise PeerError(code, f"process {rank} of {self.size} failed", told=True)

    def by_first(self, work: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """`work(...)` in the first process alone. What it raises there, the others hear at their next vote."""
        if self.first:
            work(*arguments, **named)

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work()` returns in the first process, where alone it is done, for all of them."""
        if self.size == 1:
            return work()
        box: list[Any] = [work() if self.first else None]
        self.vote()
        with talking():
            dist.broadcast_object_list(box, src=0, group=self._control)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, by rank."""
        if self.size == 1:
            return [value]
        self.vote()
        values: list[Any] = [None] * self.size
        with talking():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def require_same(self, **facts: object) -> None:
        """Raise `ConfigError` where the processes differ in one of `facts`."""
        machines = self.gather((socket.gethostname(), facts))
        home, expected = machines[0]
        for rank, (machine, found) in enumerate(machines):
            wrong = [f"{name}: {expected[name]!r} -> {found[name]!r}" for name in expected if expected[name] != found[name]]
            if wrong:
                raise ConfigError(
                    f"the processes of the run do not agree (0 on {home} -> {rank} on {machine}):\n    " + "\n    ".join(wrong),
                    next_step="start all with the same command, data and packages",
                )

    def leave(self) -> None:
        """Let go of the connection."""
        self._control, self._said = None, torch.empty(0)

    # -- work that is shared ------------------------------------------------------------------------------------------

    def mine(self, count: int) -> slice:
        """The places, of `count` things in an order, that are this process's: every `size`-th."""
        return slice(self.rank, count, self.size)

    def entangle(self) -> None:
        """From now on the passes of a step talk to those of the others, at every BatchNorm (`engine.shared_batchnorm`)."""
        self._entangled = self.size > 1

    def begin(self) -> None:
        """Before the passes of a step. Where they talk to those of the others, no process begins them without all."""
        if self._entangled:
            self.vote()
            self._inside = True

    def summed(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        loss: Tensor,
        correct: Tensor,
        *,
        part: float,
        terms: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sum `loss` (), `correct` () and the gradients of `parameters` over the processes; the gradients in place.

        part    of the whole batch that this process has
        terms   what is told of the step, the same names everywhere, all (): the mean over the processes, weighted by their parts

        BatchNorm's running statistics become the mean of those of the processes, weighted by their parts: the mean is then that
        of the whole batch, and the variance lacks what is between the shares.
        """
        terms = terms or {}
        if self.size == 1:
            return loss, correct, dict(terms)
        gradients = [p.grad for p in parameters if p.grad is not None]
        statistics = [] if self._entangled else _moved(model)  # entangled, they are those of the whole batch already
        tensors = gradients + statistics
        self._inside = False
        self.vote()
        with talking(), torch.no_grad():
            counted = torch.stack([loss.double(), correct.double(), *(term.double() * part for term in terms.values())])
            dist.all_reduce(counted)
            flat = torch.cat([*(g.reshape(-1) for g in gradients), *(s * part for s in statistics)])
            dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)])
        told = {name: found.to(term.dtype) for (name, term), found in zip(terms.items(), counted[2:], strict=True)}
        return counted[0].to(loss.dtype), counted[1].to(correct.dtype), told

    def gathered(self, rows: Tensor) -> Tensor:
        """The `rows` (N, ...) of every process, by rank; there is nothing to differentiate in them."""
        if self.size == 1:
            return rows
        return torch.cat([part.to(rows.device) for part in self.gather(rows.detach().cpu())])

    def share(self, *parts: Stateful) -> None:
        """Give every process the state that `parts` have in the first."""
        if self.size == 1:
            return
        content = self.from_first(lambda: _packed([part.state_dict() for part in parts]))
        if not self.first:
            states = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """A connection that breaks inside is told as the loss of a process."""
    try:
        # torch 2.3 writes what it receives in threads of its own, which may not touch a tensor that an evaluation made.
        with torch.inference_mode(mode=False):
            yield
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise PeerError(
            GONE, f"another process of the run is gone, or cannot be reached: {_line(error)}",
            told=place().local_rank != 0,
            next_step="the last checkpoint stands; the same command goes on with it (torchrun --max-restarts does so by itself)",
        ) from error  # fmt: skip


def _end_at_once(code: int) -> None:
    """Let this process end with `code` when Python does: threads that still wait for another one would keep it for minutes."""
    global _ending  # noqa: PLW0603
    _ending = True

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)

    atexit.register(leave)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _other_code(error: Exception) -> int:
    """The exit code of what is not a `LabError`: 75 for a full GPU, as `engine.launch` tells it."""
    return 75 if isinstance(error, torch.cuda.OutOfMemoryError) else 1


def _packed(states: list[Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(states, buffer)
    return buffer.getvalue()


def _moved(model: nn.Module) -> list[Tensor]:
    """Running statistics that the last pass moved, in each process by its own clips."""
    moved = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    return [s for m in moved for s in (m.running_mean, m.running_var) if s is not None]


def meeting(store: Store, rank: int, size: int) -> str:
    """A name for this start of the run, which its `size` processes agree on through `store`.

    torchrun's store outlives a restart, with the addresses of processes that are gone: what is said under this name was said
    since. The count of restarts would not do, as each node counts those alone that it began itself. So every process calls with
    a word that nobody has used before, and the first one answers under that word, until all have heard it: an answer to a call
    that a dead process has left harms nobody. Raises RuntimeError where one is not heard of within `PATIENCE`.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if rank:
        store.set(f"call/{rank}", word)
        name: str = store.get(f"answer/{word}").decode()
        store.add(f"heard/{name}", 1)
        return name
    while store.add(f"heard/{word}", 0) < size - 1:
        if time.monotonic() > until:
            raise RuntimeError(f"not all of the {size} processes answer")
        for other in range(1, size):
            store.set("answer/" + store.get(f"call/{other}").decode(), word)
        time.sleep(0.02)
    return word


@contextlib.contextmanager
def joined(config: RunConfig, device: torch.device) -> Iterator[World]:
    """The `World` of this process on `device`, for as long as the block lasts; see `World.together`."""
    here = place()
    if here.size == 1:
        yield World()
        return
    require_shares(config, here.size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        store = PrefixStore(meeting(store, rank, size), store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise PeerError(GONE, f"the processes of the run did not find each other: {_line(error)}") from error
    global _joined  # noqa: PLW0603  # it is the process that joins
    _joined = True
    world = World(here, control)
    try:
        with world.together():
            yield world
    finally:
        world.leave()
        del control
        if not _ending:
            # The groups' threads end here: one that would let go of a tensor after Python's end aborts the process.
            dist.destroy_process_group()


def told_elsewhere(error: LabError) -> bool:
    """Whether another process of the run tells the user about `error`."""
    if isinstance(error, PeerError):
        return error.told
    return not _joined and place().local_rank != 0
