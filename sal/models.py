"""`sal models`: what each model is, costs and reaches, from its model.toml; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine import models
from engine.models import STAGES, Kind, ModelCard, Stage
from sal.printing import PipedConsole, print_json
from shared_data.zeroshot_splits import UNSEEN

ABOUT = """Accuracies: top-1 in percent, one stream … most streams; ≈ not checked against the paper.
Papers, sources, other data sets, sizes and recipes: sal models NAME"""
ABOUT_ENCODERS = """Sizes of the default classifier. sal pretrain and sal tune train its encoder,
sal judge asks what that is worth: docs/self-supervised.md"""
ABOUT_SYSTEMS = """60/5: NTU-60 with 5 unseen classes, and so on. The most that is published, in
percent: accuracy on clips of unseen classes among these (ZSL), and below it the
harmonic mean of seen and unseen among all (GZSL). Only to be compared with on
the authors' own features: docs/zero-shot.md"""

ABOUT_SEGMENTERS = """A class for every frame of an untrimmed sequence. Published, in percent, on
PKU-MMD v2 by subject: frame accuracy, edit score, F1 at an overlap of 50 %.
Sizes: of lasa; of the classifier whose encoder is under a head. Any other
classifier can be under one: docs/segmentation.md"""

RECIPES: dict[Stage, str] = {
    "pretrain": "recipe of sal pretrain", "tune": "recipe of sal tune", "supervised": "recipe",
    "segment": "recipe of sal segment",
}  # fmt: skip
UNLABELLED: tuple[Stage, ...] = ("pretrain", "tune")


def list_models(model: str | None = None, /, *, json: bool = False) -> int:
    """List the models: paper, parameters, operations, streams, published accuracies with their sources, status.

    Args:
        model: one model only, with its sizes, its recipes and every published accuracy.
        json: print one JSON object instead of tables.
    """
    cards = models.discover(None) if model is None else {model: models.find(model, None)}
    if json:
        print_json({name: {**card.toml, "kind": card.kind, **_recipes(card)} for name, card in cards.items()})
    elif model is None:
        classifiers = _of(cards, "classifier")
        unlabelled = {name: card for name, card in classifiers.items() if STAGES["pretrain"][1] in card.toml}
        parts = [_overview({name: card for name, card in classifiers.items() if name not in unlabelled}), ABOUT]
        if unlabelled:
            parts += [Text("\nlearn without labels", style="bold"), _encoders(unlabelled), ABOUT_ENCODERS]
        if systems := _of(cards, "zeroshot"):
            parts += [Text("\nzero-shot systems", style="bold"), _systems(systems), ABOUT_SYSTEMS]
        if segmenters := {name: card for name, card in cards.items() if card.recipes_of("segment")}:
            parts += [Text("\nsegment sequences", style="bold"), _segmenters(segmenters), ABOUT_SEGMENTERS]
        PipedConsole().print(*parts, highlight=False, sep="\n")
    else:
        details = {"classifier": _detail, "segmenter": _segmenter_detail, "zeroshot": _system_detail}
        details[cards[model].kind](cards[model], PipedConsole())
    return 0


def _of(cards: Mapping[str, ModelCard], kind: Kind) -> dict[str, ModelCard]:
    return {name: card for name, card in cards.items() if card.kind == kind}


def _recipes(card: ModelCard) -> dict[str, list[str]]:
    """Names of recipes by the folder that they are in: with labels, of pretraining, of tuning."""
    return {folder: sorted(card.recipes_of(stage)) for stage, (folder, _) in STAGES.items()}


