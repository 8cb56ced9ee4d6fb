"""The transformer encoder and decoder (Vaswani et al. 2017; pre-norm as in Xiong et al. 2020).

One class is Θ_v of Eq. (1), Θ_t and Θ_a of Eq. (3), and with a memory Ω_t and Ω_a of Eq. (5). All
of them are bidirectional.

B samples, L tokens, M memory tokens, d channels, H heads; `padding` (B, L) is True on padding.

>>> encoder = Transformer(d=8, heads=2, layers=1, ffn=4, dropout=0.0)
>>> encoder(torch.zeros(3, 5, 8)).shape
torch.Size([3, 5, 8])
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def add_positions(x: torch.Tensor) -> torch.Tensor:
    """x (B, L, d) plus the sines of its positions."""
    return x + sine(x.shape[1], x.shape[2], x.device).to(x.dtype)


def sine(length: int, d: int, device=None) -> torch.Tensor:
    """Positions (length, d): sines in the first half of the channels, cosines in the second."""
    frequency = 10000 ** (-torch.arange(d // 2, device=device) / (d // 2))  # (d/2,)
    angle = torch.arange(length, device=device)[:, None] * frequency  # (L, d/2)
    return torch.cat([angle.sin(), angle.cos()], -1)


def masked_mean(x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """x (B, L, d) → (B, d): 1/L Σ of Eqs. (1) and (3), over the tokens that are not padding."""
    if padding is None:
        return x.mean(1)
    is_real = (~padding).unsqueeze(-1).to(x.dtype)  # (B, L, 1)
    return (x * is_real).sum(1) / is_real.sum(1).clamp(min=1)


class Attention(nn.Module):
    """Multi-head attention of x (B, L, d) to memory (B, M, d) with its padding (B, M)."""

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)

    def forward(self, x, memory, padding=None):
        B, L, d = x.shape
        M, H = memory.shape[1], self.heads
        q = self.q(x).view(B, L, H, -1).transpose(1, 2)  # (B, H, L, d/H)
        k, v = self.kv(memory).view(B, M, 2, H, -1).permute(2, 0, 3, 1, 4)  # (B, H, M, d/H)
        is_real = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, M)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_real, dropout)  # (B, H, L, d/H)
        return self.out(y.transpose(1, 2).reshape(B, L, d))


class Layer(nn.Module):
    """Self-attention, with `cross` attention to a memory, and a feed-forward network."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, cross: bool):
        super().__init__()
        self.attention, self.norm = Attention(d, heads, dropout), nn.LayerNorm(d)
        if cross:
            self.cross, self.cross_norm = Attention(d, heads, dropout), nn.LayerNorm(d)
        self.ffn = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, ffn * d), nn.GELU(),
                                 nn.Dropout(dropout), nn.Linear(ffn * d, d))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, padding, memory):
        y = self.norm(x)
        x = x + self.drop(self.attention(y, y, padding))
        if memory is not None:
            x = x + self.drop(self.cross(self.cross_norm(x), memory))
        return x + self.drop(self.ffn(x))


class Transformer(nn.Module):
    """x (B, L, d), padding (B, L), and a memory (B, M, d) if built with `cross` → (B, L, d)."""

    def __init__(self, d: int, heads: int, layers: int, ffn: int, dropout: float,
                 cross: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Layer(d, heads, ffn, dropout, cross) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        # The sum of 2n residual branches starts at the size of one (Radford et al. 2019).
        for layer in self.layers:
            for last in (layer.attention.out, layer.ffn[-1]):
                nn.init.normal_(last.weight, std=d ** -0.5 / math.sqrt(2 * layers))

    def forward(self, x, padding=None, memory=None):
        for layer in self.layers:
            x = layer(x, padding, memory)
        return self.norm(x)
