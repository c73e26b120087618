"""Where each entry of an official Skeleton-Contrastive checkpoint lives in ours, of a classifier or of pretraining."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from engine.errors import WeightsError
from engine.official import Entry, affine, batch_norm, known_words, layout_of, strip_prefix
from models.isc.graph import SUBSETS, GraphEncoder
from models.isc.image import ImageEncoder
from models.isc.network import Classifier, Encoder
from models.isc.pretraining import MoCo
from models.isc.sequence import SequenceEncoder
from shared_data.errors import require, require_known
from shared_data.skeletons import SKELETONS, skeleton, with_joints

GRAPHS = {"graph.ntu_rgb_d.Graph": "ntu25", "graph.ucla.Graph": "ucla20"}
COORDINATES = 3
MOST_PEOPLE = 4

KNOWN = {
    "num_class": "num_classes",
    # A-GCN
    "num_point": None,
    "num_person": "people",
    "graph": "skeleton",
    "graph_args": None,
    "in_channels": "in_channels",
    # HCN
    "in_channel": "in_channels",
    "out_channel": "width",
    "window_size": "frames",
    "num_joint": None,
    # BiGRU
    "en_input_size": None,
    "en_hidden_size": "width",
    "en_num_layers": "layers",
}
"""Arguments of the three official classes."""

WORDS = {
    "image": ("in_channel", "out_channel", "window_size", "num_joint"),
    "seq": ("en_input_size", "en_hidden_size", "en_num_layers"),
}
"""Representation -> arguments that its official class alone has; what has none of them is "graph"."""

MARKS = {"seq": "encoder.gru.weight_ih_l0", "image": "conv1m.0.weight", "graph": "data_bn.weight"}
"""Representation -> an entry that its official encoder alone has."""

NAMES = {"seq-based": "seq", "graph-based": "graph", "image-based": "image"}
"""Official names of the representations; those of a pair are joined by ``_and_``."""

ROLES = (("encoder_q", "encoder_k"), ("encoder_r", "encoder_l"))
"""Official query and key of the first and of the second representation."""

HYPER = {"queue_size": "moco_k", "key_momentum": "moco_m", "temperature": "moco_t", "mlp": "mlp", "dim": "dim"}
"""Settings recorded with a training run -> arguments of the objective."""

PRETRAINING_OURS = ("queue.*.ids",)


def representations(official: str) -> tuple[str, ...]:
    """Ours of an official ``--skeleton-representation``, "seq-based_and_graph-based": ("seq", "graph")."""
    parts = official.split("_and_")
    for part in parts:
        require_known("skeleton_representation", part, NAMES)
    require(len(parts) <= len(ROLES), "skeleton_representation", official, "one representation, or two joined by _and_")
    return tuple(NAMES[part] for part in parts)


def constructor(official: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the official A-GCN, HCN or BiGRU class -> ours; the words tell which it is."""
    said = known_words(official, KNOWN)
    kind = next((name for name, words in WORDS.items() if any(word in official for word in words)), "graph")
    labeling = (official.get("graph_args") or {}).get("labeling_mode", "spatial")
    require(labeling == "spatial", "graph_args", official.get("graph_args"), "labeling_mode spatial")
    ours = {"num_classes": 60, "people": 2, **said, "representation": kind}
    if kind == "seq" and "en_input_size" in official:
        return {**ours, **_drawn_by(int(official["en_input_size"]))}
    if "num_joint" in official:
        return {**ours, "skeleton": _layout_of(int(official["num_joint"]))}
    return {**ours, "skeleton": layout_of(official, GRAPHS)}


def _layout_of(count: int) -> str:
    """The joint layout of so many joints; raises `UsageError` if there is none."""
    layout = with_joints(count)
    require(layout is not None, "num_joint", count, ", ".join(str(known.joints) for known in SKELETONS.values()))
    return layout.name


