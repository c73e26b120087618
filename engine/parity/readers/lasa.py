"""LaSA's features of untrimmed sequences. The fixture holds its own inputs, so everything is judged outside the groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from engine.parity.lines import Line
from engine.parity.readers.contract import Arrays, Case, Group, Limits, Reader, differing, largest
from shared_data.formats.ragged import in_memory
from shared_data.pipelines.lasa import every_second, lara, mcfs, motion_and_shape
from shared_data.sequence_loader import SequenceLoader
from shared_data.sequences import SequenceBuilder, boundaries

LIMITS = Limits()
FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pku": lambda x: motion_and_shape(x.astype(np.float32)),
    "lara": lambda x: lara(x.astype(np.float32)),
    "mcfs": mcfs,
}


def whole(meta: Group, arrays: Arrays) -> list[Line]:
    """Features, boundaries, half rate and the padded batch."""
    return [*_sequences(arrays), *_half_rate(arrays), *_batch(arrays)]


def _sequences(arrays: Arrays) -> Iterator[Line]:
    for key in sorted(name for name in arrays if name.endswith("/input")):
        place = key.removesuffix("/input")
        feature = FEATURES[place.split("/")[0]](arrays[key])
        yield Line(f"{place} feature", largest(feature, arrays[f"{place}/feature"]), LIMITS.value)
        if f"{place}/boundary" in arrays:
            found = boundaries(arrays[f"{place}/label"])
            yield Line(f"{place} boundary", differing(found, arrays[f"{place}/boundary"] > 0), 0.0)


def _half_rate(arrays: Arrays) -> Iterator[Line]:
    for key in sorted(name for name in arrays if name.startswith("pku_half_rate/") and name.endswith("/label")):
        place, number = key.removesuffix("/label"), key.split("/")[1]
        label = arrays[f"pku/{number}/label"]
        feature = FEATURES["pku"](arrays[f"pku/{number}/input"])
        feature, label, boundary = every_second(feature, label, boundaries(label))
        yield Line(f"{place} label", differing(label, arrays[key]), 0.0)
        yield Line(f"{place} boundary", differing(boundary > 0, arrays[f"{place}/boundary"] > 0), 0.0)
        yield Line(f"{place} sum", abs(float(feature.sum(dtype=np.float64) - arrays[f"{place}/feature_sum"])), LIMITS.sum)


def _batch(arrays: Arrays) -> Iterator[Line]:
    places = sorted(name.removesuffix("/input") for name in arrays if name.startswith("pku/") and name.endswith("/input"))
    builder = SequenceBuilder(in_memory("test", 25, np.dtype(np.float32)), joints=25, max_people=2)
    for place in sorted(places, key=lambda name: int(name.split("/")[1])):
        builder.add(place, arrays[f"{place}/input"].astype(np.float32), arrays[f"{place}/label"])
    batch = next(SequenceLoader(builder.finish(), batch_size=len(places), train=False).epoch(0))
    yield Line("pku batch label", differing(batch.labels.numpy(), arrays["pku/batch_label"]), 0.0)
    yield Line("pku batch mask", differing(batch.mask.numpy(), arrays["pku/batch_mask"]), 0.0)
    yield Line("pku batch boundary", differing(batch.boundary.numpy(), arrays["pku/batch_boundary"]), 0.0)
    features = batch.features.numpy() + np.float32(0)
    flat = features.reshape(len(features), -1).astype(np.float64)
    weights = np.arange(flat.shape[1]) * 0.6180339887498949 % 1 - 0.5
    recorded = {name: arrays[f"pku/batch_feature/{name}"] for name in ("sum", "wsum")}
    yield Line("pku batch feature sum", largest(flat.sum(1), recorded["sum"]), LIMITS.sum)
    yield Line("pku batch feature wsum", largest(flat @ weights, recorded["wsum"]), LIMITS.wsum)


def _never(case: Case) -> np.ndarray:
    raise AssertionError("this fixture has no clips of its own")


READER = Reader(None, _never, whole=whole)
