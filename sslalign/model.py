"""Sslalign: two ResNets and two projections (Figure 2, sections 3.2 and 4.1.3 of the paper).

| paper | here | shape |
| --- | --- | --- |
| v, spatial visual feature | `v` | (n, c, h, w); c = 512, h = w = 14 in the paper |
| a, audio feature | `a` | (n, c) |
| p_v, p_a, projection layers | `p_v`, `p_a` | c → projection |
| s_L, s_A, the similarities | `losses.s_L`, `losses.s_A` | (n, m) |
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published

from .backbones.frontend import log_spectrogram
from .backbones.resnet import BasicBlock, ResNet, resnet18
from .backbones.views import normalise


class ImageFeatures(NamedTuple):
    """What a picture is to the losses and to retrieval."""
    mean: torch.Tensor  # (n, c), the mean over xy of v^xy / ||v^xy||: all that Eq. (3) needs of v
    pooled: torch.Tensor  # (n, c), avg(v)
    projected: torch.Tensor  # (n, projection), p_v(avg(v))


class AudioFeatures(NamedTuple):
    """What a sound is to the losses and to retrieval."""
    a: torch.Tensor  # (n, c)
    projected: torch.Tensor  # (n, projection), p_a(a)


def projection(inputs, outputs):
    """SimCLR's projection head (Chen et al. 2020)."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, outputs))


def cosine_map(v, a):
    """The audio-visual correspondence map: v (n, c, h, w), a (n, c) → (n, h, w), the cosine of v^xy and a (Eq. (3))."""
    return torch.einsum("nchw,nc->nhw", F.normalize(v.float(), dim=1), F.normalize(a.float(), dim=1))


class Sslalign(nn.Module):
    """The two encoders f_v and f_a, and the projections."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.visual = ResNet(BasicBlock, config.blocks, config.width, num_classes=None, last_stride=config.last_stride)
        self.audio = ResNet(BasicBlock, config.blocks, config.width, in_channels=1, num_classes=None)
        if config.vision_weights:
            published = load_published(resnet18(), config.vision_weights).state_dict()
            self.visual.load_state_dict({k: x for k, x in published.items() if not k.startswith("fc.")})
        self.p_v = projection(self.visual.channels, config.projection)
        self.p_a = projection(self.audio.channels, config.projection)

    def encode_image(self, images):
        """f_v: (n, 3, H, W) uint8, or float in [0, 1] → v (n, c, h, w)."""
        x = normalise(images).contiguous(memory_format=torch.channels_last)
        return self.visual.features(x)

    def encode_audio(self, waveforms):
        """f_a: (n, samples) in [-1, 1] → a (n, c), the maximum over time and frequency."""
        spectrogram = log_spectrogram(waveforms, self.config.sample_rate, window=self.config.window, hop=self.config.hop)
        return self.audio.features(spectrogram[:, None]).amax((2, 3))

    def image_features(self, v) -> ImageFeatures:
        """v (n, c, h, w) → what the losses need of it."""
        pooled = v.mean((2, 3))
        return ImageFeatures(F.normalize(v.float(), dim=1).mean((2, 3)), pooled, self.p_v(pooled))

    def audio_features(self, a) -> AudioFeatures:
        return AudioFeatures(a, self.p_a(a))

    def forward(self, images, waveforms) -> tuple[ImageFeatures, AudioFeatures]:
        """P positives of B pictures (P, B, 3, H, W) and Q of B sounds (Q, B, samples) → features (P·B, …) and (Q·B, …): one pass
        of each encoder."""
        return self.image_features(self.encode_image(images.flatten(0, 1))), self.audio_features(self.encode_audio(waveforms.flatten(0, 1)))
