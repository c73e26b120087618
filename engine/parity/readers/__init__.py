"""The official readers whose outputs are recorded: what a fixture's ``code`` (and NW-UCLA or not) means."""

from __future__ import annotations

from engine.parity.readers import ctrgcn, hypergcn, isc, lasa, msg3d, scdnet, skateformer, ucla, usdrl
from engine.parity.readers.contract import Reader

# (code, made from NW-UCLA) -> reader
READERS: dict[tuple[str, bool], Reader] = {
    ("CTR-GCN", False): ctrgcn.READER,
    ("FreqMixFormer", False): ctrgcn.READER,
    ("MAMP", False): ctrgcn.READER,
    ("Hyper-GCN", False): hypergcn.READER,
    ("SkateFormer", False): skateformer.READER,
    ("MS-G3D", False): msg3d.READER,
    ("LaSA", False): lasa.READER,
    ("skeleton-contrast", False): isc.READER,
    ("SCD-Net", False): scdnet.READER,
    ("USDRL", False): usdrl.READER,
    ("CTR-GCN", True): ucla.READER,
    ("FreqMixFormer", True): ucla.READER,
    ("Hyper-GCN", True): ucla.HYPERGCN,
    ("SkateFormer", True): skateformer.UCLA,
}
