"""The table of cards against itself, and the names by which a card is found."""

from __future__ import annotations

import re

import pytest

from planner.card import cards
from planner.card.cards import Card, find, known, named
from shared_data.errors import UsageError

EVERY = pytest.mark.parametrize("card", known(), ids=lambda card: card.name)


def geforce(card: Card) -> bool:
    return re.match(r"(RTX|GTX) \d", card.name) is not None and "Ada" not in card.name


def test_names_are_unique_and_the_common_cards_are_there() -> None:
    names = [card.name for card in known()]
    assert len(set(names)) == len(names) > 60
    for name in (
        "GTX 1060 6GB", "1070", "1080", "1080 Ti", "1650", "1660 Super", "RTX 2060 6GB", "2060 12GB", "2070", "2070 Super",
        "2080", "2080 Ti", "3050", "3060", "3060 Ti", "3070", "3070 Laptop", "3080 10GB", "3080 12GB", "3080 Ti", "3090",
        "3090 Ti", "4050 Laptop", "4060 Laptop", "4070 Laptop", "4060", "4060 Ti 8GB", "4060 Ti 16GB", "4070", "4070 Super",
        "4070 Ti", "4070 Ti Super", "4080", "4080 Super", "4090", "5060", "5060 Ti 8GB", "5060 Ti 16GB", "5070", "5070 Ti",
        "5080", "5090", "T4", "P100 PCIe", "V100 16GB", "V100 32GB", "A2000 6GB", "A2000 12GB", "A4000", "A5000", "A6000", "A10",
        "A10G", "A100 40GB", "A100 80GB", "L4", "L40S", "H100 PCIe", "H100 SXM", "H200", "Quadro RTX 6000", "Titan RTX",
    ):  # fmt: skip
        assert find(name) in known()


@EVERY
def test_a_card_is_found_by_its_own_name_and_by_what_a_driver_calls_it(card: Card) -> None:
    assert find(card.name) is card
    assert find(card.name.upper().replace(" ", "")) is card
    assert named(f"NVIDIA GeForce {card.name}") is card


@EVERY
def test_figures_are_in_range_and_have_a_source(card: Card) -> None:
    assert 4 <= card.gib <= 192 and 100 < card.bandwidth_gbs < 10_000 and 2 < card.fp32_tflops < 150
    assert card.capability in (6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 12.0)
    assert "data sheet" in card.source or "whitepaper" in card.source


@EVERY
def test_fp32_is_cores_times_clock(card: Card) -> None:
    given = re.search(r"(\d+) cores x ([\d.]+) GHz", card.source)
    assert given or card.name == "L4"
    if given:
        assert card.fp32_tflops == pytest.approx(2 * int(given[1]) * float(given[2]) / 1000, rel=0.02)


@EVERY
def test_tensor_cores_by_generation(card: Card) -> None:
    """TF32 and bf16 came with 8.0; GeForce sums in fp32 at twice its fp32 rate since then, and at four times on 7.5."""
    assert card.bf16 == (card.tf32_tflops is not None) == (card.capability >= 8.0)
    if card.capability < 7.0 or card.name.startswith("GTX"):
        assert card.half_tflops is None
        return
    assert card.half_tflops is not None
    if card.tf32_tflops is not None:
        assert card.half_tflops == pytest.approx(2 * card.tf32_tflops, rel=0.02)
        assert card.tf32_tflops >= 0.99 * card.fp32_tflops
    if geforce(card):
        times = 4 if card.capability == 7.5 else 2
        assert card.half_tflops == pytest.approx(times * card.fp32_tflops, rel=0.02)
    elif card.name != "A10G":
        assert card.half_tflops > 3 * card.fp32_tflops or card.name == "L40"


