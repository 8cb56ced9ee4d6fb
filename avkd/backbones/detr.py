"""DETR with the published key names.

Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020,
https://arxiv.org/abs/2005.12872; weights of https://github.com/facebookresearch/detr.

B images of (H, W) pixels; (h, w) is the backbone's last map, n = h·w tokens in rows, d channels,
Q queries. `padding` is True where a pixel or a token is padding.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .resnet import FrozenBatchNorm, resnet50


def square_view(image: np.ndarray, size: int) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, size, size) in [0, 1], squeezed as DETR sees it in avkd: bilinear."""
    view = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255


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

    def forward(self, query, key, value, padding=None, weights=False):
        """query (B, m, d), key and value (B, n, d), padding (B, n) of the keys → (B, m, d).

        weights: also return the attention (B, m, n), the mean over the heads, before dropout."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for x, w, b in parts)  # (B, heads, m or n, d/heads)
        is_real = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, n)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, is_real, dropout)
        x = self.out_proj(x.transpose(1, 2).flatten(2))
        if not weights:
            return x
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, m, n)
        if padding is not None:
            scores = scores.masked_fill(~is_real, -math.inf)
        return x, scores.softmax(-1).mean(1)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, normalised after each addition."""

    def __init__(self, d, heads, ffn, dropout):
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x):
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))

    def forward(self, x, positions, padding):
        """x and positions (B, n, d), padding (B, n) → (B, n, d). Values have no positions."""
        y = self.self_attn(x + positions, x + positions, x, padding)
        x = self.norm1(x + self.dropout(y))
        return self.norm2(x + self.feed_forward(x))


class DecoderLayer(EncoderLayer):
    """The same with cross-attention to the encoder's output between the two."""

    def __init__(self, d, heads, ffn, dropout):
        super().__init__(d, heads, ffn, dropout)
        self.multihead_attn = Attention(d, heads, dropout)
        self.norm3 = nn.LayerNorm(d)

    def forward(self, x, queries, memory, positions, padding, weights):
        """x, queries (B, Q, d), memory, positions (B, n, d) → (B, Q, d), attention (B, Q, n).

        Without `weights` the attention is None."""
        y = self.self_attn(x + queries, x + queries, x)
        x = self.norm1(x + self.dropout(y))
        y = self.multihead_attn(x + queries, memory + positions, memory, padding, weights)
        y, attention = y if weights else (y, None)
        x = self.norm2(x + self.dropout(y))
        return self.norm3(x + self.feed_forward(x)), attention


class Encoder(nn.Module):
    def __init__(self, layers, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers))

    def forward(self, x, positions, padding):
        for layer in self.layers:
            x = layer(x, positions, padding)
        return x


class Decoder(nn.Module):
    def __init__(self, layers, d, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d, *sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, queries, memory, positions, padding):
        """The normalised outputs of all layers (layers, B, Q, d), the last one's attention."""
        x, outputs = torch.zeros_like(queries), []
        for layer in self.layers:
            is_last = layer is self.layers[-1]
            x, attention = layer(x, queries, memory, positions, padding, weights=is_last)
            outputs.append(self.norm(x))
        return torch.stack(outputs), attention


class BoxHead(nn.Module):
    """Three linear layers with ReLU between: (…, d) → (…, 4)."""

    def __init__(self, d):
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, 4)))

    def forward(self, x):
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class Detr(nn.Module):
    """A backbone (ResNet without classifier), a transformer of width d over its map, two heads."""

    def __init__(self, backbone, d=256, heads=8, encoder_layers=6, decoder_layers=6, ffn=2048,
                 dropout=0.1, queries=100, num_classes=91):
        super().__init__()
        self.d = d
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": backbone})])  # backbone.0.body.…
        self.input_proj = nn.Conv2d(backbone.channels, d, 1)
        self.transformer = nn.ModuleDict({
            "encoder": Encoder(encoder_layers, d, heads, ffn, dropout),
            "decoder": Decoder(decoder_layers, d, heads, ffn, dropout)})
        self.query_embed = nn.Embedding(queries, d)
        self.class_embed = nn.Linear(d, num_classes + 1)  # the last class is "no object"
        self.bbox_embed = BoxHead(d)
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, images, mask=None):
        """images (B, 3, H, W) normalised, mask (B, H, W) True on padding → a dict of

        pred_logits (B, Q, classes + 1), pred_boxes (B, Q, 4) as cx, cy, w, h in 0..1 of the canvas,
        features (B, C, h, w), the backbone's map, memory (B, d, h, w), the encoder's, attention
        (B, Q, h, w) of the last decoder layer, hs (layers, B, Q, d), outputs of the decoder, and
        mask (B, h, w). What is computed at padded cells is there, but no token attends to them."""
        features = self.backbone[0]["body"].features(images)
        size = features.shape[-2:]
        small = torch.zeros(len(images), *size, dtype=torch.bool, device=images.device)
        if mask is not None:
            small = F.interpolate(mask[:, None].float(), size)[:, 0].bool()  # nearest
        padding = None if mask is None else small.flatten(1)  # (B, n)
        positions = sine_positions(small, self.d).flatten(2).transpose(1, 2)  # (B, n, d)
        positions = positions.to(self.input_proj.weight.dtype)
        tokens = self.input_proj(features).flatten(2).transpose(1, 2)  # (B, n, d)
        tokens = self.transformer["encoder"](tokens, positions, padding)
        queries = self.query_embed.weight.expand(len(images), -1, -1)  # (B, Q, d)
        hs, attention = self.transformer["decoder"](queries, tokens, positions, padding)
        return {
            "pred_logits": self.class_embed(hs[-1]),
            "pred_boxes": self.bbox_embed(hs[-1]).sigmoid(),
            "memory": tokens.transpose(1, 2).unflatten(2, size),
            "features": features,
            "attention": attention.unflatten(2, size),
            "mask": small,
            "hs": hs,
        }


def detr_r50(num_classes=91):
    """detr-r50-e632da11.pth, under its key "model"; 41.5 M parameters."""
    return Detr(resnet50(num_classes=None, norm=FrozenBatchNorm), num_classes=num_classes)
