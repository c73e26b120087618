"""`sal models`: what each model is, costs and reaches, from its model.toml; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine import models
from engine.models import ModelCard
from sal.printing import print_json


def list_models(model: str | None = None, /, *, json: bool = False) -> int:
    """List the models: paper, parameters, operations, streams, published accuracies with their sources, status.

    Args:
        model: one model only, with its sizes, its recipes and every published accuracy.
        json: print one JSON object instead of tables.
    """
    cards = models.discover() if model is None else {model: models.find(model)}
    if json:
        print_json({name: {**card.toml, "recipes": sorted(card.recipes)} for name, card in cards.items()})
    elif model is None:
        Console().print(_overview(cards), "Accuracies: top-1 in percent, joint stream, most streams; ≈ from memory of the paper. "
                        "Sources, sizes and recipes: sal models NAME", highlight=False)  # fmt: skip
    else:
        _detail(cards[model], Console())
    return 0


def _overview(cards: Mapping[str, ModelCard]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("model", "paper"):
        table.add_column(name)
    for name in ("M params", "GFLOPs\nper clip"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("streams", "published", "status"):
        table.add_column(name)
    for card in cards.values():
        first, paper = card.toml["expect"][0], card.toml["paper"]
        table.add_row(
            Text(card.name, style="bold"), f"{card.title}, {paper['venue']} {paper['year']}",
            f"{first['parameters'] / 1e6:.2f}", f"{first.get('gflops', float('nan')):.2f}",
            " ".join(card.toml.get("streams", ())), "\n".join(_headlines(card.toml)), card.status,
        )  # fmt: skip
    return table


def _headlines(toml: Mapping[str, Any]) -> list[str]:
    """For each data set and protocol: the joint stream's accuracy and that of the most streams."""
    found: dict[str, list[str]] = {}
    for row in sorted(toml.get("published", []), key=lambda row: len(str(row["stream"]))):
        found.setdefault(f"{row['dataset']} {row['protocol']}", []).append(_top1(row))
    return [f"{where}: {' … '.join(dict.fromkeys([told[0], told[-1]]))}" for where, told in found.items()]


def _top1(row: Mapping[str, Any]) -> str:
    return f"{'≈ ' if row.get('approximate') else ''}{row['top1']}"


def _detail(card: ModelCard, console: Console) -> None:
    paper, provenance = card.toml["paper"], card.toml["provenance"]
    console.print(Text.assemble((card.title, "bold"), f" ({card.name}), {card.status}"))
    console.print(card.toml["summary"], highlight=False)
    for line in (f"{paper['title']}, {paper['venue']} {paper['year']}, {paper['url']}", f"provenance: {provenance['code']}"):
        console.print(line, highlight=False, soft_wrap=True)
    sizes = _table("classes", "joints", "people", "frames", "settings", "parameters", "GFLOPs", "official GFLOPs")
    for row in card.toml["expect"]:
        settings = ", ".join(f"{key}={value}" for key, value in row.get("model_args", {}).items())
        sizes.add_row(
            *(str(row[key]) for key in ("classes", "skeleton", "people", "window")), settings, f"{row['parameters']:,}",
            *(f"{row[key]:.3f}" if key in row else "" for key in ("gflops", "official_gflops")),
        )  # fmt: skip
    published = _table("data set", "protocol", "stream", "top-1", "source")
    for row in card.toml.get("published", []):
        published.add_row(row["dataset"], row["protocol"], row["stream"], _top1(row), row["source"])
    recipes = _table("recipe", "what")
    for name, path in card.recipes.items():
        recipes.add_row(name, path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# "))
    for table in (sizes, recipes, published):
        if table.row_count:
            console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
