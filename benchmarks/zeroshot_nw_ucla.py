"""Zero-shot recognition on the real NW-UCLA skeletons: 7 seen and 3 unseen classes, over many random splits.

    python benchmarks/zeroshot_nw_ucla.py --data all_sqe.zip

For each split: a backbone on seen classes and one for validation, their features, our descriptions of the classes as features
of shared words (which know no meaning), and then both systems, with the official ReLU on the classifier's scores and without
it, and with the descriptions of all classes shuffled as a control: over all orders of the three unseen ones, each clip is then
right in exactly a third. Writes `benchmarks/results/zeroshot_nw_ucla_<device>.csv`: a row per
split and variant, then mean and standard deviation over the splits. Chance of ZSL is a third. Interrupted, it goes on where it
was.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from engine import launch
from engine.config import parse
from engine.environment import describe, machine_line
from engine.train import train
from engine.zeroshot import COLUMNS, chain
from engine.zeroshot import run as zeroshot_run
from engine.zeroshot.chain import Backbone
from engine.zeroshot.plan import Plan
from engine.zeroshot.settings import Settings
from engine.zeroshot.system import find
from engine.zeroshot.text import descriptions
from engine.zeroshot.text import source as text_source
from engine.zeroshot.text.source import TextSource
from shared_data.zeroshot_splits import split_of

RESULTS = Path(__file__).resolve().parent / "results"
CLASSES, UNSEEN = 10, 3
SEED = 20  # of the splits
SYSTEMS = ("fsvae", "msf_gzssar")
MODE = "lb_ad_md"
SHORT = Settings(latent=50, cycles=3, steps=300, lr=1e-3, samples=300)
"""Fewer steps and a larger rate than published, for data of a fortieth of NTU-60's size."""
HEAD = ("split", "unseen", "unseen_in_validation", "model", "relu_logits", "text", "backbone_seen_top1", *COLUMNS)


@dataclass(frozen=True)
class Variant:
    """What is run on the features of a split."""

    model: str
    relu_logits: bool
    shuffled: bool = False

    @property
    def text(self) -> str:
        return "shuffled" if self.shuffled else "own"


VARIANTS = (
    *(Variant(model, relu) for model in SYSTEMS for relu in (True, False)),
    *(Variant(model, False, shuffled=True) for model in SYSTEMS),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="NW-UCLA folder or zip")
    parser.add_argument("--splits", type=int, default=20, help="how many of the 120 (3 of 10 classes unseen)")
    parser.add_argument("--recipe", default="nw_ucla_mlp", help="of the baselines")
    parser.add_argument("--num-epoch", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dir/zeroshot_nw_ucla"))
    given = parser.parse_args()
    about = describe()  # now, as the code on the disk may change while the runs go on
    rows: list[dict[str, Any]] = []
    for number, plan in enumerate(itertools.islice(plans(), given.splits)):
        rows += one_split(given, number, plan)
        write(given, rows, about)
    print(written(given).read_text())
    return 0


def plans() -> Iterator[Plan]:
    """Each split of the test once, in a random order, with a random one of the classes left for validation."""
    rng = np.random.default_rng(SEED)
    every = list(itertools.combinations(range(CLASSES), UNSEEN))
    for n in rng.permutation(len(every)):
        test = split_of(CLASSES, every[n])
        val = sorted(rng.choice(test.seen, UNSEEN, replace=False).tolist())
        yield Plan(test, split_of(CLASSES, val, without=test.unseen), SHORT, selection="last")


def one_split(given: argparse.Namespace, number: int, plan: Plan) -> list[dict[str, Any]]:
    folder = Path(given.work_dir, f"split{number:03}")
    flags = ("--recipe", given.recipe, "--num-epoch", str(given.num_epoch), "--eval-interval", str(given.num_epoch))
    backbone = Backbone("baselines", given.data, flags)
    rows = []
    for variant in VARIANTS:
        text = TextSource(MODE, descriptions=texts(folder, number, shuffled=variant.shuffled))
        wished = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, relu_logits=variant.relu_logits))
        found = result(folder, variant, wished, backbone, text, device=given.device)
        seen = json.loads((folder / "first/backbone/test/metrics.json").read_text())["selection"]["last"]["top1"]
        rows.append(
            {
                "split": number, "unseen": " ".join(map(str, plan.test.unseen)),
                "unseen_in_validation": " ".join(map(str, plan.val.unseen)), "model": variant.model,
                "relu_logits": variant.relu_logits, "text": variant.text, "backbone_seen_top1": round(seen, 4),
                **{column: round(found["mean"][column], 4) for column in COLUMNS},
            }
        )  # fmt: skip
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows


