"""The two encoders (3.1, 4.2), and the whole network: frames and sound segments → `model.Output`.

symbol              here                 shape
X_v^t               frames               (B, T, 3, S, S)
X_a^t               segments             (B, T, n)       samples at 16 kHz; the encoder makes their log-mel patches
"""
import torch
from torch import nn

from common.io import load_published

from .model import SpaceTime
from .backbones.resnet import BasicBlock, Bottleneck, ResNet, resnet152
from .backbones.vggish import VGGish, log_mel
from .backbones.views import normalise


class VisualEncoder(nn.Module):
    """A ResNet without pooling and classifier: (N, 3, S, S), uint8 or float in [0, 1] → (N, channels, h, w)."""

    def __init__(self, config):
        super().__init__()
        block = Bottleneck if config.bottleneck else BasicBlock
        self.body = ResNet(block, config.blocks, config.width, num_classes=None, last_stride=config.last_stride)
        self.channels = self.body.channels
        if config.vision_weights:
            published = load_published(resnet152(), config.vision_weights).state_dict()
            self.body.load_state_dict({k: x for k, x in published.items() if not k.startswith("fc.")})

    def forward(self, frames):
        return self.body.features(normalise(frames).contiguous(memory_format=torch.channels_last))


class AudioEncoder(nn.Module):
    """VGGish's convolutions, or a ResNet of three stages, of the log-mel patch: samples (N, n) → (N, channels, m, n')."""

    def __init__(self, config):
        super().__init__()
        if config.audio == "vggish":
            widths = tuple(config.audio_width * 2**i for i in range(4))
            body = VGGish(widths, hidden=None)
            self.body, self.channels = body.features, body.channels
            if config.audio_weights:
                load_published(self.body, config.audio_weights, prefix="features.")
        else:
            body = ResNet(BasicBlock, (1, 1, 1), config.audio_width, in_channels=1, num_classes=None)
            self.body, self.channels = body, body.channels

    def forward(self, segments):
        patches = log_mel(segments)[:, None]  # (N, 1, frames, 64)
        return self.body.features(patches) if isinstance(self.body, ResNet) else self.body(patches)


class Stmnet(nn.Module):
    """Encoders, memory, localization, classification. Frozen encoders stay in evaluation mode and get no gradient."""

    def __init__(self, config, classes: int):
        super().__init__()
        self.frozen = config.encoders == "frozen"
        self.visual, self.auditory = VisualEncoder(config), AudioEncoder(config)
        self.space_time = SpaceTime(self.visual.channels, self.auditory.channels, classes, config.C, config.depth, K=config.K,
                                    heads=config.heads, ablation=config.memory, phi=config.phi, av_memory=config.av_memory,
                                    similarity=config.similarity, tau=config.tau)
        if self.frozen:
            self.visual.requires_grad_(False)
            self.auditory.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:  # their batch norms' statistics came with them
            self.visual.eval()
            self.auditory.eval()
        return self

    def forward(self, frames, segments):
        """frames (B, T, 3, S, S), segments (B, T, n) → Output with axes (B, T)."""
        B = frames.shape[:2]
        features_v = self.visual(frames.flatten(0, 1)).unflatten(0, B)  # (B, T, channels, h, w)
        features_a = self.auditory(segments.flatten(0, 1)).unflatten(0, B)  # (B, T, channels, m, n')
        return self.space_time(features_v, features_a)
