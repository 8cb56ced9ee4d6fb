"""DETR (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020) with the published key names.

B pictures, (H, W) pixels, (h, w) = the backbone's last map, d channels, Q queries. Masks are True on padding.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .resnet import FrozenBatchNorm, resnet50


def pad_pictures(pictures):
    """A list of (3, h, w), of any sizes → images (B, 3, H, W), mask (B, H, W) True on padding.

    Pictures are at the top left; zeros, the mean colour of normalised pictures, to the right and below.
    """
    height, width = (max(p.shape[side] for p in pictures) for side in (1, 2))
    images = torch.stack([F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pictures])
    mask = torch.ones(len(pictures), height, width, dtype=torch.bool, device=images.device)
    for row, p in zip(mask, pictures):
        row[:p.shape[1], :p.shape[2]] = False
    return images, mask


def sine_positions(mask, d):
    """mask (B, h, w) → positions (B, d, h, w): d/2 channels of y, then d/2 of x, sine and cosine in turn (their appendix).

    A cell's place is the number of real cells up to it, over the picture's own height or width, times 2π.
    """
    real = (~mask).float()
    frequency = 10000.0 ** (-torch.arange(0, d // 2, 2, device=mask.device) / (d // 2))  # (d/4,)
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

    def forward(self, query, key, value, mask=None, weights=False):
        """query (B, n, d), key and value (B, m, d), mask (B, m) True where a key is padding → (B, n, d).

        weights: also give the attention (B, n, m), the mean over the heads, before dropout.
        """
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x, w, b in parts)  # (B, heads, n, ·)
        seen = None if mask is None else ~mask[:, None, None]  # (B, 1, 1, m)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, seen, dropout)
        x = self.out_proj(x.transpose(1, 2).flatten(2))
        if not weights:
            return x
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, n, m)
        if mask is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        return x, scores.softmax(-1).mean(1)


class Layer(nn.Module):
    """What both kinds of layer have: self-attention and a feed-forward network, normalised after each addition."""

    def __init__(self, d, heads, ffn, dropout):
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x):
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class EncoderLayer(Layer):
    def forward(self, x, pos, mask):
        """tokens x and their positions (B, n, d), mask (B, n) → (B, n, d). Positions reach queries and keys only."""
        x = self.norm1(x + self.dropout(self.self_attn(x + pos, x + pos, x, mask)))
        return self.norm2(x + self.feed_forward(x))


class DecoderLayer(Layer):
    def __init__(self, d, heads, ffn, dropout):
        super().__init__(d, heads, ffn, dropout)
        self.multihead_attn = Attention(d, heads, dropout)
        self.norm3 = nn.LayerNorm(d)

    def forward(self, x, queries, memory, pos, mask, weights):
        """x and queries (B, Q, d), memory and pos (B, n, d) → x (B, Q, d), attention (B, Q, n) or None."""
        x = self.norm1(x + self.dropout(self.self_attn(x + queries, x + queries, x)))
        found = self.multihead_attn(x + queries, memory + pos, memory, mask, weights)
        found, attention = found if weights else (found, None)
        x = self.norm2(x + self.dropout(found))
        return self.norm3(x + self.feed_forward(x)), attention


class Encoder(nn.Module):
    def __init__(self, layers, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers))

    def forward(self, x, pos, mask):
        for layer in self.layers:
            x = layer(x, pos, mask)
        return x


class Decoder(nn.Module):
    def __init__(self, layers, d, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d, *sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(d)

    def forward(self, queries, memory, pos, mask):
        """→ every layer's output, normalised (layers, B, Q, d), and the last layer's attention (B, Q, n)."""
        x, outputs = torch.zeros_like(queries), []
        for layer in self.layers:
            x, attention = layer(x, queries, memory, pos, mask, weights=layer is self.layers[-1])
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
    """A backbone (ResNet without classifier) and a transformer of width d over its last map.

    decoder_layers=0 leaves an encoder alone: only `encode` and `encode_map` can be called then.
    """

    def __init__(self, backbone, d=256, heads=8, encoder_layers=6, decoder_layers=6, ffn=2048, dropout=0.1,
                 queries=100, num_classes=91):
        super().__init__()
        self.d = d
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": backbone})])  # the published names: backbone.0.body.…
        self.input_proj = nn.Conv2d(backbone.channels, d, 1)
        self.transformer = nn.ModuleDict({"encoder": Encoder(encoder_layers, d, heads, ffn, dropout)})
        if decoder_layers:
            self.transformer["decoder"] = Decoder(decoder_layers, d, heads, ffn, dropout)
            self.query_embed = nn.Embedding(queries, d)
            self.class_embed = nn.Linear(d, num_classes + 1)  # the last class is "no object"
            self.bbox_embed = BoxHead(d)
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode_map(self, images, mask=None):
        """images (B, 3, H, W), mask (B, H, W) → features (B, C, h, w), tokens (B, h·w, d), positions (B, h·w, d),
        mask of the map (B, h, w). What is computed at padded cells is there, but no token has attended to them."""
        features = self.backbone[0]["body"].features(images)
        size = features.shape[-2:]
        small = torch.zeros(len(images), *size, dtype=torch.bool, device=images.device)
        if mask is not None:
            small = F.interpolate(mask[:, None].float(), size)[:, 0].bool()  # nearest
        pos = sine_positions(small, self.d).flatten(2).transpose(1, 2).to(self.input_proj.weight.dtype)  # (B, h·w, d)
        tokens = self.input_proj(features).flatten(2).transpose(1, 2)  # (B, h·w, d)
        tokens = self.transformer["encoder"](tokens, pos, None if mask is None else small.flatten(1))
        return features, tokens, pos, small

    def encode(self, images, mask=None):
        """images (B, 3, H, W) normalised, mask (B, H, W) → tokens (B, h·w, d) in rows, mask of the map (B, h, w)."""
        _, tokens, _, small = self.encode_map(images, mask)
        return tokens, small

    def forward(self, images, mask=None):
        """images (B, 3, H, W) normalised, mask (B, H, W) True on padding, which a picture must not consist of →

        pred_logits (B, Q, classes + 1), pred_boxes (B, Q, 4) as cx, cy, w, h in 0..1 of the padded picture,
        memory (B, d, h, w), features (B, C, h, w), attention (B, Q, h, w) of the last decoder layer, mask (B, h, w),
        hs (layers, B, Q, d), the decoder's layers, for losses on each of them.
        """
        features, tokens, pos, small = self.encode_map(images, mask)
        size = features.shape[-2:]
        queries = self.query_embed.weight.expand(len(images), -1, -1)  # (B, Q, d)
        hs, attention = self.transformer["decoder"](queries, tokens, pos, None if mask is None else small.flatten(1))
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
