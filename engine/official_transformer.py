"""Where each entry of torch's attention, of its post-norm layer and of an embedding in front of it lives in `layers.transformer`.

Official models name all three alike: torch's `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` name their own parts, and
the embedding is an `nn.Sequential` of a linear layer, LayerNorm, ReLU and a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.official import Entry, affine

EMBEDDING = (("0", "fc1"), ("1", "norm"), ("3", "fc2"))
POST_NORM = (("linear1", "fc1"), ("linear2", "fc2"), ("norm1", "norm1"), ("norm2", "norm2"))


def embedding(official: str, ours: str) -> Iterator[Entry]:
    """Every entry of the official embedding called `official`, in its order; ours is the `Embedding` called `ours`."""
    for number, part in EMBEDDING:
        yield from affine(f"{official}.{number}", f"{ours}.{part}")


def attention(official: str, ours: str) -> Iterator[Entry]:
    """The same of attention: ours is an `Attention`."""
    for name in ("weight", "bias"):
        yield Entry(f"{official}.in_proj_{name}", f"{ours}.qkv.{name}")
    yield from affine(f"{official}.out_proj", f"{ours}.proj")


def post_norm_layer(official: str, ours: str) -> Iterator[Entry]:
    """The same of a layer: ours is a `PostNormLayer`."""
    yield from attention(f"{official}.self_attn", f"{ours}.attn")
    for theirs, mine in POST_NORM:
        yield from affine(f"{official}.{theirs}", f"{ours}.{mine}")
