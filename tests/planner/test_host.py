"""What a run needs beside the GPU, against sums made by hand."""

from dataclasses import replace

import pytest

from engine.config import RunConfig
from planner.host import Host, host_needs

CLIP = (4, 64, 32, 2)  # 16384 numbers of 4 bytes: 16 clips are 1 MiB
RUN = RunConfig(
    batch_size=32, test_batch_size=16, num_worker=3, optimizer="SGD", num_epoch=65, save_interval=0, dataset="ntu60"
)  # fmt: skip


def test_memory_is_the_process_its_batches_and_two_states() -> None:
    # 3072 of the process; seven batches of 2 MiB: two ready, one for each of three threads, two in use; weights, momentum, twice
    assert host_needs(RUN, CLIP, 10.0).ram_mib == 3072 + 7 * 2 + 2 * 20
    assert host_needs(replace(RUN, num_worker=0), CLIP, 10.0).ram_mib == 3072 + 4 * 2 + 2 * 20
    assert host_needs(replace(RUN, test_batch_size=64), CLIP, 10.0).ram_mib == 3072 + 7 * 4 + 2 * 20  # the larger batch counts


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
def test_adam_has_two_numbers_for_each_weight(optimizer: str) -> None:
    needs = host_needs(replace(RUN, optimizer=optimizer), CLIP, 10.0)  # type: ignore[arg-type]
    assert (needs.ram_mib, needs.run_mib) == (3072 + 14 + 2 * 30, 2 * 30 + 2 * 10 + 50)


@pytest.mark.parametrize(("interval", "copies"), [(0, 2), (10, 8), (65, 3), (66, 2)])
def test_a_runs_folder_is_two_states_the_weights_that_are_kept_and_its_logs(interval: int, copies: int) -> None:
    """Of the weights the best and the one being written, and those of every so many of 65 epochs."""
    assert host_needs(replace(RUN, save_interval=interval), CLIP, 10.0).run_mib == 2 * 20 + copies * 10 + 50


@pytest.mark.parametrize(
    ("dataset", "mib"),
    [
        ("ntu60", 1632),  # 56578 clips x 84 frames x 1.2 people x 25 joints x 3 numbers x 4 bytes = 1710.9 MB
        ("ntu60_inter", 1632),  # a part of it, of which the whole is prepared
        ("ntu120", 3286),  # 113945 clips
        ("nw_ucla", 29),  # 1484 clips of one person with 20 joints: 29.9 MB
        ("kinetics", None),  # nobody has said how many clips
        ("auto", None),
    ],
)
def test_the_store_is_the_clips_of_the_whole_data_set(dataset: str, mib: int | None) -> None:
    assert host_needs(replace(RUN, dataset=dataset), CLIP, 10.0).store_mib == mib


def test_batches_are_made_by_threads_and_need_no_shared_memory() -> None:
    needs = host_needs(RUN, CLIP, 0.0)
    assert needs == Host(ram_mib=3086, shm_mib=0, store_mib=1632, run_mib=50)
    assert needs.as_dict() == {"ram_mib": 3086, "shm_mib": 0, "store_mib": 1632, "run_mib": 50}
