"""The text tower of CLIP ViT-B/32 and ViT-B/16: class names and descriptions to vectors of 512 numbers.

A transformer of 12 blocks, width 512, 8 heads, in which a token sees those before it; the vector is the last block's value at
the end token, normalised and projected. Texts go in as they are, without a prompt, and vectors come out as they are, not of unit
length. These are of single precision; vectors made in half precision on a GPU, as the published ones probably were, differ
from them by rounding. Weights are a local file in OpenAI's format. Nothing of it is run.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section 2.4; the
zero-shot specification, section 2.1.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import checkpoint, official, torch_archive
from engine.errors import WeightsError
from engine.official import Entry, affine
from engine.zeroshot.text.clip_tokens import Tokenizer
from shared_data.errors import MissingInputError

Architecture = Literal["ViT-B/32", "ViT-B/16"]
PATCH: dict[Architecture, int] = {"ViT-B/32": 32, "ViT-B/16": 16}  # pixels; what tells the two files apart
UNUSED = ("visual.*", "logit_scale", "input_resolution", "context_length", "vocab_size")
AT_ONCE = 32  # texts in one pass
CONVERT = (
    'where you trust the file: python3 -c "import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in '
    "torch.jit.load('FILE.pt', map_location='cpu').state_dict().items()}, 'FILE.safetensors')\""
)


class Shape(NamedTuple):
    """Sizes of a tower: tokens in the vocabulary, places in a text, width inside, blocks, heads, width of a vector."""

    vocabulary: int = 49_408
    context: int = 77
    width: int = 512
    blocks: int = 12
    heads: int = 8
    vector: int = 512


PUBLISHED = Shape()


class Block(nn.Module):
    """Attention to the tokens before, then two affine maps with a smooth step between; each adds to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)  # rows: queries, keys, values
        self.gather = nn.Linear(width, width)
        self.before_maps = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, places, width) -> the same."""
        query, key, value = self.attend(self.before_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.gather(seen.transpose(1, 2).flatten(2))
        wide = self.widen(self.before_maps(x))
        narrow: Tensor = self.narrow(wide * torch.sigmoid(1.702 * wide))  # CLIP's approximation of GELU
        return x + narrow


class TextTower(nn.Module):
    """Tokens to vectors."""

    def __init__(self, shape: Shape = PUBLISHED) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Parameter(torch.zeros(shape.context, shape.width))
        self.blocks = nn.Sequential(*(Block(shape.width, shape.heads) for _ in range(shape.blocks)))
        self.last = nn.LayerNorm(shape.width)
        self.project = nn.Parameter(torch.zeros(shape.width, shape.vector))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, places) int64, places at most the context -> (N, vector). The end is the first token of the highest number."""
        end = tokens.argmax(1)
        x: Tensor = self.last(self.blocks(self.tokens(tokens) + self.places[: tokens.shape[1]]))
        return x[torch.arange(len(tokens), device=tokens.device), end] @ self.project


def table(shape: Shape) -> list[Entry]:
    """Where each official entry of the text tower lives in ours."""
    tops = {"positional_embedding": "places", "text_projection": "project", "token_embedding.weight": "tokens.weight"}
    rows = [Entry(theirs, ours) for theirs, ours in tops.items()]
    for n in range(shape.blocks):
        theirs, block = f"transformer.resblocks.{n}", f"blocks.{n}"
        rows += [Entry(f"{theirs}.attn.in_proj_{kind}", f"{block}.attend.{kind}") for kind in ("weight", "bias")]
        rows += affine(f"{theirs}.attn.out_proj", f"{block}.gather")
        rows += affine(f"{theirs}.ln_1", f"{block}.before_attention")
        rows += affine(f"{theirs}.mlp.c_fc", f"{block}.widen")
        rows += affine(f"{theirs}.mlp.c_proj", f"{block}.narrow")
        rows += affine(f"{theirs}.ln_2", f"{block}.before_maps")
    return [*rows, *affine("ln_final", "last")]


def load(path: Path, architecture: Architecture, shape: Shape = PUBLISHED) -> TextTower:
    """The tower with the weights in `path`, in evaluation mode and single precision.

    path  OpenAI's file (``ViT-B-32.pt``, a TorchScript archive), an archive of its state dict, or a safetensors file with
          the same names. Entries of the image tower are not used; where they are there, they must be of `architecture`

    Raises `MissingInputError`, `WeightsError` and `DataError`.
    """
    state = _state(path)
    patch = state.get("visual.conv1.weight")
    if patch is not None and patch.shape[-1:] != (PATCH[architecture],):
        raise WeightsError(
            f"the weights are not of CLIP {architecture}", where=f"{path}: visual.conv1.weight {tuple(patch.shape)}",
            expected=f"patches of {PATCH[architecture]} pixels", next_step="name the architecture that the file is of",
        )  # fmt: skip
    return from_official(state, TextTower(shape), str(path))


def from_official(state: Mapping[str, Tensor], tower: TextTower, where: str = "") -> TextTower:
    """`tower` with the entries of an official `state`, in evaluation mode.

    Raises `WeightsError` if an entry is missing, unexpected or of another shape, and for weights that are no numbers.
    """
    title = "the text tower of CLIP"
    try:
        found = official.from_official(table(tower.shape), state, tower, title=title, unused=UNUSED)
    except WeightsError as error:
        raise WeightsError(
            error.what, where=f"{where}: {error.where}" if where else error.where, expected=error.expected,
            next_step="give OpenAI's file, or a safetensors file with the same names (not those of another library)",
        ) from None  # fmt: skip
    if broken := [row.official for row in table(tower.shape) if not bool(torch.isfinite(row.part(found[row.ours])).all())]:
        raise WeightsError(f"{title} holds numbers that are none", where=f"{where}: {broken[0]}")
    tower.load_state_dict(found)
    return tower.eval()


@torch.inference_mode()
def features(tower: TextTower, tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, vector) of `texts`, on the CPU. Raises `UsageError` for a text that does not fit, or another tokenizer's numbers."""
    if tokenizer.end + 1 != tower.shape.vocabulary:
        raise WeightsError(
            "the tokenizer is not the tower's", where=f"{tokenizer.end + 1:,} tokens", expected=f"{tower.shape.vocabulary:,}"
        )
    tokens = tokenizer.batch(texts, tower.shape.context)
    device = tower.places.device
    order = torch.argsort(tokens.argmax(1), stable=True)  # texts of like length together: what follows an end changes nothing
    found = torch.empty(len(texts), tower.shape.vector)
    for some in order.split(AT_ONCE):
        longest = int(tokens[some].argmax(1).max()) + 1
        found[some] = tower(tokens[some, :longest].to(device)).float().cpu()
    return found.numpy()


def _state(path: Path) -> Mapping[str, Tensor]:
    """The official entries in a file; those that are not used may come without their numbers."""
    if not path.is_file():
        raise MissingInputError("no such file of weights", where=str(path), expected="OpenAI's .pt file, or .safetensors")
    if path.suffix == ".safetensors":
        try:
            return checkpoint.read(path)[0]
        except WeightsError as error:  # its advice is for the checkpoint of a training run
            advice = "copy or download the file again, or give OpenAI's .pt"
            raise WeightsError(error.what, where=error.where, expected=error.expected, next_step=advice) from error
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            "will not open a pickled checkpoint", where=str(path), expected="a zip archive of PyTorch, or a safetensors file",
            next_step=CONVERT,
        )  # fmt: skip
    return torch_archive.read(path, lambda name: not name.startswith("visual."))
