"""The smoke test of a zero-shot system: its networks, and the five stages through its own main.py on made-up features.

The network that is tried is both autoencoders and the classifier of unseen classes; its loss is that of a late step, in which
every term counts, and the classifier's beside it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.zeroshot import COLUMNS
from smoke_tests import assertions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.models import ModelCard

LATE = 1700  # steps of a cycle, the last of which has every term
CLASSES, UNSEEN, VALIDATION_UNSEEN = (
    12,
    (1, 5, 9),
    (2, 6, 10),
)  # a split of its own: a published one is told how many clips it lacks
FEATURES, TEXT, PER_CLASS = 64, 48, 20  # of the made-up folder
STEPS = 40
ARCH, MODE = "ViT-B/16", "lb_ad_md"


@dataclass(frozen=True)
class Smoke:
    """The [smoke] table of a model.toml: classes, of them unseen, widths of skeleton rows, text and latents, rows of a batch.

    `loss` and `loss_tolerance`: of all terms and the classifier, float32, on CPU or GPU.
    """

    classes: int
    unseen: int
    skeleton: int
    text: int
    latent: int
    batch: int
    parameters: int
    loss: float
    loss_tolerance: float


def table(card: ModelCard) -> Smoke:
    """The model's [smoke] table; raises `ModelError` (exit 78)."""
    return assertions.table(card, Smoke)


def built(card: ModelCard, spec: Smoke, device: str) -> nn.Module:
    """Both autoencoders ("network") and the classifier ("classifier") on `device`."""
    from torch import nn

    from engine.zeroshot.network import LatentClassifier, Sizes
    from engine.zeroshot.system import find

    network = find(card.name).build(Sizes(spec.skeleton, spec.text, spec.latent))
    return nn.ModuleDict({"network": network, "classifier": LatentClassifier(spec.latent, spec.unseen)}).to(device)


def check_network(card: ModelCard, spec: Smoke, device: str, folder: Path) -> tuple[dict[str, bool], dict[str, Any]]:
    """Assertions by name, and the figures behind them."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from engine.zeroshot.draws import Draw
    from engine.zeroshot.losses import terms
    from engine.zeroshot.optimizer import adam
    from engine.zeroshot.schedule import TEXT_CYCLE, factors
    from engine.zeroshot.system import find
    from smoke_tests import fingerprint

    system = find(card.name)

    def fixed(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(fingerprint.numbers(name, shape)).to(device)

    skeletons = fixed("skeleton rows", spec.batch, spec.skeleton).abs()  # of a network that ends in a ReLU
    text = normalize(fixed("text", spec.classes, spec.text))
    seen, unseen = text[: spec.classes - spec.unseen], text[spec.classes - spec.unseen :]
    of_class = seen[fingerprint.labels(spec.batch, len(seen)).to(device)]
    rows = torch.arange(spec.batch, device=device)
    noise = 2.0 * fixed("skeleton noise", spec.batch, 1), 2.0 * fixed("text noise", spec.batch, 1)
    draw = Draw(rows, noise[0], noise[1], rows.roll(1) if system.pairs else None)
    late = factors(TEXT_CYCLE, LATE - 1, steps=LATE)

    def loss(pair: nn.Module) -> Tensor:
        network, classifier = pair["network"], pair["classifier"]  # type: ignore[index]
        found = terms(network, skeletons, of_class, draw, system.alignment).total(late, system.weight(spec.classes))
        with torch.no_grad():
            latents, _ = network.text_encoder(unseen)
        return found + cross_entropy(classifier(latents), torch.arange(spec.unseen, device=device))

    def scores(pair: nn.Module) -> Tensor:
        means, _ = pair["network"].skeleton_encoder(skeletons)  # type: ignore[index]
        classes: Tensor = pair["classifier"](means)  # type: ignore[index]
        return classes

    subject = assertions.Subject(
        build=lambda: built(card, spec, device),
        shape=(spec.batch, spec.unseen),
        settle=lambda pair: pair.eval(),
        output=scores,
        loss=lambda pair, _: loss(pair).item(),
        step_loss=loss,
        optimizer=lambda pair: adam(pair, 1e-3),
    )
    return assertions.check(subject, spec, folder)


def check_training(card: ModelCard, spec: Smoke, device: str, data: Path | None, folder: Path) -> dict[str, bool]:
    """All stages on made-up features. `data` is clips, from which a zero-shot system does not learn: that is said, not tried."""
    from engine.zeroshot import synthetic, synthetic_folder
    from engine.zeroshot.plan import Plan
    from engine.zeroshot.settings import Settings
    from engine.zeroshot.sources import Source
    from shared_data.zeroshot_splits import split_of

    test, val = split_of(CLASSES, UNSEEN), split_of(CLASSES, VALIDATION_UNSEEN, without=UNSEEN)
    source = Source(folder / "features", ARCH, MODE)
    made_up = synthetic.world(classes=CLASSES, seed=0, features=FEATURES, text=TEXT)
    synthetic_folder.write(source, made_up, Plan(test, val, Settings()), per_class=PER_CLASS)
    if data is not None:
        print(f"{data} holds clips: {card.name} learns from features, and was not tried on it", flush=True)
    run = folder / "run"
    return {"trains": train(card, device, source.root, run) == 0 and trained(card, run)}


def train(card: ModelCard, device: str, root: Path, work_dir: Path) -> int:
    """A short cycle of the five stages through the model's own main.py; returns its exit code."""
    return assertions.run_main(
        card, "run", "--ntu", str(CLASSES), "--unseen", *map(str, UNSEEN), "--val-unseen", *map(str, VALIDATION_UNSEEN),
        "--le", ARCH, "--tm", MODE, "--root", str(root), "--work-dir", str(work_dir), "--device", device,
        "--num-cycles", "1", "--num-epoch-per-cycle", str(STEPS),
    )  # fmt: skip


def trained(card: ModelCard, work_dir: Path) -> bool:
    """Whether a run left accuracies, and networks of both splits."""
    results = json.loads((work_dir / "results.json").read_text())
    accuracies = [row[name] for row in results["seeds"] for name in COLUMNS]
    networks = [file.parent.name for file in work_dir.glob("checkpoints/seed-*/*/cycle-0.safetensors")]
    sound = bool(accuracies) and all(math.isfinite(value) and 0 <= value <= 1 for value in accuracies)
    return sound and results["model"] == card.name and sorted(networks) == ["test", "val"]