def test_faster_cards_of_a_family_are_faster() -> None:
    for family in (
        ("1060 6GB", "1070", "1080", "1080 Ti"),
        ("3050", "3060", "3060 Ti", "3070", "3080 10GB", "3090", "3090 Ti"),
        ("4060", "4060 Ti 8GB", "4070", "4070 Super", "4070 Ti", "4080", "4090"),
        ("5060", "5070", "5080", "5090"),
    ):
        rates = [find(name).fp32_tflops for name in family]
        assert rates == sorted(set(rates))
        widths = [find(name).bandwidth_gbs for name in family]
        assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3070", "RTX 3070"),
        ("NVIDIA GeForce RTX 3070", "RTX 3070"),
        ("rtx3070", "RTX 3070"),
        ("NVIDIAGeForceRTX3070", "RTX 3070"),
        ("geforce 3070 8GiB", "RTX 3070"),
        ("3070ti", "RTX 3070 Ti"),
        ("NVIDIA GeForce RTX 3070 Laptop GPU", "RTX 3070 Laptop"),
        ("3070 laptop 8GB", "RTX 3070 Laptop"),
        ("rtx308010gb", "RTX 3080 10GB"),
        ("gtx 1060", "GTX 1060 6GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
        ("Tesla P100-PCIE-16GB", "P100 PCIe"),
        ("NVIDIA TITAN RTX", "Titan RTX"),
        ("rtx 6000", "Quadro RTX 6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("a4000", "RTX A4000"),
        ("NVIDIA A10G", "A10G"),
    ],
)
def test_what_people_and_drivers_write(text: str, name: str) -> None:
    assert find(text).name == name


def test_a_name_of_two_sizes_is_asked_back() -> None:
    with pytest.raises(UsageError) as refused:
        find("RTX 3080")
    assert "RTX 3080 10GB" in str(refused.value) and "RTX 3080 12GB" in str(refused.value)
    assert find("RTX 3080", 12).name == "RTX 3080 12GB" and find("NVIDIA GeForce RTX 3080", 9.8).name == "RTX 3080 10GB"
    assert named("NVIDIA GeForce RTX 3080") is None
    with pytest.raises(UsageError, match="H100 SXM"):
        find("h100")


@pytest.mark.parametrize("text", ["RTX 3071", "GTX 1060 3GB", "Radeon RX 7900", "", "8", "RTX"])
def test_an_unknown_card_names_the_nearest_and_the_way_without(text: str) -> None:
    with pytest.raises(UsageError, match="no card") as refused:
        find(text)
    assert refused.value.exit_code == 2 and "--vram" in refused.value.next_step
    assert all(find(name) for name in refused.value.expected.removeprefix("such as ").split(", "))
    assert named(text) is None


def test_the_nearest_card_is_near() -> None:
    with pytest.raises(UsageError) as refused:
        find("RTX 3071")
    assert "RTX 3070" in refused.value.expected


def test_a_driver_that_shows_another_size_means_another_card() -> None:
    assert named("NVIDIA GeForce RTX 3050", 7.8) is find("3050")
    assert named("NVIDIA GeForce RTX 3050", 6.0) is None  # there is one of 6 GiB with other rates, which the table lacks
    assert named("Tesla T4", 14.6) is find("T4")


def test_what_is_named_a_laptop_chip_is_one_and_has_a_clock_that_is_the_highest() -> None:
    assert find("4060 laptop").laptop and not find("4060").laptop
    assert [card for card in known() if card.laptop] == [card for card in known() if "highest clock" in card.source] != []


@EVERY
def test_a_card_that_is_sold_with_ecc_on_lacks_a_sixteenth(card: Card) -> None:
    """Data centre cards with GDDR6, by what their source says and the size by which they are sold too."""
    sold = re.search(r"sold as (\d+) GB, of which ECC takes a sixteenth", card.source)
    if card.name in ("T4", "A10", "A10G", "A40", "L4", "L40", "L40S"):
        assert sold
    if sold:
        assert card.gib == int(sold[1]) * 15 / 16 and find(f"{card.name} {sold[1]}GB") is card


def test_bf16_begins_with_ampere() -> None:
    assert not find("T4").bf16 and not find("V100 32GB").bf16 and find("A30").bf16 and find("3050").bf16


@pytest.mark.parametrize(("gib", "other", "same"), [(10, 9.78, True), (10, 11.76, False), (8, 6, False), (24, 22.5, True)])
def test_two_figures_of_one_memory(gib: float, other: float, same: bool) -> None:
    assert cards.same_size(gib, other) == cards.same_size(other, gib) == same


def test_the_table_has_no_unknown_columns() -> None:
    header = cards.TABLE.read_text().splitlines()[0]
    assert header == "name,gib,bandwidth_gbs,fp32_tflops,tf32_tflops,half_tflops,capability,also,note,source"
    assert all(line.count('"') % 2 == 0 for line in cards.TABLE.read_text().splitlines())
