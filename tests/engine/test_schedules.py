import pytest

from engine.schedules import cosine_learning_rate, epoch_learning_rate, iteration_learning_rate


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
