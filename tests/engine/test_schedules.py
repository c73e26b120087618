import pytest

from engine.config import parse
from engine.schedules import cosine_learning_rate, epoch_learning_rate, iteration_learning_rate, learning_rate


def test_official_table() -> None:
    """CTR-GCN spec, section 9 item 7: warm-up over five epochs, drops in the 36th and 56th epochs."""
    rate = {e: epoch_learning_rate(e, base_lr=0.1, warm_up_epoch=5, step=[35, 55]) for e in range(65)}
    assert [rate[e] for e in range(5)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert (rate[34], rate[35], rate[54], rate[55]) == pytest.approx((0.1, 0.01, 0.01, 0.001))


def test_cosine_falls_to_the_minimum_and_still_learns_in_the_last_epoch() -> None:
    rates = [cosine_learning_rate(e, base_lr=1.0, num_epoch=10, warm_up_epoch=2, min_lr=0.1) for e in range(11)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.55)  # half-way
    assert rates[9] > 0.1
    assert rates[10] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_cosine_by_iteration_is_not_shifted_by_the_warm_up() -> None:
    """SkateFormer spec, section 9 item 6: 500 epochs of 10 steps, 25 of warm-up."""
    total, warm = 5000, 250

    def rate(k: int) -> float:
        return iteration_learning_rate(
            k, base_lr=1e-3, iterations=total, warm_up_iterations=warm, warm_up_lr=1e-7, min_lr=1e-5
        )  # fmt: skip

    span = 1e-3 - 1e-5
    assert rate(0) == 1e-7
    assert rate(warm - 1) == pytest.approx(1e-7 + 249 * (1e-3 - 1e-7) / 250)
    assert (rate(warm) - 1e-5) / span == pytest.approx(0.9938, abs=1e-4)  # the jump at the end of the warm-up
    assert rate(total // 2) == pytest.approx(1e-5 + span / 2)
    assert 1e-5 < rate(total - 1) < 1e-5 + span * 1e-6
    assert rate(total) == rate(total + 7) == 1e-5


def test_a_run_has_the_rate_of_its_own_schedule() -> None:
    """Only the cosine by iteration changes within an epoch."""
    words = [
        "--recipe",
        "tiny_cpu",
        "--num-epoch",
        "10",
        "--warm-up-epoch",
        "2",
        "--step",
        "4",
        "--base-lr",
        "1",
        "--min-lr",
        "0.1",
    ]

    def rates(schedule: str) -> list[float]:
        config = parse([*words, "--lr-schedule", schedule], model="ctrgcn")
        return [learning_rate(config, epoch=step // 6, step=step, steps_per_epoch=6) for step in range(60)]

    by_step, cosine, by_iteration = (rates(name) for name in ("step", "cosine", "cosine_iteration"))
    assert by_step == [epoch_learning_rate(k // 6, base_lr=1, warm_up_epoch=2, step=[4]) for k in range(60)]
    assert cosine == [cosine_learning_rate(k // 6, base_lr=1, num_epoch=10, warm_up_epoch=2, min_lr=0.1) for k in range(60)]
    assert by_iteration == [
        iteration_learning_rate(k, base_lr=1, iterations=60, warm_up_iterations=12, min_lr=0.1) for k in range(60)
    ]
    assert len(set(by_iteration)) > len(set(cosine)) > len(set(by_step))