def _drawn_by(numbers: int) -> dict[str, Any]:
    """Whose joints are `numbers` a frame: the first layout that fits, with as few people."""
    for people in (2, 1, *range(3, MOST_PEOPLE + 1)):
        for name, layout in SKELETONS.items():
            if layout.joints * COORDINATES * people == numbers:
                return {"skeleton": name, "people": people}
    require(False, "en_input_size", numbers, f"joints times {COORDINATES} coordinates times people: 150 for NTU RGB+D")
    raise AssertionError


def recorded_clips(recorded: Tensor, network: nn.Module) -> Tensor:
    """A recorded input of an official class as clips (N, C, T, V, M): that of the BiGRU is (N, T, V*C*M)."""
    assert isinstance(network, Classifier)
    size = network.encoder.size
    if recorded.dim() == 5:
        return recorded
    return recorded.unflatten(2, (size.joints, size.channels, size.people)).permute(0, 3, 1, 2, 4)


def table(model: nn.Module) -> list[Entry]:
    """Every entry of the official state dict of a classifier, in its order."""
    assert isinstance(model, Classifier)
    return [*_encoder("", "encoder.", model.encoder), *affine("fc", "fc")]


def pretraining_table(objective: nn.Module) -> list[Entry]:
    """Every entry of the official state dict of pretraining."""
    assert isinstance(objective, MoCo)
    rows: list[Entry] = []
    one = len(objective.representations) == 1
    for i, name in enumerate(objective.representations):
        queue, pointer = ("queue", "queue_ptr") if one else (f"Queue_S{i + 1}", f"queue_ptr_S{i + 1}")
        rows += [Entry(queue, f"queue.{name}.features"), Entry(pointer, f"queue.{name}.pointer")]
    for roles, name in zip(ROLES, objective.representations, strict=False):
        for official, ours in zip(roles, ("query", "key"), strict=True):
            branch = getattr(objective, ours)[name]
            rows += _encoder(f"{official}.", f"{ours}.{name}.encoder.", branch.encoder)
            for i, layer in branch.fc.named_children():
                if isinstance(layer, nn.Linear):
                    rows += affine(f"{official}.fc.{i}", f"{ours}.{name}.fc.{i}")
            if isinstance(branch.fc, nn.Linear):
                rows += affine(f"{official}.fc", f"{ours}.{name}.fc")
    return rows


