"""Avkd: the audio-visual correspondence (AVC) model, two students (Figures 1 and 2, sections 3.3 and 3.6 of the paper).

| paper | here | shape |
| --- | --- | --- |
| F_v, visual student | `F_v`, `encode_image` | pictures → (k, c, h, w); c = 2048, h = w = 7 in the paper |
| F_a, acoustic student | `F_a`, `encode_audio` | sounds → (k, c) |
| f_v, f_a, their features | `f_v`, `f_a` | |
| e_v, e_a, the teachers' hints | `e_v`, `e_a` (losses.py, teachers.py) | as f_v, f_a |
| O, localization maps | `localization_map`: the diagonal | (k, h, w) |
"""
import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published

from .backbones.frontend import log_spectrogram
from .backbones.resnet import BasicBlock, ResNet, resnet18
from .backbones.views import normalise


def localization_map(f_v, f_a):
    """The diagonal of O: f_v (n, c, h, w), f_a (n, c) → (n, h, w), the cosine of every position and the sound (3.3)."""
    return torch.einsum("nchw,nc->nhw", F.normalize(f_v.float(), dim=1), F.normalize(f_a.float(), dim=1))


class VisualStudent(nn.Module):
    """F_v: a ResNet without pooling and classifier, then a 1×1 convolution (3.6). (B, 3, H, W) → (B, c, h, w)."""

    def __init__(self, config):
        super().__init__()
        self.body = ResNet(BasicBlock, config.blocks, config.width, num_classes=None, last_stride=config.last_stride)
        self.projection = nn.Conv2d(self.body.channels, config.channels, 1)

    def forward(self, x):
        return self.projection(self.body.features(x))


class AudioStudent(nn.Module):
    """F_a: a ResNet of one-channel pictures, max pooling, a fully connected layer (3.6). (B, 1, F, T) → (B, c)."""

    def __init__(self, config):
        super().__init__()
        self.body = ResNet(BasicBlock, config.blocks, config.width, in_channels=1, num_classes=None)
        self.projection = nn.Linear(self.body.channels, config.channels)

    def forward(self, x):
        return self.projection(self.body.features(x).amax((2, 3)))


class Avkd(nn.Module):
    """Both students. Nothing of the teachers is in here: they are removed at inference (Figure 1)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.F_v, self.F_a = VisualStudent(config), AudioStudent(config)
        if config.vision_weights:
            published = load_published(resnet18(), config.vision_weights).state_dict()
            self.F_v.body.load_state_dict({k: x for k, x in published.items() if not k.startswith("fc.")})

    def encode_image(self, images):
        """(n, 3, H, W) uint8, or float in [0, 1] → f_v (n, c, h, w)."""
        return self.F_v(normalise(images).contiguous(memory_format=torch.channels_last))

    def encode_audio(self, waveforms):
        """(n, samples) in [-1, 1] → f_a (n, c)."""
        c = self.config
        return self.F_a(log_spectrogram(waveforms, c.sample_rate, window=c.window, hop=c.hop)[:, None])

    def forward(self, images, waveforms):
        """k pictures (k, 3, H, W) and their sounds (k, samples) → f_v (k, c, h, w), f_a (k, c)."""
        return self.encode_image(images), self.encode_audio(waveforms)
