"""Two encoders, two projections and the localization map: sections 3.1, 3.2 and 4.1.3, Figure 2.

Paper: Senocak et al., "Aligning Sight and Sound", TPAMI 2025, https://arxiv.org/abs/2407.13676
Authors' code, commit e7ae3c5: https://github.com/kaistmm/SSLalignment

symbol      here                   shape
f_v, f_a    visual, audio                           the encoders
v           encode_image(images)   (n, c, h, w)     spatial visual feature: 512 × 14 × 14 of 224²
a           encode_audio(…)        (n, c)           audio feature
v̄           ImageFeatures.mean     (n, c)           mean over xy of v^xy/‖v^xy‖, see losses.s_L
avg(v)      ImageFeatures.pooled   (n, c)
p_v, p_a    p_v, p_a               c → d            projections; their outputs are `projected`

B samples of a batch, P images and Q audio clips of each (section 3.3: 3 and 3), n of any of them.

>>> from sslalign.config import TINY
>>> model = Sslalign(TINY)
>>> images, waveforms = torch.rand(3, 2, 3, 64, 64), torch.rand(3, 2, 8000)  # P, B and Q, B
>>> image, audio = model(images, waveforms)
>>> image.mean.shape, audio.a.shape, audio.projected.shape
(torch.Size([3, 2, 64]), torch.Size([3, 2, 64]), torch.Size([3, 2, 128]))
>>> v = model.encode_image(images[0])
>>> cosine_map(v, audio.a[0]).shape
torch.Size([2, 8, 8])
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
    """What the losses and retrieval need of an image."""
    mean: torch.Tensor  # (…, c), v̄
    pooled: torch.Tensor  # (…, c), avg(v)
    projected: torch.Tensor  # (…, d), p_v(avg(v))


class AudioFeatures(NamedTuple):
    """What they need of an audio clip."""
    a: torch.Tensor  # (…, c)
    projected: torch.Tensor  # (…, d), p_a(a)


def projection(inputs, outputs):
    """SimCLR's projection head (Chen et al. 2020), (…, inputs) → (…, outputs)."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, outputs))


def cosine_map(v, a):
    """The audio-visual correspondence map, the cosines that Eq. (3) sums up.

        map^xy = v^xy · a / (‖v^xy‖ ‖a‖)

    v: (n, c, h, w), a: (n, c). Returns (n, h, w)."""
    v, a = F.normalize(v.float(), dim=1), F.normalize(a.float(), dim=1)
    return torch.einsum("nchw,nc->nhw", v, a)


class Sslalign(nn.Module):
    """The encoders f_v and f_a, and the projections p_v and p_a."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.visual, self.audio = (
            ResNet(BasicBlock, config.blocks, config.width, channels, None, last_stride=stride)
            for channels, stride in ((3, config.last_stride), (1, config.audio_stride)))
        if config.vision_weights:
            published = load_published(resnet18(), config.vision_weights).state_dict()
            self.visual.load_state_dict({name: x for name, x in published.items()
                                         if not name.startswith("fc.")})
        self.p_v = projection(self.visual.channels, config.projection)
        self.p_a = projection(self.audio.channels, config.projection)

    def encode_image(self, images):
        """v = f_v(image): (n, 3, H, W) uint8, or float in [0, 1] → (n, c, h, w)."""
        return self.visual.features(normalise(images).contiguous(memory_format=torch.channels_last))

    def encode_audio(self, waveforms):
        """a = f_a(audio), the maximum over time and frequency: (n, samples) in [-1, 1] → (n, c)."""
        c = self.config
        x = log_spectrogram(waveforms, c.sample_rate, window=c.window, hop=c.hop)
        return self.audio.features(x[:, None]).amax((2, 3))

    def image_features(self, v) -> ImageFeatures:
        """v̄ of Eq. (3), avg(v) and p_v(avg(v)) of Eq. (4), of v (n, c, h, w)."""
        pooled = v.mean((2, 3))  # (n, c)
        return ImageFeatures(F.normalize(v.float(), dim=1).mean((2, 3)), pooled, self.p_v(pooled))

    def audio_features(self, a) -> AudioFeatures:
        """a and p_a(a), of a (n, c)."""
        return AudioFeatures(a, self.p_a(a))

    def forward(self, images, waveforms) -> tuple[ImageFeatures, AudioFeatures]:
        """images (P, B, 3, H, W), waveforms (Q, B, samples) → features (P, B, …), (Q, B, …)."""
        image = self.image_features(self.encode_image(images.flatten(0, 1)))
        audio = self.audio_features(self.encode_audio(waveforms.flatten(0, 1)))
        return (ImageFeatures(*(x.unflatten(0, images.shape[:2]) for x in image)),
                AudioFeatures(*(x.unflatten(0, waveforms.shape[:2]) for x in audio)))