def result(folder: Path, variant: Variant, plan: Plan, backbone: Backbone, text: TextSource, *, device: str) -> dict[str, Any]:
    """The first variant makes backbones and features, the others read these."""
    system = find(variant.model)
    if variant == VARIANTS[0]:
        return chain.run(
            folder / "first", variant.model, system, plan, backbone=backbone, text=text, device=device, train=quietly,
            note=lambda line: None,
        )  # fmt: skip
    own = chain.source(folder / "first", backbone, text)
    if variant.shuffled:
        made = folder / "shuffled"
        made.mkdir(exist_ok=True)
        text_source.write(made, text, CLASSES)
        link = made / "sk_feats"
        if not link.exists():
            link.symlink_to((own.root / "sk_feats").resolve())
        own = dataclasses.replace(own, root=made)
    name = f"{variant.model}{'_relu' if variant.relu_logits else ''}{'_shuffled' if variant.shuffled else ''}"
    return zeroshot_run.run(folder / name, variant.model, system, plan, own, device=device)


def quietly(model: str, flags: list[str]) -> None:
    train(parse(flags, model=model, phase="train"), Console(quiet=True))


def texts(folder: Path, number: int, *, shuffled: bool) -> Path:
    """Our descriptions as files; `shuffled`, in any order: a class may keep its own, as chance has it."""
    order = np.random.default_rng([SEED, number]).permutation(CLASSES) if shuffled else np.arange(CLASSES)
    place = folder / f"texts_{'shuffled' if shuffled else 'own'}"
    place.mkdir(parents=True, exist_ok=True)
    for kind in descriptions.KINDS:
        said = descriptions.ours(kind, CLASSES).texts
        with (place / f"{kind}_{CLASSES}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["idx", descriptions.TEXT_COLUMN[kind]])
            table.writerows((k + 1, said[n]) for k, n in enumerate(order))
    return place


def written(given: argparse.Namespace) -> Path:
    return RESULTS / f"zeroshot_nw_ucla_{given.device}.csv"


def write(given: argparse.Namespace, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    with written(given).open("w", newline="") as out:
        out.write(f"# {machine_line()}\n# {about['date']}, revision {about['git']}\n")
        out.write(f"# python benchmarks/zeroshot_nw_ucla.py {' '.join(words)}\n")
        out.write("# real skeletons; text features of shared words, without a language model; chance of ZSL 0.3333\n")
        out.write(f"# {', '.join(f'{name} {value}' for name, value in dataclasses.asdict(SHORT).items())}; last cycle; seed 5\n")
        table = csv.DictWriter(out, HEAD)
        table.writeheader()
        table.writerows(rows)
        for variant in VARIANTS:
            of = [
                r for r in rows if (r["model"], r["relu_logits"], r["text"]) == (variant.model, variant.relu_logits, variant.text)
            ]
            shared = {"model": variant.model, "relu_logits": variant.relu_logits, "text": variant.text}
            for name, fold in (("mean", statistics.fmean), ("deviation", statistics.stdev if len(of) > 1 else lambda _: 0.0)):
                folded = {column: round(fold([r[column] for r in of]), 4) for column in ("backbone_seen_top1", *COLUMNS)}
                table.writerow({"split": f"{name} of {len(of)}", **shared, **folded})


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
