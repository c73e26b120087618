"""The order of the 150 numbers: told rightly or not at all, whatever people do in the clips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_data.formats.fingerprint import RIGHT, Fingerprint, array_orders, judge, vector_orders
from shared_data.skeletons import NTU25
from shared_data.synthetic import write_synthetic

AXES = {  # axes of (person, joint, xyz) in the order in which a vector holds them
    RIGHT: (0, 1, 2),
    "joint, xyz, person": (1, 2, 0),
    "joint, person, xyz": (1, 0, 2),
    "xyz, joint, person": (2, 1, 0),
    "xyz, person, joint": (2, 0, 1),
    "person, xyz, joint": (0, 2, 1),
}
FACTS = ("millimetres", "uncentred", "copied", "absent first", "single frame", "one person", "half precision", "noisy")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> np.ndarray:
    """(160, 60, 2, 25, 3) centred clips of ten actions, 30 to 60 frames, some with a second person."""
    file = tmp_path_factory.mktemp("made") / "synthetic.npz"
    write_synthetic(file, classes=10, train_per_class=16, test_per_class=1, frames=60, seed=3)
    with np.load(file) as arrays:
        return arrays["x_train"].reshape(-1, 60, 2, 25, 3)


def dressed(x: np.ndarray, facts: set[str], rng: np.random.Generator) -> np.ndarray:
    """Clips (N, T, 2, 25, 3) in which `facts` hold."""
    x = x.copy()
    if "uncentred" in facts:
        x += x.any((-1, -2), keepdims=True) * rng.uniform((-1, -0.6, 2), (1, 0.6, 4), (len(x), 1, 1, 1, 3)).astype(np.float32)
    if "copied" in facts:
        alone = ~x[:, :, 1].any((-1, -2, -3))
        x[alone, :, 1] = x[alone, :, 0]
    if "absent first" in facts:
        # In nearly every clip somebody else is there first; person 1 comes later, or in some clips never.
        x[:, :, 1] = np.where(x[:, :, 1].any((-1, -2), keepdims=True), x[:, :, 1], x[::-1, :, 0])
        late = rng.random(len(x)) < 0.95
        x[late, : rng.integers(5, 40), 0] = 0
    if "noisy" in facts:
        x = np.where(x.any((-1, -2), keepdims=True), x + rng.normal(0, 0.02, x.shape), 0).astype(np.float32)
    if "millimetres" in facts:
        x *= 1000
    if "single frame" in facts:
        x = x[:, : rng.integers(1, 3)]
    if "half precision" in facts:
        x = x.astype(np.float16).astype(np.float32)
    return x[:, :, :1] if "one person" in facts else x


def finding(x: np.ndarray, order: str, *, five: bool = False):
    """The verdict on clips (N, T, M, 25, 3) stored in `order`, as vectors or as the five axes a converter made of them."""
    n, t, m = x.shape[:3]
    vectors = np.ascontiguousarray(x.transpose(0, 1, *(2 + a for a in AXES[order]))).reshape(n, t, -1)
    if five:  # a converter took vectors that are in the right order for vectors in `order`
        names = order.split(", ")
        sizes = {"person": m, "joint": 25, "xyz": 3}
        wrong = x.reshape(n, t, *(sizes[name] for name in names))
        block = wrong.transpose(
            0, *((1 if name == "time" else 2 + names.index(name)) for name in ("xyz", "time", "joint", "person"))
        )
        print_ = Fingerprint(array_orders(25, m), NTU25, n, 2)
    else:
        block, print_ = vectors, Fingerprint(vector_orders(25, m), NTU25, n, 1)
    for start in range(0, n, 7):
        print_.add(start, block[start : start + 7])
    return judge(print_.decodings(), "x")


def assert_right(found, order: str, facts: set[str]) -> None:
    true = order if "one person" not in facts else order.replace("person, ", "").replace(", person", "")
    if true in (RIGHT, "joint, xyz"):
        assert found.code == "layout-confirmed", found.message
    else:
        assert found.code == "layout-scrambled" and f"ordered {true}, not" in found.message, found.message


@pytest.mark.parametrize("five", [False, True], ids=["vectors", "five axes"])
@pytest.mark.parametrize("order", AXES)
@pytest.mark.parametrize("fact", ["plain", *FACTS])
def test_sixty_clips_are_enough_for_a_verdict_whatever_is_odd_about_them(bodies, fact, order, five):
    x = dressed(bodies[:60], {fact}, np.random.default_rng(1))
    assert_right(finding(x, order, five=five), order, {fact})


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("five", [False, True], ids=["vectors", "five axes"])
@pytest.mark.parametrize("order", [order for order in AXES if order != RIGHT])
def test_a_file_in_none_of_the_known_orders_is_neither_confirmed_nor_taken_for_one_of_them(bodies, order, five, centred):
    """Wrong twice: read in a wrong order, then written rightly, which no single order undoes."""
    x = dressed(bodies[:60], set() if centred else {"uncentred"}, np.random.default_rng(1))
    n, t, m = x.shape[:3]
    names = order.split(", ")
    if five:  # vectors written in a wrong order, read rightly
        twice = np.ascontiguousarray(x.transpose(0, 1, *(2 + a for a in AXES[order]))).reshape(x.shape)
        print_, block = Fingerprint(array_orders(25, m), NTU25, n, 2), twice.transpose(0, 4, 1, 3, 2)
    else:  # right vectors read in a wrong order, written rightly
        sizes = {"person": m, "joint": 25, "xyz": 3}
        wrong = x.reshape(n, t, *(sizes[name] for name in names))
        twice = wrong.transpose(0, 1, *(2 + names.index(name) for name in ("person", "joint", "xyz")))
        print_, block = Fingerprint(vector_orders(25, m), NTU25, n, 1), np.ascontiguousarray(twice).reshape(n, t, -1)
    print_.add(0, block)
    assert judge(print_.decodings(), "x").code == "layout-unconfirmed"


def test_people_in_a_plane_are_not_refused(bodies):
    """Two coordinates with 0 as the third: the right order is flat too, and the only one in which anybody looks human."""
    x = bodies[:60].copy()
    x[..., 2] = 0
    found = finding(x, RIGHT)
    assert found.code == "layout-confirmed", found.message


@settings(max_examples=150, deadline=None)
@given(
    facts=st.sets(st.sampled_from(FACTS), max_size=4),
    clips=st.sampled_from([1, 2, 5, 20, 60]),
    order=st.sampled_from(list(AXES)),
    five=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_never_a_wrong_refusal_and_never_a_wrong_confirmation(bodies, facts, clips, order, five, seed):
    rng = np.random.default_rng(seed)
    x = dressed(bodies[rng.choice(len(bodies), clips, replace=False)], facts, rng)
    found = finding(x, order, five=five)
    if found is None or found.code == "layout-unconfirmed":
        return
    assert_right(found, order, facts)
