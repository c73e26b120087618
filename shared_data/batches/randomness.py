"""Random numbers as a function of what they are for, not of what was drawn before.

Every number is one output of Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) at
a counter made of (purpose, sample key, epoch) under the seed. There is no state: a clip gets the same augmentation
whatever the batch it sits in, the thread that makes it, or the batch a resumed run starts from.
"""

from __future__ import annotations

import numpy as np

# Purposes keep the numbers of different uses apart. They never change their meaning: runs must stay repeatable.
PERMUTATION = 0
AUGMENTATION = 1
ZERO_SHOT_ROWS = 2
ZERO_SHOT_SKELETON_NOISE = 3
ZERO_SHOT_TEXT_NOISE = 4
ZERO_SHOT_PAIRING = 5
ZERO_SHOT_LATENTS = 6
ZERO_SHOT_WEIGHTS = 7
ZERO_SHOT_GATE = 8
WINDOW_PHASE = 9
WINDOW_CHOICE = 10

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_BLOCK_BITS = 16  # blocks of four words for one (purpose, sample, epoch)
REPEAT_BITS = 32  # a sample key is (repeat number << 32) + position in its split


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox-4x32-10 of `counter` (4, ...), 32-bit words in uint64, under a `key` of two words; same shape and type."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1  # 32 x 32 -> 64 bits, exact in uint64
        c0, c1, c2, c3 = (
            (product_1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW,
            (product_0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def sample_keys(index: np.ndarray, repeat_number: np.ndarray | int = 0) -> np.ndarray:
    """(B,) uint64 keys of the clips at positions `index` of their split, at their `repeat_number`-th showing."""
    repeat = np.asarray(repeat_number, dtype=np.uint64) << np.uint64(REPEAT_BITS)
    return np.asarray(index, dtype=np.uint64) + repeat


def words(seed: int, epoch: int, keys: np.ndarray, purpose: int, blocks: int) -> np.ndarray:
    """(4, B, blocks) 32-bit words in uint64 for sample `keys` (B,). Raises ValueError for a number out of range."""
    if not 0 <= epoch < 2**32:
        raise ValueError(f"epoch {epoch} is not in 0 .. 2**32 - 1")
    if not 0 <= blocks <= 2**_BLOCK_BITS:
        raise ValueError(f"{blocks} blocks of random words asked for one sample; at most {2**_BLOCK_BITS}")
    keys = np.asarray(keys, dtype=np.uint64)
    counter = np.empty((4, len(keys), blocks), dtype=np.uint64)
    counter[0] = np.uint64(purpose << _BLOCK_BITS) + np.arange(blocks, dtype=np.uint64)
    counter[1] = (keys & _LOW)[:, None]
    counter[2] = (keys >> _HALF)[:, None]
    counter[3] = epoch
    seed %= 2**64
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def uniforms(seed: int, epoch: int, keys: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """(B, count) float64 in [0, 1), multiples of 2**-53, for sample `keys` (B,) uint64.

    A longer request begins with the same numbers, so a pipeline may ask for more without changing what it had.
    """
    w0, w1, w2, w3 = words(seed, epoch, keys, purpose, (count + 1) // 2)
    high = np.stack([w0, w2], axis=-1) >> np.uint64(5)
    low = np.stack([w1, w3], axis=-1) >> np.uint64(6)
    values = (high * np.float64(2**26) + low) * np.float64(2.0**-53)
    return np.ascontiguousarray(values.reshape(len(values), -1)[:, :count])


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count,) int64: 0 .. count - 1 in the order of this (seed, epoch).

    Sorting counter-made numbers, not a library's shuffle, keeps the order the same under every NumPy version.
    """
    w = words(seed, epoch, np.arange(count, dtype=np.uint64), PERMUTATION, 1)[:, :, 0]
    return np.argsort((w[0] << _HALF) | w[1], kind="stable")
