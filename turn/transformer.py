"""Transformer encoder and decoder, written out (Vaswani et al. 2017; normalised before each part: Xiong et al. 2020).

One class serves Θ_v, Θ_t and Θ_a of Eqs. (1) and (3), and with a memory Ω_t and Ω_a of Eq. (5). All of them are bidirectional.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def sine(length: int, d: int, device=None) -> torch.Tensor:
    """Positions (length, d): sines in the first half of the channels, cosines in the second."""
    frequency = 10000 ** (-torch.arange(d // 2, device=device) / (d // 2))
    angle = torch.arange(length, device=device)[:, None] * frequency  # (L, d/2)
    return torch.cat([angle.sin(), angle.cos()], -1)


def masked_mean(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(B, L, d), mask (B, L) True on padding → (B, d): the mean over what is not padding."""
    if mask is None:
        return x.mean(1)
    real = (~mask).unsqueeze(-1).to(x.dtype)
    return (x * real).sum(1) / real.sum(1).clamp(min=1)


class Attention(nn.Module):
    """Multi-head attention of x (B, L, d) to memory (B, M, d); mask (B, M) True where memory is padding."""

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)

    def forward(self, x, memory, mask=None):
        B, L, d = x.shape
        q = self.q(x).view(B, L, self.heads, -1).transpose(1, 2)  # (B, H, L, d/H)
        k, v = self.kv(memory).view(B, memory.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, M, d/H)
        mask = None if mask is None else ~mask[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(B, L, d))


class Layer(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, dropout: float, cross: bool):
        super().__init__()
        self.attention, self.norm = Attention(d, heads, dropout), nn.LayerNorm(d)
        if cross:
            self.cross, self.cross_norm = Attention(d, heads, dropout), nn.LayerNorm(d)
        self.ffn = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, ffn * d), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn * d, d))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, mask, memory):
        y = self.norm(x)
        x = x + self.drop(self.attention(y, y, mask))
        if memory is not None:
            x = x + self.drop(self.cross(self.cross_norm(x), memory))
        return x + self.drop(self.ffn(x))


class Transformer(nn.Module):
    """x (B, L, d), mask (B, L) True on padding, memory (B, M, d) if it was made with `cross` → (B, L, d)."""

    def __init__(self, d: int, heads: int, layers: int, ffn: int, dropout: float, cross: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Layer(d, heads, ffn, dropout, cross) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        for layer in self.layers:  # the sum of 2n residual branches starts at the size of one (Radford et al. 2019)
            for last in (layer.attention.out, layer.ffn[-1]):
                nn.init.normal_(last.weight, std=d ** -0.5 / math.sqrt(2 * layers))

    def forward(self, x, mask=None, memory=None):
        for layer in self.layers:
            x = layer(x, mask, memory)
        return self.norm(x)
