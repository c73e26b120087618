"""What the transformers share: embedded tokens, self-attention without a stored map of weights, the two usual layers around it.

What a layer can compute again from what it keeps anyway (normalisations, activations) is marked as `cheap`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.drop_path import DropPath
from layers.recompute import cheap


class Embedding(nn.Module):
    """What a token holds to `width` channels: linear, LayerNorm, ReLU, linear."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(c_in, width), nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, C_in) -> (B, L, D)."""
        out: Tensor = self.fc2(cheap(self.activated, self.fc1(tokens)))
        return out

    def activated(self, x: Tensor) -> Tensor:
        """ReLU of the norm."""
        return torch.relu(self.norm(x))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), scores times 1/sqrt(width / heads), fused where torch has a kernel.

    Biases start at 0, as those of torch's `nn.MultiheadAttention` do; weights as a linear layer's.

    drop_prob   rate at which weights of the attention are dropped in training
    """

    def __init__(self, width: int, heads: int, *, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.heads, self.drop_prob = heads, drop_prob
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropped = self.drop_prob if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropped)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.fc2(cheap(F.gelu, self.fc1(x)))
        return out


class PreNormLayer(nn.Module):
    """A layer of a vision transformer: x + attention(norm(x)), then x + mlp(norm(x)), each branch under `DropPath`."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = self.drop_path(x, self.attn(cheap(self.norm1, x)))
        out: Tensor = self.drop_path(x, self.mlp(cheap(self.norm2, x)))
        return out


class PostNormLayer(nn.Module):
    """The layer of torch's `TransformerEncoderLayer` with its defaults: norm(x + attention(x)), norm(x + mlp(x)), ReLU.

    dropout   rate in the attention's weights, of the hidden units, and of both branches
    """

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = Attention(width, heads, drop_prob=dropout)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = cheap(self.norm1, x + self.dropout(self.attn(x)))
        hidden = self.dropout(torch.relu(self.fc1(x)))
        out: Tensor = cheap(self.norm2, x + self.dropout(self.fc2(hidden)))
        return out
