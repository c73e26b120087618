"""Official checkpoints of the zero-shot systems into our networks and back, strictly.

Officially each network has a file of its own: ``se_*``, ``sd_*``, ``te_*`` and ``td_*`` (encoders and decoders of skeletons and
texts) and the classifier's. Here their entries carry the file's two letters as a prefix, as in ``se.mu_transformation.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine import official
from engine.errors import WeightsError
from engine.official import Entry, affine
from engine.weights import read_tensors
from engine.zeroshot.network import AlignedVAE, Encoder, LatentClassifier, Sizes
from engine.zeroshot.system import System
from shared_data.errors import MissingInputError, UsageError

PARTS = {"se": "skeleton_encoder", "sd": "skeleton_decoder", "te": "text_encoder", "td": "text_decoder"}
ENCODERS = ("se", "te")


def halves(official_name: str, latent: int, names: tuple[str, str]) -> list[Entry]:
    """The two official maps of an encoder, mean and log-variance, as halves of our one."""
    rows = (slice(0, latent), slice(latent, None))
    return [row for name, part in zip(names, rows, strict=True) for row in affine(f"{official_name}{name}", "affine", part)]


def table(system: System, network: AlignedVAE) -> list[Entry]:
    """Every learned entry of the four files, in their order."""
    rows = []
    for prefix, name in PARTS.items():
        part = getattr(network, name)
        inner = system.encoder(part) if isinstance(part, Encoder) else affine("model.0", "affine")
        rows += [Entry(f"{prefix}.{row.official}", f"{name}.{row.ours}", row.rows, row.shape, row.order) for row in inner]
    return rows


def from_official(system: System, state: Mapping[str, Tensor], network: AlignedVAE) -> dict[str, Tensor]:
    """Our state dict from the `state` of all four files, names prefixed as described above.

    Raises `WeightsError` if an entry is missing, unexpected or of another shape, and if one of the constants that our networks
    are built with has another value: those weights would then mean something else.
    """
    learned = {key: value for key, value in state.items() if _constant(system, key, network) is None}
    found = official.from_official(table(system, network), learned, network, title=system.title)
    expected = constants(system, network)
    wrong = [
        f"{key} is {state[key].tolist()}, not {value:g}" if key in state else f"{key} is missing"
        for key, value in expected.items()
        if key not in state or state[key].shape != () or float(state[key]) != value
    ]
    if wrong:
        raise WeightsError(
            f"the weights are of another variant of {system.title}",
            where="; ".join(wrong),
            expected=", ".join(f"{key} {value:g}" for key, value in expected.items()),
            next_step="use the networks at the published settings",
        )
    return found


def to_official(system: System, tensors: Mapping[str, Tensor], network: AlignedVAE) -> dict[str, Tensor]:
    """Official names and shapes of `tensors`, which hold one tensor per key of ours (a state dict, gradients, ...)."""
    return official.to_official(table(system, network), tensors)


def constants(system: System, network: AlignedVAE) -> dict[str, float]:
    """The official scalars that stand for how our networks are built."""
    enhanced = [prefix for prefix in ENCODERS if getattr(network, PARTS[prefix]).enhance is not None]
    return {f"{prefix}.{name}": value for prefix in enhanced for name, value in system.constants.items()}


def classifier_from_official(state: Mapping[str, Tensor], classifier: LatentClassifier) -> dict[str, Tensor]:
    """Our classifier's state dict from the official one's; raises `WeightsError` with what does not fit."""
    return official.from_official(list(affine("model.0", "affine")), state, classifier, title="the classifier of unseen classes")


def classifier_to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back of `classifier_from_official`."""
    return official.to_official(list(affine("model.0", "affine")), tensors)


def sizes_of(arguments: Mapping[str, Sequence[int]], *, where: str = "") -> Sizes:
    """Our sizes from the official constructor arguments: input and output width of each of se, sd, te, td.

    Raises `UsageError` if they do not fit each other.
    """
    try:
        pairs: dict[str, tuple[int, int]] = {}
        for name in PARTS:
            before, after = arguments[name]
            pairs[name] = (int(before), int(after))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("the widths of the four networks are not given", where=where, expected=", ".join(PARTS)) from error
    sizes = Sizes(pairs["se"][0], pairs["te"][0], pairs["se"][1])
    if pairs != _widths(sizes):
        raise UsageError(f"the widths of the four networks do not fit: {pairs}", where=where, expected=str(_widths(sizes)))
    return sizes


def read(folder: Path, epoch: int, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The state of the four files ``se_{epoch}.pth.tar`` ... in `folder`, prefixed, for `from_official`.

    They are pickles: opened only with `trust_pickle`, and then for tensors alone. A file ``se_{epoch}.safetensors`` beside
    them needs no trust and is taken first. Raises `MissingInputError` for a file that is not there, and `WeightsError`.
    """
    read_parts = {prefix: _read_file(folder, f"{prefix}_{epoch}", trust_pickle) for prefix in PARTS}
    return {f"{prefix}.{key}": value for prefix, part in read_parts.items() for key, value in part.items()}


def read_classifier(folder: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The state of ``classifier.pth.tar`` in `folder`, for `classifier_from_official`; otherwise as `read`."""
    return _read_file(folder, "classifier", trust_pickle)


def _read_file(folder: Path, stem: str, trust_pickle: bool) -> dict[str, Tensor]:
    names = [f"{stem}{suffix}" for suffix in (".safetensors", ".pth.tar")]
    file = next((folder / name for name in names if (folder / name).exists()), None)
    if file is None:
        raise MissingInputError("a checkpoint is missing", where=str(folder / names[1]), expected=" or ".join(names))
    return {official.strip_prefix(key): value for key, value in read_tensors(file, trust_pickle).items()}


def sizes_in(state: Mapping[str, Tensor]) -> Sizes:
    """The widths that the decoders of an official `state` show. Raises `WeightsError` without them."""
    decoders = [state.get(f"{prefix}.model.0.weight") for prefix in ("sd", "td")]
    if any(value is None or value.dim() != 2 for value in decoders):
        raise WeightsError("these are no weights of a zero-shot system", expected="sd.model.0.weight and td.model.0.weight")
    skeleton, text = (value for value in decoders if value is not None)
    return Sizes(len(skeleton), len(text), skeleton.shape[1])


def load(system: System, state: Mapping[str, Tensor], **options: Any) -> AlignedVAE:
    """The networks with an official `state`, at the sizes of its entries, in evaluation mode; `options` go to the builder."""
    network = system.build(sizes_in(state), **options)
    network.load_state_dict(from_official(system, state, network))
    return network.eval()


def _widths(sizes: Sizes) -> dict[str, tuple[int, int]]:
    s, t, latent = sizes
    return {"se": (s, latent), "sd": (latent, s), "te": (t, latent), "td": (latent, t)}


def _constant(system: System, key: str, network: nn.Module) -> float | None:
    """The value that official entry `key` must have, if it is one of the constants."""
    prefix, _, name = key.partition(".")
    return system.constants.get(name) if prefix in ENCODERS and getattr(network, PARTS[prefix]).enhance is not None else None
