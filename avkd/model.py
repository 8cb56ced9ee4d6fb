"""The audio-visual correspondence (AVC) model, two students: sections 3.3 and 3.6, Figures 1 and 2.

Paper: Yaghoubi, Kelm, Gerkmann, Frintrop, "Acoustic and Visual Knowledge Distillation for
Contrastive Audio-Visual Localization", ICMI 2023, https://doi.org/10.1145/3577190.3614144
Authors' code, Apache-2.0, commit c84e126: https://github.com/Ehsan-Yaghoubi/
Acoustic-and-Visual-Knowledge-Distillation-for-Contrastive-Audio-Visual-Localization

symbol    here                     shape
F_v       F_v                                      visual student
F_a       F_a                                      acoustic student
f_v       encode_image(images)     (k, c, h, w)    2048 × 7 × 7 in the paper
f_a       encode_audio(waveforms)  (k, c)
o_ii      localization_map         (k, h, w)       the diagonal of O
e_v, e_a  see losses.py            as f_v, f_a     the teachers' hints

k samples of a batch, c channels, h × w positions.

>>> from avkd.config import TINY
>>> f_v, f_a = Avkd(TINY)(torch.rand(2, 3, 64, 64), torch.rand(2, 8000))
>>> f_v.shape, f_a.shape, localization_map(f_v, f_a).shape
(torch.Size([2, 128, 8, 8]), torch.Size([2, 128]), torch.Size([2, 8, 8]))
"""
import torch
import torch.nn.functional as F
from torch import nn

from .backbones.frontend import log_spectrogram
from .backbones.resnet import BasicBlock, Bottleneck, ResNet
from .backbones.views import normalise


def localization_map(f_v, f_a):
    """The cosine of each position of an image and its audio, section 3.3.

        o_ii^xy = f_v^xy · f_a / (‖f_v^xy‖ ‖f_a‖)

    f_v: (k, c, h, w), f_a: (k, c). Returns (k, h, w)."""
    f_v, f_a = F.normalize(f_v.float(), dim=1), F.normalize(f_a.float(), dim=1)
    return torch.einsum("kchw,kc->khw", f_v, f_a)


def resnet(config, **options):
    """The ResNet of a student's settings; options: those of ResNet."""
    block = Bottleneck if config.bottleneck else BasicBlock
    return ResNet(block, config.blocks, config.width, **options)


class VisualStudent(nn.Module):
    """F_v (3.6): a ResNet without pooling and classifier, then a 1×1 convolution.

    (k, 3, H, W) → (k, c, h, w)."""

    def __init__(self, config):
        super().__init__()
        self.body = resnet(config, num_classes=None, last_stride=config.last_stride)
        self.projection = nn.Conv2d(self.body.channels, config.channels, 1)

    def forward(self, x):
        return self.projection(self.body.features(x))


class AudioStudent(nn.Module):
    """F_a (3.6): a ResNet for images of one channel, max pooling, a fully connected layer.

    Log spectrograms (k, 1, frequencies, frames) → (k, c)."""

    def __init__(self, config):
        super().__init__()
        self.body = resnet(config, in_channels=1, num_classes=None)
        self.projection = nn.Linear(self.body.channels, config.channels)

    def forward(self, x):
        return self.projection(self.body.features(x).amax((2, 3)))


class Avkd(nn.Module):
    """Both students. The teachers are not part of it: they are removed at inference (Figure 1)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.F_v, self.F_a = VisualStudent(config), AudioStudent(config)
        self.init_as_released()

    def init_as_released(self):
        """As the authors' code: convolutions are Kaiming normal, of which ResNet takes care."""
        for module in self.F_a.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)
        nn.init.kaiming_normal_(self.F_v.projection.weight, mode="fan_out", nonlinearity="relu")
        nn.init.trunc_normal_(self.F_a.projection.weight, std=0.01)

    def start_vision(self, weights: dict):
        """Start F_v from a classifier of images, as the authors' code from ImageNet's ResNet-18."""
        self.F_v.body.load_state_dict({name: x for name, x in weights.items()
                                       if not name.startswith("fc.")})

    def encode_image(self, images):
        """f_v: (k, 3, H, W) uint8, or float in [0, 1] → (k, c, h, w)."""
        return self.F_v(normalise(images).contiguous(memory_format=torch.channels_last))

    def encode_audio(self, waveforms):
        """f_a: (k, samples) in [-1, 1] → (k, c)."""
        c = self.config
        x = log_spectrogram(waveforms, c.sample_rate, window=c.window, hop=c.hop)
        return self.F_a(x[:, None])

    def forward(self, images, waveforms):
        """images (k, 3, H, W), waveforms (k, samples) → f_v (k, c, h, w), f_a (k, c)."""
        return self.encode_image(images), self.encode_audio(waveforms)
