"""The two encoders up to their last maps (3.1, 4.2): ResNet-152 and VGGish, or small ResNets.

N steps, S × S pixels, samples at 16 kHz, Dᵥ and Dₐ channels of the maps.
"""
import torch
from torch import nn

from common.io import load_published

from .resnet import BasicBlock, Bottleneck, ResNet, resnet152
from .vggish import VGGish, log_mel
from .views import normalise


class VisualEncoder(nn.Module):
    """A ResNet up to its last map: (N, 3, S, S), uint8 or float in [0, 1] → (N, Dᵥ, h, w)."""

    def __init__(self, config):
        super().__init__()
        block = Bottleneck if config.bottleneck else BasicBlock
        self.body = ResNet(block, config.blocks, config.width, num_classes=None,
                           last_stride=config.last_stride)
        self.channels = self.body.channels
        if config.vision_weights:
            published = load_published(resnet152(), config.vision_weights).state_dict()
            self.body.load_state_dict({name: x for name, x in published.items()
                                       if not name.startswith("fc.")})

    def forward(self, frames):
        x = normalise(frames).contiguous(memory_format=torch.channels_last)
        return self.body.features(x)


class AudioEncoder(nn.Module):
    """VGGish's convolutions or a small ResNet over the log-mel: (N, samples) → (N, Dₐ, m, n)."""

    def __init__(self, config):
        super().__init__()
        if config.audio == "vggish":
            vggish = VGGish(tuple(config.audio_width * 2**i for i in range(4)), hidden=None)
            self.body, self.channels = vggish.features, vggish.channels
            if config.audio_weights:
                load_published(self.body, config.audio_weights, prefix="features.")
        else:
            self.body = ResNet(BasicBlock, (1, 1, 1), config.audio_width, in_channels=1,
                               num_classes=None)
            self.channels = self.body.channels

    def forward(self, segments):
        patches = log_mel(segments)[:, None]  # (N, 1, frames, 64)
        return self.body.features(patches) if isinstance(self.body, ResNet) else self.body(patches)
