"""The backbone and encoder of DETR, with the published key names.

Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020,
https://arxiv.org/abs/2005.12872; weights of facebookresearch/detr. TURN uses the tokens that the
encoder gives; the decoder and the heads are only named in the published file.

B images of (H, W) pixels; (h, w) is the backbone's last map; d channels; n = h·w tokens in rows.
`padding` is True where a pixel or a token is padding.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published

from .resnet import BasicBlock, FrozenBatchNorm, ResNet, resnet50

QUERIES, CLASSES = 100, 92  # of the published decoder and its heads


def sine_positions(padding, d):
    """padding (B, h, w) → positions (B, d, h, w): d/2 channels of y, d/2 of x (their appendix).

    A place is the number of real cells up to it, over the image's own height or width, times 2π;
    sine and cosine of it alternate."""
    real = (~padding).float()
    frequency = 10000.0 ** (-torch.arange(0, d // 2, 2, device=padding.device) / (d // 2))  # (d/4,)
    axes = []
    for axis in (1, 2):
        place = real.cumsum(axis)
        place = place / (place.narrow(axis, -1, 1) + 1e-6) * 2 * math.pi
        angle = place[..., None] * frequency  # (B, h, w, d/4)
        axes.append(torch.stack((angle.sin(), angle.cos()), -1).flatten(3))  # (B, h, w, d/2)
    return torch.cat(axes, -1).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention with the parameter names of torch.nn.MultiheadAttention."""

    def __init__(self, d, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, padding=None):
        """query (B, n, d), key and value (B, m, d), padding (B, m) of the keys → (B, n, d)."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for x, w, b in parts)  # (B, heads, n or m, d/heads)
        is_real = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, m)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, is_real, dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, normalised after each addition."""

    def __init__(self, d, heads, ffn, dropout):
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, positions, padding):
        """x and positions (B, n, d), padding (B, n) → (B, n, d). Values have no positions."""
        y = self.self_attn(x + positions, x + positions, x, padding)
        x = self.norm1(x + self.dropout(y))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm2(x + self.dropout(y))


class Encoder(nn.Module):
    def __init__(self, layers, d, heads, ffn, dropout):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d, heads, ffn, dropout) for _ in range(layers))

    def forward(self, x, positions, padding):
        for layer in self.layers:
            x = layer(x, positions, padding)
        return x


class Detr(nn.Module):
    """A backbone (ResNet without classifier) and a transformer encoder of width d over its map."""

    def __init__(self, backbone, d=256, heads=8, layers=6, ffn=2048, dropout=0.1):
        super().__init__()
        self.d = d
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": backbone})])  # backbone.0.body.…
        self.input_proj = nn.Conv2d(backbone.channels, d, 1)
        self.transformer = nn.ModuleDict({"encoder": Encoder(layers, d, heads, ffn, dropout)})
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, images, padding=None):
        """images (B, 3, H, W) normalised, padding (B, H, W) → tokens (B, n, d), padding (B, h, w).

        Tokens of padded cells have values too, but no other token has attended to them."""
        features = self.backbone[0]["body"].features(images)  # (B, C, h, w)
        small = torch.zeros(len(images), *features.shape[-2:], dtype=torch.bool,
                            device=images.device)
        if padding is not None:
            small = F.interpolate(padding[:, None].float(), small.shape[1:])[:, 0].bool()  # nearest
        positions = sine_positions(small, self.d).flatten(2).transpose(1, 2)  # (B, n, d)
        tokens = self.input_proj(features).flatten(2).transpose(1, 2)  # (B, n, d)
        tokens = self.transformer["encoder"](tokens, positions.to(self.input_proj.weight.dtype),
                                             None if padding is None else small.flatten(1))
        return tokens, small


def narrow_detr(width, d, heads, layers, ffn):
    """The same, small enough to be trained on a laptop; its map has stride 16."""
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), width, num_classes=None, last_stride=1)
    detr = Detr(backbone, d, heads, layers, ffn, dropout=0.0)
    for layer in detr.transformer["encoder"].layers:  # from scratch, post-norm starts best as zero
        nn.init.zeros_(layer.self_attn.out_proj.weight)
        nn.init.zeros_(layer.linear2.weight)
    return detr


def detr_r50(weights=""):
    """DETR-R50 up to its encoder; weights: the published detr-r50-e632da11.pth, or none.

    The file is loaded strictly: its decoder and heads must be there and of the right shapes, and
    are dropped. Raises InputError."""
    detr = Detr(resnet50(num_classes=None, norm=FrozenBatchNorm))
    if weights:
        d = detr.d
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(d, 8, 2048), 6, nn.LayerNorm(d))
        detr.transformer["decoder"] = decoder
        detr.query_embed, detr.class_embed = nn.Embedding(QUERIES, d), nn.Linear(d, CLASSES)
        layers = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, 4)
        detr.bbox_embed = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        load_published(detr, weights, key="model")
        del detr.transformer["decoder"], detr.query_embed, detr.class_embed, detr.bbox_embed
    return detr