def _overview(cards: Mapping[str, ModelCard]) -> Table:
    table = _compact("params\nin M", "GFLOPs")
    table.add_column("streams", no_wrap=True)
    table.add_column("NTU-60 XSub,\npublished", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    for card in cards.values():
        first, paper = card.toml["expect"][0], card.toml["paper"]
        table.add_row(
            Text(card.name, style="bold"), f"{paper['venue']} {paper['year']}",
            f"{first['parameters'] / 1e6:.2f}", f"{first.get('gflops', float('nan')):.2f}",
            " ".join(card.toml.get("streams", ())), _headline(card.toml),
            "proved" if card.status == "verified" else "",
        )  # fmt: skip
    return table


def _encoders(cards: Mapping[str, ModelCard]) -> Table:
    table = _compact("params\nin M", "GFLOPs")
    for name in ("streams", "without labels", "parity"):
        table.add_column(name, no_wrap=True)
    for card in cards.values():
        size, paper = _usual(card), card.toml["paper"]
        stages = ", ".join(stage for stage in UNLABELLED if STAGES[stage][1] in card.toml)
        table.add_row(
            Text(card.name, style="bold"), f"{paper['venue']} {paper['year']}",
            f"{size['parameters'] / 1e6:.2f}", f"{size.get('gflops', float('nan')):.2f}",
            " ".join(card.toml.get("streams", ())), stages, "proved" if card.status == "verified" else "",
        )  # fmt: skip
    return table


def _systems(cards: Mapping[str, ModelCard]) -> Table:
    table = _compact(*("/".join(map(str, task)) for task in UNSEEN))
    table.add_column("parity", no_wrap=True)
    for card in cards.values():
        paper = card.toml["paper"]
        table.add_row(
            Text(card.name, style="bold"), f"{paper['venue']} {paper['year']}",
            *(_best(card.toml, *task) for task in UNSEEN), "proved" if card.status == "verified" else "",
        )  # fmt: skip
    return table


def _segmenters(cards: Mapping[str, ModelCard]) -> Table:
    table = _compact("params\nin M", "accuracy", "edit", "F1@50")
    table.add_column("parity", no_wrap=True)
    for card in cards.values():
        size, paper = _usual(card), card.toml["paper"]
        rows = [row for row in _segmented(card) if (row["dataset"], row["protocol"]) == ("pku_mmd2", "xsub")]
        best = max(rows, key=lambda row: row["accuracy"], default={})
        approximate = "≈ " if best.get("approximate") else ""
        figures = (best.get("accuracy"), best.get("edit"), best["f1"][-1] if "f1" in best else None)
        table.add_row(
            Text(card.name, style="bold"), f"{paper['venue']} {paper['year']}", f"{size['parameters'] / 1e6:.2f}",
            *("" if figure is None else f"{approximate}{figure}" for figure in figures),
            "proved" if card.status == "verified" else "",
        )  # fmt: skip
    return table


def _usual(card: ModelCard) -> dict[str, Any]:
    """The row of sizes without settings."""
    rows: list[dict[str, Any]] = card.toml["expect"]
    return next((row for row in rows if "model_args" not in row), rows[0])


def _segmented(card: ModelCard) -> list[dict[str, Any]]:
    """What is published of the model's segmentation of sequences."""
    return [row for row in card.toml.get("published", []) if row.get("by") == "segmentation"]


def _best(toml: Mapping[str, Any], classes: int, unseen: int) -> str:
    """The most that is published for a task: accuracy among unseen classes, and below it the harmonic mean."""
    rows = [row for row in toml.get("published", []) if (row["dataset"], row["unseen"]) == (f"ntu{classes}", unseen)]
    return f"{max(row['zsl'] for row in rows):.1f}\n{max(row['harmonic'] for row in rows):.1f}" if rows else ""


def _compact(*numbers: str) -> Table:
    """A table of models with columns of `numbers`; more columns may follow."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for name in ("model", "paper"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _headline(toml: Mapping[str, Any]) -> str:
    """The accuracies of the joint stream and of the most streams on NTU-60 X-Sub, as far as they are published."""
    rows = [row for row in toml.get("published", []) if (row["dataset"], row["protocol"]) == ("ntu60", "xsub")]
    told = [_top1(row) for row in sorted(rows, key=lambda row: len(str(row["stream"])))]
    return " … ".join(dict.fromkeys([told[0], told[-1]])) if told else ""


def _top1(row: Mapping[str, Any]) -> str:
    return f"{'≈ ' if row.get('approximate') else ''}{row['top1']}"


def _what(card: ModelCard, console: Console) -> None:
    """What the model is, and whose."""
    paper, provenance = card.toml["paper"], card.toml["provenance"]
    console.print(Text.assemble((card.title, "bold"), f" ({card.name}), {card.status}"))
    console.print(card.toml["summary"], highlight=False)
    for line in (f"{paper['title']}, {paper['venue']} {paper['year']}, {paper['url']}", f"provenance: {provenance['code']}"):
        console.print(line, highlight=False)


def _system_detail(card: ModelCard, console: Console) -> None:
    _what(card, console)
    sizes = _table("skeleton features", "text features", "latents", "parameters")
    for row in card.toml["expect"]:
        sizes.add_row(*(str(row[key]) for key in ("skeleton", "text", "latent")), f"{row['parameters']:,}")
    published = _table("data set", "unseen", "text", "ZSL", "seen", "unseen clips", "harmonic", "source")
    for row in card.toml.get("published", []):
        text = ", ".join(str(row[key]) for key in ("text", "arch", "variant") if key in row)
        accuracies = (str(row.get(key, "")) for key in ("zsl", "seen_accuracy", "unseen_accuracy", "harmonic"))
        published.add_row(row["dataset"], str(row["unseen"]), text, *accuracies, row["source"])
    for table in (sizes, published):
        console.print(table)


def _segmenter_detail(card: ModelCard, console: Console) -> None:
    _what(card, console)
    for table in (_sizes(card), _recipe_table(card, "segment", RECIPES["segment"]), _segmentation(card)):
        console.print(table)


def _segmentation(card: ModelCard) -> Table:
    """What is published of its segmentation of sequences."""
    table = _table("data set", "protocol", "network", "accuracy", "edit", "F1@10 / 25 / 50", "source")
    for row in _segmented(card):
        approximate = "≈ " if row.get("approximate") else ""
        figures = (row["accuracy"], row["edit"], " / ".join(map(str, row.get("f1", []))))
        told = (f"{approximate}{figure}" if figure else "" for figure in figures)
        table.add_row(row["dataset"], row["protocol"], row.get("variant", card.title), *told, row["source"])
    return table


def _sizes(card: ModelCard) -> Table:
    """Parameters and operations of a classifier or segmenter."""
    sizes = _table("classes", "joints", "people", "frames", "settings", "parameters", "GFLOPs", "official GFLOPs")
    for row in card.toml["expect"]:
        settings = "\n".join(f"{key} {value}" for key, value in row.get("model_args", {}).items())
        sizes.add_row(
            *(str(row[key]) for key in ("classes", "skeleton", "people", "window")), settings, f"{row['parameters']:,}",
            *(f"{row[key]:.3f}" if key in row else "" for key in ("gflops", "official_gflops")),
        )  # fmt: skip
    return sizes


def _detail(card: ModelCard, console: Console) -> None:
    _what(card, console)
    published = _table("data set", "protocol", "stream", "top-1", "source")
    for row in (row for row in card.toml.get("published", []) if "top1" in row):
        how = row.get("variant") or row.get("by")
        stream = f"{row['stream']} ({how})" if how else row["stream"]
        published.add_row(row["dataset"], row["protocol"], stream, _top1(row), row["source"])
    recipes = [_recipe_table(card, stage, title) for stage, title in RECIPES.items()]
    for table in (_sizes(card), *recipes, published, _segmentation(card)):
        if table.row_count:
            console.print(table)


def _recipe_table(card: ModelCard, stage: Stage, title: str) -> Table:
    table = _table(title, "what")
    for name, path in card.recipes_of(stage).items():
        table.add_row(name, _purpose(path.read_text(encoding="utf-8")))
    return table


def _purpose(recipe: str) -> str:
    """The first sentence of the comment on top of a recipe."""
    lines = [line.lstrip("# ") for line in recipe.split("model:", 1)[0].splitlines()]
    text = " ".join(line for line in lines if not line.startswith(("sal ", "python3 ")))
    return text.split(". ", 1)[0].rstrip(". ") + "."


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