def pretraining_arguments(official: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Our objective's arguments, of the `official` encoder class's and of the settings `hyper` recorded with a run.

    Of a pair, `official` has the arguments of both: {"encoder_q": {...}, "encoder_r": {...}}.
    """
    roles = [role for role, _ in ROLES if role in official]
    encoders = [constructor(official[role]) for role in roles] or [constructor(official)]
    first = encoders[0]
    said_dim = any("num_class" in arguments for arguments in (official, *(official[role] for role in roles)))
    return {
        "skeleton": skeleton(first["skeleton"]),
        "people": first["people"],
        "frames": next((arguments["frames"] for arguments in encoders if "frames" in arguments), 64),
        "representations": [arguments["representation"] for arguments in encoders],
        "encoders": {e["representation"]: {k: e[k] for k in ("in_channels", "width", "layers") if k in e} for e in encoders},
        "dim": first["num_classes"] if said_dim else 128,
        **{ours: hyper[word] for word, ours in HYPER.items() if word in hyper},
    }


def encoder_entries(state: Mapping[str, Tensor], name: str = "") -> dict[str, Tensor]:
    """Of an official pretraining checkpoint, the entries of a query encoder as a classifier's checkpoint has them, but its head.

    name   "seq", "image", "graph", or official "seq-based" ...: which one, needed only where there are two
    """
    found: dict[str, dict[str, Tensor]] = {}
    for query, _ in ROLES:
        part = {strip_prefix(k)[len(query) + 1 :]: v for k, v in state.items() if strip_prefix(k).startswith(f"{query}.")}
        for representation, mark in MARKS.items():
            if mark in part:
                found[representation] = {k: v for k, v in part.items() if k.split(".")[0] != "fc"}
    wanted = NAMES.get(name, name) or (next(iter(found)) if len(found) == 1 else "")
    if wanted not in found:
        raise WeightsError(
            f"this pretraining checkpoint has no query encoder {name!r}" if name else "which of the query encoders is not said",
            expected=", ".join(found) or "entries encoder_q.* as a Skeleton-Contrastive pretraining run saves them",
        )
    return found[wanted]


def _encoder(official: str, ours: str, encoder: Encoder) -> Iterator[Entry]:
    """Entries below the prefixes `official` and `ours`."""
    if isinstance(encoder, SequenceEncoder):
        yield from _sequence(f"{official}encoder.gru", ours, encoder)
    elif isinstance(encoder, ImageEncoder):
        yield from _image(official, ours, encoder)
    else:
        yield from _graph(official, ours, encoder)


def _sequence(official: str, ours: str, encoder: SequenceEncoder) -> Iterator[Entry]:
    for i in range(len(encoder.layers)):
        for gru, ending in (("first", ""), ("second", "_reverse")):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                yield Entry(f"{official}.{part}_l{i}{ending}", f"{ours}layers.{i}.{gru}.{part}_l0")


def _image(official: str, ours: str, encoder: ImageEncoder) -> Iterator[Entry]:
    for branch, ending in (("position", ""), ("motion", "m")):
        maps, width, _, reach = encoder.position.conv2.weight.shape
        yield from affine(f"{official}conv1{ending}.0", f"{ours}{branch}.conv1", shape=(width, encoder.size.channels, 1, 1))
        yield from affine(f"{official}conv2{ending}", f"{ours}{branch}.conv2", shape=(maps, width, reach, 1))
        for i in (3, 4):
            yield from affine(f"{official}conv{i}{ending}.0", f"{ours}{branch}.conv{i}.conv")
    for i in (5, 6):
        yield from affine(f"{official}conv{i}.0", f"{ours}conv{i}.conv")


def _graph(official: str, ours: str, encoder: GraphEncoder) -> Iterator[Entry]:
    yield from batch_norm(f"{official}data_bn", f"{ours}data_bn")
    for i, block in enumerate(encoder.blocks):
        theirs, mine = f"{official}l{i + 1}", f"{ours}blocks.{i}"
        gcn = block.gcn
        _, c_out, c_in = gcn.value.shape
        width = c_out // 4
        yield Entry(f"{theirs}.gcn1.PA", f"{mine}.gcn.learned")
        for j, name in enumerate(("conv_a", "conv_b")):
            for s in range(SUBSETS):
                first = (j * SUBSETS + s) * width
                yield from affine(f"{theirs}.gcn1.{name}.{s}", f"{mine}.gcn.embed", slice(first, first + width))
        for s in range(SUBSETS):
            yield Entry(f"{theirs}.gcn1.conv_d.{s}.weight", f"{mine}.gcn.value", s, (c_out, c_in, 1, 1))
            yield Entry(f"{theirs}.gcn1.conv_d.{s}.bias", f"{mine}.gcn.value_bias", s)
        if isinstance(gcn.down, nn.Sequential):
            yield from affine(f"{theirs}.gcn1.down.0", f"{mine}.gcn.down.0")
            yield from batch_norm(f"{theirs}.gcn1.down.1", f"{mine}.gcn.down.1")
        yield from batch_norm(f"{theirs}.gcn1.bn", f"{mine}.gcn.bn")
        yield from affine(f"{theirs}.tcn1.conv", f"{mine}.tcn", shape=(c_out, c_out, block.tcn.kernel_size[1], 1))
        yield from batch_norm(f"{theirs}.tcn1.bn", f"{mine}.bn")
        if isinstance(block.residual, nn.Sequential):
            yield from affine(f"{theirs}.residual.conv", f"{mine}.residual.0")
            yield from batch_norm(f"{theirs}.residual.bn", f"{mine}.residual.1")
