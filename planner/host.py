"""What a run needs beside the GPU: memory of the host, shared memory, room on the disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from engine.config import RunConfig
from shared_data.protocols import BENCHMARKS, PROTOCOLS
from shared_data.skeletons import skeleton

MIB = 2**20
PROCESS_MIB = 3072.0
"""Python, PyTorch and CUDA's libraries in the memory of one process, reckoned with (a process on a CPU takes a quarter of it)."""
PREFETCH = 2
"""Batches that the loader keeps ready, beside one for each thread and two in use."""
LOGS_MIB = 50.0
"""Log, scores and report of a run."""
FRAMES, PEOPLE = 84, 1.2
"""Mean length and mean number of people of an NTU clip, on the high side: its store is 1.6 GB."""


@dataclass(frozen=True)
class Host:
    """MiB of host memory, of /dev/shm, of the prepared store on the disk (None: depends on the data) and of a run's folder."""

    ram_mib: float
    shm_mib: float
    store_mib: float | None
    run_mib: float

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def host_needs(config: RunConfig, clip: tuple[int, ...], weights_mib: float) -> Host:
    """For a run of `config` on clips of shape `clip` (C, T, V, M), or on sequences (M C, V, T), which are evaluated one by one.

    weights_mib   MiB of the network's parameters and buffers together, as a checkpoint holds them (not of its gradients: fixed
                  parameters have none, and buffers such as adjacencies and BatchNorm's statistics neither)
    The store is mapped into memory, not read: what the system caches of it is not counted. Batches are made by threads of the
    training process, so nothing passes through /dev/shm.
    """
    clips = config.batch_size if config.stage == "segment" else max(config.batch_size, config.test_batch_size)
    batch = clips * math.prod(clip) * 4 / MIB
    state = weights_mib * (3 if config.optimizer.startswith("Adam") else 2)
    copies = 2 + (config.num_epoch // config.save_interval if config.save_interval else 0)
    return Host(
        ram_mib=round(PROCESS_MIB + batch * (PREFETCH + config.num_worker + 2) + 2 * state),
        shm_mib=0.0,
        store_mib=_store(config.dataset),
        run_mib=round(2 * state + copies * weights_mib + LOGS_MIB),  # the last state and the one being written
    )


def _store(dataset: str) -> float | None:
    """Of the whole data set, of which a recipe for two-person actions reads a part."""
    benchmark = BENCHMARKS.get(dataset)
    whole = BENCHMARKS[benchmark.part_of] if benchmark and benchmark.part_of else benchmark
    sizes = {protocol.classes: protocol.train + protocol.test for protocol in PROTOCOLS}
    if whole is None or whole.classes not in sizes:
        return None
    people = PEOPLE if whole.people > 1 else 1.0
    return round(sizes[whole.classes] * FRAMES * people * skeleton(whole.skeleton).joints * 3 * 4 / MIB)
