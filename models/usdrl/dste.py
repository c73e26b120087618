"""DST, the layer of the dense spatio-temporal encoder (specification, section 2.1).

Letters in the shapes: B clips, L tokens, W channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layers.drop_path import DropPath
from layers.recompute import cheap
from layers.transformer import Attention, Mlp


class DenseLayer(nn.Module):
    """alpha * CA(x) + (1 - alpha) * DSA(x): convolutional and dense-shift attention over one sequence, with one `Attention`.

    CA    attends after a convolution over single tokens; the plain x is its residual, and its MLP has none
    DSA   mixes tokens by two linear layers, all but every `gap`-th; what comes of that and the plain x go through the same
          pre-norm layer and are averaged

    The three sequences that are attended to are stacked along the batch, and so are the two of the DSA.
    """

    moved: Tensor

    def __init__(self, width: int, heads: int, tokens: int, *, alpha: float = 0.5, gap: int = 4, drop_path: float = 0.1) -> None:
        super().__init__()
        self.alpha = alpha
        self.attn = Attention(width, heads)
        self.conv = nn.Linear(width, width)
        self.ca_norm1, self.ca_norm2, self.ca_mlp = nn.LayerNorm(width), nn.LayerNorm(width), Mlp(width, 2 * width)
        self.shift1, self.shift2 = nn.Linear(tokens, tokens), nn.Linear(tokens, tokens)
        self.dsa_norm1, self.dsa_norm2, self.dsa_mlp = nn.LayerNorm(width), nn.LayerNorm(width), Mlp(width, 2 * width)
        self.drop_path = DropPath(drop_path)
        moved = (torch.arange(tokens) % gap != 0).to(torch.get_default_dtype())
        self.register_buffer("moved", moved.unsqueeze(-1), persistent=False)  # (L, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        shift = self.shift2(cheap(torch.relu, self.shift1(x.transpose(1, 2))))
        both = cheap(self.shifted_and_plain, x, shift)
        attended = self.attn(cheap(self.normal, x, self.conv(x), both)).unflatten(0, (3, -1))
        convolved, dense = attended[0], attended[1:].flatten(0, 1)
        convolved = self.ca_mlp(cheap(self.ca_norm2, self.drop_path(x, convolved)))
        both = self.drop_path(both, dense)
        both = self.drop_path(both, self.dsa_mlp(cheap(self.dsa_norm2, both)))
        dense = both.unflatten(0, (2, -1)).mean(0)
        return self.drop_path((1.0 - self.alpha) * dense, self.alpha * convolved)

    def shifted_and_plain(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (B, L, W) and what is added to it (B, W, L) -> (2B, L, W): x with all but every gap-th token moved, and x."""
        return torch.cat([torch.addcmul(x, shift.transpose(1, 2).to(x.dtype), self.moved), x])

    def normal(self, x: Tensor, convolved: Tensor, both: Tensor) -> Tensor:
        """What is attended to, (3B, L, W): first the CA's, then both of the DSA."""
        return torch.cat([self.ca_norm1(x + torch.relu(convolved)), self.dsa_norm1(both)])
